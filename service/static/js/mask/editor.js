/**
 * The stage while a picture is prepared for repainting: the picture, the mask over it, and the mask's tools.
 */

import { chooseFile, pictureCanvas } from "../form/picture.js";
import { button, h, icon, openSheet, pictureBox, tell, tool } from "../lib/dom.js";
import { zoomable } from "../stage/viewer.js";
import { Mask } from "./mask.js";

const TOOLS = [
  ["brush", "Brush (B)"],
  ["eraser", "Eraser (E)"],
  ["rectangle", "Rectangle (R)"],
];
const HALO = "#8b5cf6";
const SIDES = { Left: 25, Top: 25, Right: 75, Bottom: 75 }; // of the rectangle by numbers, in percent
let shown = new AbortController(); // of the editor that was made last

/**
 * Picture and mask with their toolbar; the mask is the picture's (`picture.mask`) and survives leaving the stage.
 * `draw.onChange()` is told of each change, `draw.feather()` says how far the edge blends.
 */
export function maskEditor(picture, draw) {
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  const mask = maskOf(picture, draw);
  const halo = h("canvas", { className: "halo", width: picture.width, height: picture.height, "aria-hidden": "true" });
  const box = pictureBox(picture, pictureCanvas(picture), halo, mask.canvas, mask.ring);
  const place = h("div", { className: "place" }, box);
  // The mask takes presses of its own: what moves the picture is the middle button, or two fingers.
  const drag = (event) => event.pointerType !== "touch" && (event.buttons & 4) !== 0;
  const { view, buttons } = zoomable(place, box, { width: picture.width, drag });
  place.addEventListener("keydown", (event) => "+=-01".includes(event.key) && view.key(event.key));
  const showHalo = () => drawHalo(halo, mask.canvas, draw.feather());
  mask.addEventListener("change", showHalo, { signal });
  document.addEventListener("feather", showHalo, { signal });
  mask.addEventListener("cursor", () => keepInView(mask.ring, place, view), { signal });
  showHalo();
  const caption = h("figcaption", {}, "Draw over what should be repainted. Nothing else changes, to the last bit.");
  return h("figure", { className: "frame editor" }, toolbar(mask, buttons, signal), place, caption);
}

/** Moves a zoomed picture so that the brush, which keys move, is seen. */
function keepInView(ring, place, view) {
  const [inner, outer] = [ring, place].map((node) => node.getBoundingClientRect());
  const past = (low, high) => Math.max(0, outer[low] - inner[low]) - Math.max(0, inner[high] - outer[high]);
  view.move(past("left", "right"), past("top", "bottom"));
}

/** The picture's mask, made once. */
export function maskOf(picture, draw) {
  if (picture.mask) return picture.mask;
  picture.mask = new Mask(picture.width, picture.height);
  picture.mask.addEventListener("change", () => draw.onChange());
  return picture.mask;
}

/** How far the edge may blend: the mask in one colour, which mask.css blurs; not every canvas has a filter. */
function drawHalo(halo, mask, feather) {
  const paint = halo.getContext("2d");
  paint.globalCompositeOperation = "source-over";
  paint.clearRect(0, 0, halo.width, halo.height);
  if (!feather) return;
  halo.style.setProperty("--feather", feather);
  halo.style.color = HALO;
  paint.drawImage(mask, 0, 0);
  paint.globalCompositeOperation = "source-in";
  paint.fillStyle = HALO;
  paint.fillRect(0, 0, halo.width, halo.height);
}

function toolbar(mask, zoom, signal) {
  const undo = tool("Undo", () => mask.undo(), "undo", "Ctrl Z");
  const redo = tool("Redo", () => mask.redo(), "redo", "Ctrl Y");
  const clear = tool("Clear", () => mask.clear(), "clear");
  const invert = tool("Invert", () => mask.invert(), "invert");
  const file = tool("From file", () => chooseFile((chosen) => addFile(mask, chosen)), "picture", "White is repainted");
  const numbers = tool(
    "By numbers",
    () => askNumbers(mask),
    "rectangle",
    "A rectangle by its sides, without a pointer",
  );
  const refresh = () => {
    undo.disabled = clear.disabled = !mask.undoable;
    redo.disabled = !mask.redoable;
  };
  mask.addEventListener("change", refresh, { signal });
  refresh();
  return h(
    "div",
    { className: "toolbar", role: "toolbar", "aria-label": "Mask tools", "aria-controls": "mask" },
    toolChoice(mask, signal),
    brushSize(mask, signal),
    h("div", { className: "group" }, undo, redo, invert, clear, file, numbers, zoom),
  );
}

async function addFile(mask, file) {
  try {
    await mask.addFile(file);
  } catch (error) {
    tell(error.message);
  }
}

/** A rectangle without any drawing. */
function askNumbers(mask) {
  const inputs = Object.entries(SIDES).map(([side, value]) =>
    h("input", { type: "number", id: `side-${side}`, min: 0, max: 100, value, required: true }),
  );
  const rows = Object.keys(SIDES).map((side, i) =>
    h(
      "div",
      { className: "field" },
      h("label", { htmlFor: inputs[i].id }, side, h("span", { className: "unit" }, " %")),
      inputs[i],
    ),
  );
  const form = h(
    "form",
    { method: "dialog" },
    h("div", { className: "grid" }, rows),
    button("Add rectangle", { type: "submit", className: "button primary" }),
  );
  form.addEventListener("submit", () => mask.addRectangle(...inputs.map((input) => Number(input.value))));
  openSheet("A rectangle of the mask", form);
}

function toolChoice(mask, signal) {
  const choices = TOOLS.map(([name, label]) => {
    const onchange = () => (mask.tool = name);
    const input = h("input", { type: "radio", name: "tool", value: name, checked: mask.tool === name, onchange });
    return h("label", { className: "choice", title: label }, input, icon(name), h("span", {}, label.split(" ")[0]));
  });
  const node = h("div", { className: "group segmented", role: "radiogroup", "aria-label": "Tool" }, choices);
  const check = () => {
    for (const input of node.querySelectorAll("input")) input.checked = input.value === mask.tool;
  };
  mask.addEventListener("tool", check, { signal });
  return node;
}

function brushSize(mask, signal) {
  const [min, max] = mask.sizes;
  const input = h("input", { type: "range", id: "brush-size", min, max, value: mask.size, title: "[ and ]" });
  input.addEventListener("input", () => (mask.size = Number(input.value)));
  mask.addEventListener("tool", () => (input.value = mask.size), { signal });
  return h("div", { className: "group size" }, h("label", { htmlFor: "brush-size" }, "Size"), input);
}
