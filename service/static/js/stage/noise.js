/**
 * What is shown before the first preview: coarse noise, as the latent is before its first step.
 */

import { h } from "../lib/dom.js";

const CELLS = 32;
const FRAME_MS = 140;
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

/** A canvas of moving noise; it stops by itself once it has left the page. */
export function noise() {
  const canvas = h("canvas", { width: CELLS, height: CELLS, className: "noise", "aria-hidden": "true" });
  const paint = canvas.getContext("2d");
  let last = -FRAME_MS;
  const frame = (now) => {
    if (now - last >= FRAME_MS) (draw(paint), (last = now));
    if (canvas.isConnected && !STILL.matches) requestAnimationFrame(frame);
  };
  draw(paint);
  requestAnimationFrame(frame);
  return canvas;
}

function draw(paint) {
  const pixels = paint.createImageData(CELLS, CELLS);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const light = 128 + 46 * gauss();
    pixels.data.set([light + 20 * gauss(), light + 14 * gauss(), light + 20 * gauss(), 255], i);
  }
  paint.putImageData(pixels, 0, 0);
}

// The sum of three uniform numbers is near enough to normal for the eye.
const gauss = () => (Math.random() + Math.random() + Math.random() - 1.5) * 2;
