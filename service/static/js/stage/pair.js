/**
 * Two pictures of the gallery: one over the other where they have one shape, else side by side.
 */

import { button, h, pictureBox } from "../lib/dom.js";
import { nameOf } from "../form/tabs.js";
import { compare } from "./compare.js";

/** The first pictures of two jobs; `onClose()` leaves. */
export function pairView(first, second, onClose) {
  const [a, b] = [first.images[0], second.images[0]];
  const close = button("Close", { className: "button", onclick: onClose }, "clear");
  const words = (job) =>
    h("figcaption", { className: "clamped" }, `${job.request.prompt || nameOf(job.kind)} · seed ${job.images[0].seed}`);
  if (a.width * b.height === b.width * a.height) {
    const { frame, hold } = compare(a.url, b.url, second.request.prompt ?? "");
    const place = h("div", { className: "place" }, pictureBox(b, frame));
    return h(
      "figure",
      { className: "frame pair" },
      place,
      words(first),
      words(second),
      h("div", { className: "actions" }, hold, close),
    );
  }
  const tiles = h(
    "div",
    { className: "place tiles" },
    [a, b].map((image) => pictureBox(image, h("img", { src: image.url, alt: "", className: "picture" }))),
  );
  tiles.style.setProperty("--columns", 2);
  tiles.style.setProperty("--rows", 1);
  return h(
    "figure",
    { className: "frame pair" },
    tiles,
    words(first),
    words(second),
    h("div", { className: "actions" }, close),
  );
}
