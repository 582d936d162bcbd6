/**
 * A mask drawn over a picture: brush, eraser and rectangle by mouse, pen, touch or keyboard, with undo.
 *
 * The mask is a list of operations that is replayed, so that undo is exact at any size and costs no copies of pixels.
 * The canvas has the picture's own size; what is drawn is inside the mask (white in the file that is posted).
 */

import { announce, h } from "./dom.js";

const STRIPES = ["#6d28d9", "#f5f0ff"]; // one of them shows on any picture
const STRIPE = 1 / 40; // of the shorter side
const NUDGE = 0.02; // of the shorter side, per arrow key; five times as much with Shift

/** Operations: {type: stroke|rectangle|invert|clear, erase, size, points: [[x, y], …]} in pixels of the picture. */
export class Mask extends EventTarget {
  #operations = [];
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
      "Mask. Arrow keys move, Space starts and ends drawing, Escape drops what is being drawn.",
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

  undo() {
    this.#operations.pop();
    this.#replay();
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

  #draw({ type, erase, size, points }) {
    const { width, height } = this.canvas;
    const paint = this.#paint;
    paint.globalCompositeOperation =
      { invert: "xor", clear: "destination-out" }[type] ?? (erase ? "destination-out" : "source-over");
    paint.fillStyle = paint.strokeStyle = this.#pattern;
    if (type === "stroke") drawStroke(paint, size, points);
    else if (type === "rectangle") paint.fillRect(...corners(points));
    else paint.fillRect(0, 0, width, height);
    paint.globalCompositeOperation = "source-over";
  }

  #begin(point) {
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
    if (this.#current && keep) this.#operations.push(this.#current);
    this.#current = null;
    this.#replay();
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#begin(this.#pointOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.#cursor = this.#pointOf(event);
      this.#showRing();
      if (!this.#current || !canvas.hasPointerCapture(event.pointerId)) return;
      for (const part of event.getCoalescedEvents()) this.#extend(this.#pointOf(part));
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
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  #moveCursor([dx, dy]) {
    const { width, height } = this.canvas;
    const within = (value, most) => Math.max(0, Math.min(most, value));
    this.#cursor = [within(this.#cursor[0] + dx, width), within(this.#cursor[1] + dy, height)];
    if (this.#current) this.#extend(this.#cursor);
    this.#showRing();
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

/** Diagonal stripes, opaque: the mask is the canvas's alpha. */
function stripes(paint, width) {
  const side = Math.round(width * Math.SQRT2) * 2;
  const tile = h("canvas", { width: side, height: side });
  const brush = tile.getContext("2d");
  const pixels = brush.createImageData(side, side);
  const colours = STRIPES.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  for (let i = 0; i < side * side; i++) {
    const along = ((i % side) + Math.floor(i / side)) % side;
    pixels.data.set([...colours[along < side / 2 ? 0 : 1], 255], 4 * i);
  }
  brush.putImageData(pixels, 0, 0);
  return paint.createPattern(tile, "repeat");
}

// A line of no length draws nothing, so that a dab is a disc.
function drawStroke(paint, size, points) {
  paint.beginPath();
  if (points.length === 1) {
    paint.arc(...points[0], size / 2, 0, 2 * Math.PI);
    paint.fill();
    return;
  }
  paint.lineWidth = size;
  paint.lineCap = paint.lineJoin = "round";
  for (const point of points) paint.lineTo(...point);
  paint.stroke();
}

/** x, y, width, height of the rectangle between two corners, in whole pixels. */
function corners([[x0, y0], [x1, y1] = [x0, y0]]) {
  const [left, right] = [Math.floor(Math.min(x0, x1)), Math.ceil(Math.max(x0, x1))];
  const [top, bottom] = [Math.floor(Math.min(y0, y1)), Math.ceil(Math.max(y0, y1))];
  return [left, top, right - left, bottom - top];
}
