/**
 * The form's list of boxes: what each is, and its sides in percent. A group whose value is the request's list.
 */

import { groupOf, numberInput } from "../form/controls.js";
import { button, h } from "../lib/dom.js";
import { boxes, classInput, inPlace } from "./boxes.js";

const UNSET = "";
const SIDES = ["left", "top", "right", "bottom"];
let shown = new AbortController(); // of the list that the form has: another model has another one

export function boxList(field) {
  shown.abort();
  shown = new AbortController();
  const lines = new Map(); // by box
  const place = h("div", { className: "lines" });
  const add = button("Add a box", { className: "button small", name: field.name, onclick: () => boxes.add() });
  const draw = button("Draw", { className: "button small", onclick: () => ask(node) }, "rectangle");
  draw.title = "Shows the boxes on the stage, where they are drawn and moved";
  const get = () => (boxes.items.length ? boxes.items.map((item) => ({ ...item })) : UNSET);
  const set = (items) => boxes.set(items || [], field.card);
  const node = groupOf(field, get, set, place, h("div", { className: "slide" }, draw, add));
  const show = () => {
    for (const [item, line] of lines) if (!boxes.items.includes(item)) (line.node.remove(), lines.delete(item));
    boxes.items.forEach((item, i) => {
      if (!lines.has(item)) lines.set(item, lineOf(item, field.card));
      const line = lines.get(item);
      inPlace(place, line.node, i);
      line.write(i);
    });
    add.disabled = boxes.full;
  };
  const { signal } = shown;
  boxes.addEventListener("show", show, { signal });
  boxes.addEventListener("input", () => node.dispatchEvent(new Event("input", { bubbles: true })), { signal });
  return node;
}

const ask = (node) => node.dispatchEvent(new Event("board", { bubbles: true }));

/** `{node, write(i)}`; who types isn't written over. */
function lineOf(item, card) {
  const what = classInput(card, "What it is", (number) => boxes.classify(number, item));
  const sides = SIDES.map((side) => {
    const input = numberInput({ min: 0, max: 100, step: 0.1, spoken: `${side}, in percent` });
    input.title = side;
    input.addEventListener("change", () => boxes.place(item, sides.map(({ value }) => Number(value) / 100)));
    input.addEventListener("input", (event) => event.stopPropagation()); // half a number is none
    return input;
  });
  const remove = button("×", { className: "plain", title: "Remove", onclick: () => boxes.remove(item) });
  const head = h("div", { className: "line-head" }, what, remove);
  const node = h("div", { className: "line", role: "group" }, head, h("div", { className: "group-of sides" }, sides));
  const write = (i) => {
    node.ariaLabel = `Box ${i + 1}`;
    remove.ariaLabel = `Remove box ${i + 1}`;
    for (const [input, value] of [[what, item.class_id], ...sides.map((side, k) => [side, percent(item.box[k])])])
      if (input !== document.activeElement || !input.matches("[type=number]")) input.value = value;
    node.classList.toggle("selected", boxes.selected === item);
  };
  return { node, write };
}

const percent = (share) => Math.round(1000 * share) / 10;
