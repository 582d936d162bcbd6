/**
 * A picture that can be looked at closely: wheel and pinch zoom where they point, dragging moves, keys do both.
 */

import { button, h } from "../lib/dom.js";

const MOST = 16; // times its pixels
const WHEEL = 0.0015; // zoom per pixel of wheel
const STEP = 1.25;
const NUDGE_PX = 48;

/**
 * Makes `content` (a box of a picture of `width` pixels) zoomable within `place`, and returns the buttons for it.
 * `drag(event)` says which presses of a pointer move the picture.
 */
export function zoomable(place, content, { width, drag = () => true }) {
  const view = new View(place, content, width);
  place.addEventListener("wheel", (event) => view.wheel(event), { passive: false });
  listenToPointers(place, view, drag);
  place.addEventListener("dblclick", (event) => drag(event) && view.toggle(event));
  return {
    view,
    buttons: h(
      "div",
      { className: "zoom", role: "group", "aria-label": "Zoom" },
      button("Fit", { className: "button small", onclick: () => view.fit(), title: "The whole picture (0)" }),
      button("1:1", { className: "button small", onclick: () => view.one(), title: "Pixel for pixel (1)" }),
    ),
  };
}

/** Where the picture is and how large: `scale` 1 fits it into its place. */
class View {
  scale = 1;
  #x = 0;
  #y = 0;

  constructor(place, content, width) {
    Object.assign(this, { place, content, width });
  }

  fit() {
    this.scale = 1;
    this.#x = this.#y = 0;
    this.#show();
  }

  one() {
    this.zoom(this.width / this.content.offsetWidth);
  }

  toggle(event) {
    if (this.scale === 1) this.zoom(this.width / this.content.offsetWidth, this.#at(event));
    else this.fit();
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(this.scale * Math.exp(-event.deltaY * WHEEL), this.#at(event));
  }

  /** Sets the scale so that the point at (x, y) from the middle of the place stays where it is. */
  zoom(scale, [x, y] = [0, 0]) {
    const least = Math.min(1, this.width / this.content.offsetWidth);
    const most = (MOST * this.width) / this.content.offsetWidth;
    const next = Math.max(least, Math.min(most, scale));
    this.#x = x - ((x - this.#x) * next) / this.scale;
    this.#y = y - ((y - this.#y) * next) / this.scale;
    this.scale = next;
    this.#show();
  }

  move(dx, dy) {
    this.#x += dx;
    this.#y += dy;
    this.#show();
  }

  /** Handles a key of the picture; says whether it was one. */
  key(name) {
    const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (name === "+" || name === "=") this.zoom(this.scale * STEP);
    else if (name === "-") this.zoom(this.scale / STEP);
    else if (name === "0") this.fit();
    else if (name === "1") this.one();
    else if (name in moves && this.scale > 1) this.move(...moves[name].map((way) => way * NUDGE_PX));
    else return false;
    return true;
  }

  #at(event) {
    const { left, top, width, height } = this.place.getBoundingClientRect();
    return [event.clientX - left - width / 2, event.clientY - top - height / 2];
  }

  // The picture can't be lost: its middle stays within its place's.
  #show() {
    const most = (side) => (side * Math.max(this.scale - 1, 0)) / 2 + side / 4;
    const bounded = (value, side) => Math.max(-most(side), Math.min(most(side), value));
    this.#x = this.scale > 1 ? bounded(this.#x, this.content.offsetWidth) : 0;
    this.#y = this.scale > 1 ? bounded(this.#y, this.content.offsetHeight) : 0;
    this.content.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.scale})`;
    this.place.classList.toggle("zoomed", this.scale > 1);
  }
}

/** One pointer that may drag moves the picture, two zoom it. */
function listenToPointers(place, view, drag) {
  const pointers = new Map();
  const spread = () => {
    const [[ax, ay], [bx, by]] = pointers.values();
    return { distance: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };
  const onDown = (event) => {
    if (event.pointerType === "touch" || drag(event)) pointers.set(event.pointerId, [event.clientX, event.clientY]);
  };
  const onMove = (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    if (pointers.size === 1) {
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (drag(event) && view.scale > 1) view.move(event.clientX - before[0], event.clientY - before[1]);
      return;
    }
    const was = spread();
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const now = spread();
    const { left, top, width, height } = place.getBoundingClientRect();
    view.move(now.x - was.x, now.y - was.y);
    view.zoom(view.scale * (now.distance / was.distance), [now.x - left - width / 2, now.y - top - height / 2]);
  };
  const onUp = (event) => pointers.delete(event.pointerId);
  place.addEventListener("pointerdown", onDown);
  place.addEventListener("pointermove", onMove);
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) place.addEventListener(end, onUp);
}
