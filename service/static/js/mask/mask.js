/**
 * A mask drawn over a picture: brush, eraser and rectangle by mouse, pen, touch or keyboard, with undo and redo.
 *
 * The mask is a list of operations that is replayed, so that undo is exact at any size and costs no copies of pixels.
 * The canvas has the picture's own size; what is drawn is inside the mask (white in the file that is posted).
 */

import { announce, h, historyKey, letterOf } from "../lib/dom.js";
import { paintOperation, stripes } from "./strokes.js";

const STRIPE = 1 / 40; // of the shorter side
const NUDGE = 0.02; // of the shorter side, per arrow key; five times as much with Shift

const TOOLS = { b: "brush", e: "eraser", r: "rectangle" };
const GROWTH = 1.25; // of the brush by ]

/**
 * Operations: {type: stroke|rectangle|invert|clear|file, erase, size, points: [[x, y], …], file, bitmap}, in pixels of
 * the picture. `change` is dispatched after each, `tool` when a key chose another tool or size, `cursor` when one
 * moved the brush.
 */
export class Mask extends EventTarget {
  #operations = [];
  #undone = [];
  #current = null;
  #paint;
  #pattern;
  #cursor;

  constructor(width, height) {
    super();
    this.tool = "brush";
    this.size = Math.round(Math.min(width, height) / 6);
    this.canvas = h("canvas", { width, height, className: "mask", tabIndex: 0, role: "application", id: "mask" });
    this.canvas.setAttribute(
      "aria-label",
      "Mask. Arrow keys move, Space starts and ends drawing, Escape drops what is being drawn, brackets size the brush.",
    );
    this.ring = h("span", { className: "ring", hidden: true });
    this.#paint = this.canvas.getContext("2d", { willReadFrequently: true });
    this.#pattern = stripes(this.#paint, Math.max(2, Math.min(width, height) * STRIPE));
    this.#cursor = [width / 2, height / 2];
    this.#listen();
  }

  get empty() {
    return !this.#paint
      .getImageData(0, 0, this.canvas.width, this.canvas.height)
      .data.some((value, i) => i % 4 === 3 && value > 127);
  }

  get undoable() {
    return this.#operations.length > 0;
  }

  get redoable() {
    return this.#undone.length > 0;
  }

  undo() {
    if (this.undoable) this.#undone.push(this.#operations.pop());
    this.#replay();
  }

  redo() {
    if (this.redoable) this.#operations.push(this.#undone.pop());
    this.#replay();
  }

  /** What was drawn, to be kept and given to `restore`. */
  get operations() {
    return this.#operations.map(({ bitmap, ...operation }) => operation);
  }

  async restore(operations) {
    const withPixels = async (operation) =>
      operation.file ? { ...operation, bitmap: await createImageBitmap(operation.file) } : operation;
    this.#operations = await Promise.all(operations.map(withPixels));
    this.#undone = [];
    this.#replay();
  }

  /** Adds the light part of a picture, stretched over this one. Throws an Error for what is none. */
  async addFile(file) {
    const bitmap = await createImageBitmap(file).catch((cause) => {
      throw new Error(`${file.name} is not a picture that this browser can read.`, { cause });
    });
    this.#add({ type: "file", file, bitmap });
  }

  /** Where the brush is: a rectangle about the middle, for whoever can't point. */
  addRectangle(left, top, right, bottom) {
    const { width, height } = this.canvas;
    const at = (x, y) => [(x / 100) * width, (y / 100) * height];
    this.#add({ type: "rectangle", erase: false, points: [at(left, top), at(right, bottom)] });
  }

  /** Swaps inside and outside. */
  invert() {
    this.#add({ type: "invert" });
  }

  clear() {
    if (this.undoable) this.#add({ type: "clear" });
  }

