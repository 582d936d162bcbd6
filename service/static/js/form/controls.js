/**
 * The controls of single fields, and the rows that hold them.
 */

import { button, h, icon } from "../lib/dom.js";

const UNSET = "";
const COUNTS = [1, 2, 4, 8];

/** A field's input, whose value the form reads. */
export function inputOf(field) {
  const input = (field.input ?? INPUTS[field.control] ?? numberInput)(field);
  input.id = `field-${field.name}`;
  input.name = field.name;
  if (input.role !== "group") input.title = field.description ?? "";
  input.setAttribute("aria-describedby", `help-${field.name} error-${field.name}`);
  return input;
}

const INPUTS = {
  text: (field) =>
    h("textarea", { dir: "auto", rows: field.lines, placeholder: field.hint ?? "", spellcheck: true, autocomplete: "off" }),
  seed: (field) => numberInput({ ...field, min: 0, default: UNSET }),
  select: (field) =>
    h(
      "select",
      {},
      field.options.map((option) => h("option", { value: option }, option || field.none)),
    ),
  span,
  switch: () => h("input", { type: "checkbox", role: "switch", className: "toggle" }),
};

/** A group of controls that are one field: `get()` makes its value of them, `set(value)` shows one. */
export function groupOf(field, get, set, ...controls) {
  const props = { className: "group-of", role: "group", "aria-label": field.label };
  return Object.defineProperty(h("div", props, ...controls), "value", { get, set });
}

/** Two numbers from 0 to 1, between which something acts; UNSET where that is always. */
function span(field) {
  const end = (label) =>
    numberInput({ min: 0, max: 1, step: field.step, hint: label === "from" ? "0" : "1", spoken: label });
  const ends = ["from", "to"].map(end);
  const get = () => {
    const [low, high] = [ends[0].value || 0, ends[1].value || 1].map(Number);
    return low > 0 || high < 1 ? [low, high] : UNSET;
  };
  const set = (value) => ends.forEach((input, i) => (input.value = value?.[i] ?? UNSET));
  return groupOf(field, get, set, ends[0], h("span", { className: "unit" }, "to"), ends[1]);
}

export function numberInput({ min, max, step = 1, hint, spoken }) {
  const inputMode = step < 1 ? "decimal" : "numeric";
  return h("input", { type: "number", inputMode, min, max, step, placeholder: hint ?? "", "aria-label": spoken });
}

/** A row: label, input with its handles, help and the place of its error; `extra` stands below the input. */
export function rowOf(field, input, handles, ...extra) {
  const unit = field.unit && h("span", { className: "unit" }, ` ${field.unit}`);
  return h(
    "div",
    { className: `field ${field.control}`, id: `row-${field.name}` },
    input.role === "group"
      ? h("span", { className: "label", "aria-hidden": "true" }, field.label)
      : h("label", { htmlFor: input.id }, field.label, unit),
    (HANDLES[field.control] ?? ((_, only) => only))(field, input, handles),
    ...extra,
    h("p", { className: "help", id: `help-${field.name}` }, field.help ?? ""),
    h("p", { className: "error", id: `error-${field.name}`, hidden: true }),
  );
}

const HANDLES = { slider, count: counts, seed };

const set = (input, value) => {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};

// The slider is a second handle for the number beside it: hidden from readers, which have the number.
export function slider({ min = 0, max, soft, step }, input) {
  const top = Math.min(max ?? soft, soft);
  const range = h("input", { type: "range", min, max: top, step, tabIndex: -1, "aria-hidden": "true" });
  range.addEventListener("input", () => set(input, range.value));
  input.addEventListener("input", () => (range.value = input.value));
  return h("div", { className: "slide" }, range, input);
}

// The numbers that people want at once; any other can be typed.
function counts(_field, input) {
  const choices = COUNTS.map((count) =>
    h(
      "button",
      {
        type: "button",
        "aria-label": `${count} picture${count > 1 ? "s" : ""}`,
        "aria-pressed": "false",
        onclick: () => set(input, count),
      },
      String(count),
    ),
  );
  input.addEventListener("input", () => {
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.textContent === input.value));
  });
  return h(
    "div",
    { className: "slide" },
    h("div", { className: "segmented", role: "group", "aria-label": "Pictures" }, choices),
    input,
  );
}

/** Locked, every request draws the same picture; open, each draws a new one. */
function seed(_field, input, { lastSeed }) {
  const lock = button("Lock", { className: "button small", "aria-pressed": "false", id: "seed-lock" }, "lock");
  lock.addEventListener("click", () => set(input, input.value === UNSET ? lastSeed() : UNSET));
  input.addEventListener("input", () => {
    const locked = input.value !== UNSET;
    lock.setAttribute("aria-pressed", String(locked));
    lock.title = locked ? "Draw a new seed for each request" : "Keep the seed of the last picture";
    lock.querySelector("span").textContent = locked ? "Locked" : "Lock";
  });
  return h("div", { className: "slide" }, input, lock);
}

const RATIOS = [
  ["Square", 1, 1],
  ["Portrait", 3, 4],
  ["Landscape", 4, 3],
  ["Tall", 9, 16],
  ["Wide", 16, 9],
];

/** Presets of the card's area, and what swaps width and height. */
export function sizePresets(card, width, height) {
  const unit = Math.max(8, card.native_size / 8);
  const choose = (w, h) => (set(width, w), set(height, h));
  const presets = RATIOS.map(([name, w, h_]) => {
    const side = (ratio) => Math.max(64, Math.round((card.native_size * Math.sqrt(ratio)) / unit) * unit);
    const [across, down] = [side(w / h_), side(h_ / w)];
    const shape = h("i", { className: "shape" });
    shape.style.aspectRatio = `${w} / ${h_}`;
    const title = `${name}, ${across} × ${down}`;
    const onclick = () => choose(across, down);
    return h("button", { type: "button", title, "aria-label": title, onclick }, shape);
  });
  const swap = () => choose(height.value, width.value);
  const turn = h(
    "button",
    {
      type: "button",
      title: "Swap width and height",
      "aria-label": "Swap width and height",
      onclick: swap,
      id: "swap",
    },
    icon("swap"),
  );
  return h("div", { className: "segmented presets", role: "group", "aria-label": "Size" }, presets, turn);
}
