/**
 * The stage of a layout: boxes are drawn where there is room, moved by their names, sized by their corners; each is a
 * button, which arrow keys move.
 */

import { announce, h, historyKey, pictureBox, tool } from "../lib/dom.js";
import { boxes, classInput, inPlace } from "./boxes.js";

const NUDGE = 0.02; // of a side, per arrow key
const MOVES = { ArrowLeft: [-NUDGE, 0], ArrowRight: [NUDGE, 0], ArrowUp: [0, -NUDGE], ArrowDown: [0, NUDGE] };
const TURN = 137; // degrees between the colours of neighbouring classes
const HELP = "Arrow keys move it, with Shift its right and lower side; Delete removes it.";
let shown = new AbortController(); // of the board that the stage has

/** The board for the model of `card`; `size()` is that of the picture, as the form has it. */
export function boardView(card, size) {
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  boxes.release();
  const plane = h("div", { className: "plane", role: "group", "aria-label": "Boxes" });
  const frame = pictureBox(size(), plane);
  const tools = toolbar(card, plane);
  const nodes = new Map();
  const show = () => {
    for (const [item, node] of nodes) if (!boxes.items.includes(item)) (node.remove(), nodes.delete(item));
    boxes.items.forEach((item, i) => {
      if (!nodes.has(item)) nodes.set(item, nodeOf(item, plane));
      inPlace(plane, nodes.get(item), i);
      draw(nodes.get(item), item);
    });
    tools.show();
  };
  const resize = () => {
    const { width, height } = size();
    frame.style.setProperty("--w", width);
    frame.style.setProperty("--h", height);
  };
  boxes.addEventListener("show", show, { signal });
  document.addEventListener("keydown", (event) => plane.isConnected && again(event), { signal });
  document.addEventListener("size", resize, { signal });
  listenToPointer(plane, (item) => nodes.get(item)?.focus());
  show();
  const place = h("div", { className: "place" }, frame);
  const caption = h("figcaption", {}, "Draw a box for each thing. Names move them, corners size them.");
  return h("figure", { className: "frame board" }, tools.node, place, caption);
}

function toolbar(card, plane) {
  const what = classInput(card, "What it is", (number) => boxes.classify(number));
  const whose = h("span", { className: "unit" });
  const add = tool("Add a box", () => focusOn(plane, boxes.add()));
  const undo = tool("Undo", () => boxes.undo(), "undo", "Ctrl Z");
  const redo = tool("Redo", () => boxes.redo(), "redo", "Ctrl Y");
  const clear = tool("Clear", () => boxes.clear(), "clear");
  const show = () => {
    whose.textContent = boxes.selected ? "This box" : "Next box";
    what.value = boxes.selected?.class_id ?? boxes.class_id;
    add.disabled = boxes.full;
    clear.disabled = !boxes.items.length;
    undo.disabled = !boxes.undoable;
    redo.disabled = !boxes.redoable;
  };
  const props = { className: "toolbar", role: "toolbar", "aria-label": "Tools for boxes" };
  const groups = [h("div", { className: "group" }, whose, what), h("div", { className: "group" }, add, undo, redo, clear)];
  return { node: h("div", props, groups), show };
}

const focusOn = (plane, item) => plane.children[boxes.items.indexOf(item)]?.focus();

function nodeOf(item, plane) {
  const name = h("span", { className: "name" });
  const node = h("button", { type: "button", className: "box", "aria-description": HELP }, name, h("i", {}));
  node.addEventListener("focus", () => boxes.select(item));
  node.addEventListener("keydown", (event) => key(event, item, plane) && event.preventDefault());
  return node;
}

function draw(node, item) {
  const [left, top, right, bottom] = item.box;
  const share = (value) => `${100 * value}%`;
  Object.assign(node.style, { left: share(left), top: share(top), width: share(right - left), height: share(bottom - top) });
  node.style.setProperty("--hue", (TURN * item.class_id) % 360);
  node.firstChild.textContent = boxes.nameOf(item.class_id);
  node.ariaLabel = spoken(item);
  node.classList.toggle("selected", boxes.selected === item);
}

function spoken({ box, class_id: number }) {
  const [left, top, right, bottom] = box.map((share) => Math.round(100 * share));
  return `${boxes.nameOf(number)}, from ${left} % to ${right} % across, ${top} % to ${bottom} % down`;
}

function key({ key: name, shiftKey }, item, plane) {
  if (name === "Delete" || name === "Backspace") {
    boxes.remove(item);
    (plane.lastElementChild ?? plane.closest(".board").querySelector(".toolbar button")).focus();
    announce("Removed");
    return true;
  }
  if (!(name in MOVES)) return false;
  const [dx, dy] = MOVES[name];
  const [left, top, right, bottom] = item.box;
  if (shiftKey) boxes.place(item, [left, top, Math.max(left + NUDGE, right + dx), Math.max(top + NUDGE, bottom + dy)]);
  else boxes.move(item, item.box, dx, dy);
  announce(spoken(item));
  return true;
}

/** Ctrl Z and Ctrl Y, but not of who writes a number. */
function again(event) {
  const asked = historyKey(event);
  if (!asked || event.target.matches("input, textarea") || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  boxes[asked]();
}

/** One pointer at a time: on a corner it sizes, on a name it moves, elsewhere it draws. */
function listenToPointer(plane, focus) {
  let drag = null; // {item, before, from, way}: its sides before, and where it began
  const at = ({ clientX, clientY }) => {
    const { left, top, width, height } = plane.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  };
  const begin = (event) => {
    const from = at(event);
    const node = event.target.closest(".box");
    const item = node && boxes.items[[...plane.children].indexOf(node)];
    if (!item) return boxes.full ? null : { item: boxes.add([...from, ...from]), from, way: "draw" };
    boxes.select(item);
    return { item, before: item.box, from, way: event.target.matches("i") ? "size" : "move" };
  };
  plane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    boxes.hold();
    drag = begin(event);
    if (drag) plane.setPointerCapture(event.pointerId);
    else boxes.release();
  });
  plane.addEventListener("pointermove", (event) => {
    if (!drag || !event.isPrimary) return;
    const { item, before, from, way } = drag;
    const [x, y] = at(event);
    if (way === "draw") boxes.place(item, [...from, x, y]);
    else if (way === "size") boxes.place(item, [before[0], before[1], x, y]);
    else boxes.move(item, before, x - from[0], y - from[1]);
  });
  const end = ({ isPrimary }) => {
    if (!isPrimary) return;
    const { item, way } = drag ?? {};
    drag = null;
    if (way === "draw" && boxes.isSlip(item)) boxes.remove(item); // a press beside them: none is meant
    else if (item) focus(item);
    boxes.release();
  };
  for (const name of ["pointerup", "pointercancel"]) plane.addEventListener(name, end);
}
