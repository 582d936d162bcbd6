/**
 * The stage while a request is prepared: the picture with the mask's tools over it, or the picture alone.
 */

import { button, h, icon, pictureBox } from "./dom.js";
import { Mask } from "./mask.js";
import { pictureCanvas } from "./picture.js";

const TOOLS = [
  ["brush", "Brush"],
  ["eraser", "Eraser"],
  ["rectangle", "Rectangle"],
];

/** The picture as it is, with what will become of it. */
export function pictureView(picture, caption) {
  return h("figure", { className: "frame" }, pictureBox(picture, pictureCanvas(picture)), h("figcaption", {}, caption));
}

/** Picture and mask with their toolbar; the mask is the picture's (`picture.mask`) and survives leaving the stage. */
export function maskEditor(picture) {
  picture.mask ??= new Mask(picture.width, picture.height);
  const { mask } = picture;
  const surface = pictureBox(picture, pictureCanvas(picture), mask.canvas, mask.ring);
  const caption = h("figcaption", {}, "Draw over what should be repainted. Nothing else changes, to the last bit.");
  return h("figure", { className: "frame editor" }, toolbar(mask), surface, caption);
}

function toolbar(mask) {
  const undo = button("Undo", { className: "button small", onclick: () => mask.undo() }, "undo");
  const clear = button("Clear", { className: "button small", onclick: () => mask.clear() }, "clear");
  const invert = button("Invert", { className: "button small", onclick: () => mask.invert() }, "invert");
  const refresh = () => (undo.disabled = clear.disabled = !mask.undoable);
  mask.addEventListener("change", refresh);
  refresh();
  return h(
    "div",
    { className: "toolbar", role: "toolbar", "aria-label": "Mask tools", "aria-controls": "mask" },
    toolChoice(mask),
    brushSize(mask),
    h("div", { className: "group" }, undo, invert, clear),
  );
}

function toolChoice(mask) {
  const choices = TOOLS.map(([name, label]) => {
    const input = h("input", {
      type: "radio",
      name: "tool",
      value: name,
      checked: mask.tool === name,
      onchange: () => (mask.tool = name),
    });
    return h("label", { className: "choice", title: label }, input, icon(name), h("span", {}, label));
  });
  return h("div", { className: "group segmented", role: "radiogroup", "aria-label": "Tool" }, choices);
}

function brushSize(mask) {
  const shorter = Math.min(mask.canvas.width, mask.canvas.height);
  const input = h("input", {
    type: "range",
    id: "brush-size",
    min: Math.max(1, Math.round(shorter / 64)),
    max: Math.round(shorter / 2),
    value: mask.size,
  });
  input.addEventListener("input", () => (mask.size = Number(input.value)));
  return h("div", { className: "group size" }, h("label", { htmlFor: "brush-size" }, "Size"), input);
}