  /** PNG of the picture's size: white is repainted, black is kept. Edges are hard, at half coverage. */
  async file() {
    const { width, height } = this.canvas;
    const pixels = this.#paint.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4)
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3).fill(255, i + 3, i + 4);
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return new File([await canvas.convertToBlob({ type: "image/png" })], "mask.png", { type: "image/png" });
  }

  #add(operation) {
    this.#undone = [];
    this.#operations.push(operation);
    this.#replay();
  }

  #replay() {
    const { width, height } = this.canvas;
    this.#paint.clearRect(0, 0, width, height);
    for (const operation of this.#operations) this.#draw(operation);
    if (this.#current) this.#draw(this.#current);
    this.dispatchEvent(new Event("change"));
  }

  #draw(operation) {
    paintOperation(this.#paint, operation, this.#pattern);
  }

  #begin(point) {
    this.#end(true);
    const type = this.tool === "rectangle" ? "rectangle" : "stroke";
    this.#current = { type, erase: this.tool === "eraser", size: this.size, points: [point] };
    this.#replay();
  }

  #extend(point) {
    const { type, points } = this.#current;
    if (type === "rectangle") {
      points[1] = point;
      this.#replay();
    } else {
      points.push(point);
      this.#draw({ ...this.#current, points: points.slice(-2) });
    }
  }

  #end(keep) {
    if (!this.#current) return;
    if (keep) this.#operations.push(this.#current);
    if (keep) this.#undone = [];
    this.#current = null;
    this.#replay();
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary) this.#end(false); // a second finger: they zoom, and what the first began was none
      if (event.button !== 0 || !event.isPrimary) return;
      canvas.setPointerCapture(event.pointerId);
      // Of a canvas that the stage has no more, `document` is told; and no pointerup comes.
      document.addEventListener("lostpointercapture", () => this.#end(true), { once: true });
      this.#begin(this.#pointOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.#cursor = this.#pointOf(event);
      this.#showRing();
      if (!this.#current || !canvas.hasPointerCapture(event.pointerId)) return;
      const parts = event.getCoalescedEvents?.() ?? []; // exists on secure origins only
      for (const part of parts.length ? parts : [event]) this.#extend(this.#pointOf(part));
    });
    canvas.addEventListener("pointerup", () => this.#end(true));
    canvas.addEventListener("pointercancel", () => this.#end(false));
    canvas.addEventListener("pointerleave", () => (this.ring.hidden = !canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => (this.ring.hidden = true));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.canvas;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  #key(event) {
    const step = NUDGE * Math.min(this.canvas.width, this.canvas.height) * (event.shiftKey ? 5 : 1);
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) this.#moveCursor(move);
    else if (event.key === " ") this.#toggle();
    else if (event.key === "Escape" && this.#current) this.#end(false);
    else if (event.ctrlKey || event.metaKey) {
      const asked = historyKey(event);
      if (!asked) return;
      this[asked]();
    } else if (event.key === "[" || event.key === "]") this.resize(event.key === "]" ? GROWTH : 1 / GROWTH);
    else if (letterOf(event) in TOOLS) this.choose(TOOLS[letterOf(event)]);
    else return;
    event.preventDefault();
  }

  /** Largest and smallest brush, in pixels of the picture. */
  get sizes() {
    const shorter = Math.min(this.canvas.width, this.canvas.height);
    return [Math.max(1, Math.round(shorter / 64)), Math.round(shorter / 2)];
  }

  resize(factor) {
    const [least, most] = this.sizes;
    const next = factor > 1 ? Math.ceil(this.size * factor) : Math.floor(this.size * factor);
    this.size = Math.max(least, Math.min(most, next));
    this.#showRing();
    this.dispatchEvent(new Event("tool"));
  }

  choose(tool) {
    this.tool = tool;
    this.dispatchEvent(new Event("tool"));
  }

  #moveCursor([dx, dy]) {
    const { width, height } = this.canvas;
    const within = (value, most) => Math.max(0, Math.min(most, value));
    this.#cursor = [within(this.#cursor[0] + dx, width), within(this.#cursor[1] + dy, height)];
    if (this.#current) this.#extend(this.#cursor);
    this.#showRing();
    this.dispatchEvent(new Event("cursor"));
    announce(`${Math.round((100 * this.#cursor[0]) / width)} %, ${Math.round((100 * this.#cursor[1]) / height)} %`);
  }

  #toggle() {
    if (this.#current) this.#end(true);
    else this.#begin(this.#cursor);
    announce(this.#current ? "Drawing" : "Drawn");
  }

  /** The brush's outline at the cursor, in pixels of the screen. */
  #showRing() {
    const scale = this.canvas.clientWidth / this.canvas.width;
    const side = this.tool === "rectangle" ? 12 : this.size * scale;
    this.ring.hidden = false;
    this.ring.style.width = this.ring.style.height = `${side}px`;
    this.ring.style.left = `${this.#cursor[0] * scale}px`;
    this.ring.style.top = `${this.#cursor[1] * scale}px`;
  }
}
