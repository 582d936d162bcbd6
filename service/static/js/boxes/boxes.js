/**
 * The boxes of a layout: where things are, and what. There is one set, since there is one form; the list beside it and
 * the board on the stage show it.
 */

import { h } from "../lib/dom.js";
import { numberInput } from "../form/controls.js";

const SAID = ["group", "occluded", "depiction", "inside"]; // of a box beside its class: bits of its number
const LEAST = 0.02; // of a side: what is smaller was a slip

/**
 * `items` are `{box: [left, top, right, bottom], class_id}`, sides in shares of the picture. `show` is dispatched when
 * something is to be drawn anew, `input` when a person changed something. A state is the boxes, and as what each was.
 */
class Boxes extends EventTarget {
  items = [];
  selected = null; // one of them
  class_id = 0; // of the next one
  #past = []; // states, the oldest first
  #now = [];
  #undone = [];
  #held = false;

  /** Shows the boxes of a request, for the model of `card`. */
  set(items, card) {
    this.card = card;
    this.items = items.map((item) => ({ ...item, box: [...item.box] }));
    this.selected = null;
    this.#past = [];
    this.#undone = [];
    this.#now = stateOf(this.items);
    this.dispatchEvent(new Event("show"));
  }

  get undoable() {
    return this.#past.length > 0;
  }

  get redoable() {
    return this.#undone.length > 0;
  }

  undo() {
    this.#restore(this.#past, this.#undone);
  }

  redo() {
    this.#restore(this.#undone, this.#past);
  }

  /** Takes what follows as one change, until it is over. */
  hold() {
    this.#held = true;
  }

  release() {
    this.#held = false;
    this.#note();
    this.dispatchEvent(new Event("show"));
  }

  get full() {
    return this.items.length >= Math.floor(this.card.layout.length / 3);
  }

  select(item) {
    this.selected = item;
    if (item) this.class_id = item.class_id;
    this.dispatchEvent(new Event("show"));
  }

  /** Adds a box of the class that was chosen last; a middle one, unless it says where. */
  add(box = [0.25, 0.25, 0.75, 0.75]) {
    this.selected = { box, class_id: this.class_id };
    this.items.push(this.selected);
    this.#changed();
    return this.selected;
  }

  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    if (this.selected === item) this.selected = null;
    this.#changed();
  }

  clear() {
    this.items = [];
    this.selected = null;
    this.#changed();
  }

  /** What the selected box is, and those that follow. */
  classify(number, item = this.selected) {
    this.class_id = number;
    if (item) item.class_id = number;
    this.#changed();
  }

  /** Sets sides of a box, in order and within the picture. */
  place(item, [left, top, right, bottom]) {
    const [x0, x1] = ordered(left, right);
    const [y0, y1] = ordered(top, bottom);
    item.box = [x0, y0, x1, y1].map(rounded);
    this.#changed();
  }

  /** Moves a box from where it was, as far as the picture goes. */
  move(item, [left, top, right, bottom], dx, dy) {
    const x = Math.max(-left, Math.min(1 - right, dx));
    const y = Math.max(-top, Math.min(1 - bottom, dy));
    item.box = [left + x, top + y, right + x, bottom + y].map(rounded);
    this.#changed();
  }

  isSlip({ box: [left, top, right, bottom] }) {
    return right - left < LEAST || bottom - top < LEAST;
  }

  nameOf(number) {
    return this.card.class_names?.[number] ?? `class ${number}`;
  }

  #changed() {
    if (!this.#held) this.#note();
    this.dispatchEvent(new Event("show"));
    this.dispatchEvent(new Event("input"));
  }

  #note() {
    const state = stateOf(this.items);
    if (JSON.stringify(state) === JSON.stringify(this.#now)) return;
    this.#past.push(this.#now);
    this.#undone = [];
    this.#now = state;
  }

  #restore(from, to) {
    if (!from.length) return;
    to.push(this.#now);
    this.#now = from.pop();
    this.items = this.#now.map(({ item, as }) => Object.assign(item, as));
    if (!this.items.includes(this.selected)) this.selected = null;
    this.#changed();
  }
}

const stateOf = (items) => items.map((item) => ({ item, as: { ...item } }));

export const boxes = new Boxes();

const rounded = (share) => Math.round(10_000 * share) / 10_000;
const ordered = (a, b) => [Math.max(0, Math.min(a, b)), Math.min(1, Math.max(a, b))];

/** Makes a node the i-th of its place: what comes back comes where it was. */
export function inPlace(place, node, i) {
  if (place.children[i] !== node) place.insertBefore(node, place.children[i] ?? null);
}

/** What chooses a class: by its name, or by its number where the card has no names. */
export function classInput({ class_names: names, classes, layout }, label, onChoose) {
  const most = (classes ?? layout.vocabulary - 1) - 1;
  const input = names
    ? h("select", { "aria-label": label }, names.map((name, i) => h("option", { value: i }, name)))
    : numberInput({ min: 0, max: most, spoken: label });
  input.addEventListener("input", (event) => {
    event.stopPropagation(); // the boxes tell of the change
    if (input.value !== "") onChoose(Number(input.value));
  });
  return input;
}

/** Whether a request's picture was a part of its scene, which the form has no word for. */
export function isCropped(tokens, { layout }) {
  const last = Math.floor(Math.sqrt(layout.vocabulary)) ** 2 - 1;
  return layout.length % 3 === 2 && (tokens.at(-2) !== 0 || tokens.at(-1) !== last);
}

/** The boxes that a resolved request's numbers stand for, as the service wrote them. */
export function boxesOf(tokens, { layout, classes }) {
  const sections = Math.floor(Math.sqrt(layout.vocabulary));
  const corner = (number) => [number % sections, Math.floor(number / sections)].map((at) => at / (sections - 1));
  const found = [];
  for (let i = 0; i + 2 < tokens.length; i += 3) {
    const [what, first, last] = tokens.slice(i, i + 3);
    if (what === layout.vocabulary - 1) continue;
    const bits = classes ? Math.floor(what / classes) : 0;
    const said = Object.fromEntries(SAID.filter((_, bit) => bits & (1 << bit)).map((name) => [name, true]));
    found.push({ box: [...corner(first), ...corner(last)], class_id: classes ? what % classes : what, ...said });
  }
  return found;
}
