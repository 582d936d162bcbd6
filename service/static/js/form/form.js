/**
 * The request form: the controls of the chosen kind and model, their values, and problems shown beside their field.
 */

import { composes, h, openSheet, plural } from "../lib/dom.js";
import { inputOf, rowOf, sizePresets } from "./controls.js";
import { promptHistory, styleChips, tokenBar } from "./prompt.js";

const UNSET = "";
const FOLDS = { more: "More settings", programs: "For programs" };

export class Form {
  #inputs = new Map();
  #root;
  #fields = h("div", { className: "fields" });
  #handles;

  /** `root` is the form element. The picture's place is `slot`, the line for costs `cost`. */
  constructor(root, { onSubmit, onModel, onChange, lastSeed }) {
    this.#root = root;
    this.#handles = { lastSeed };
    this.tokens = tokenBar();
    this.slot = h("div", { className: "slot" });
    this.model = h("select", { id: "field-model", onchange: () => onModel(this.model.value) });
    this.problem = h("div", { className: "problem", id: "problem", role: "alert", hidden: true });
    this.cost = h("p", { className: "cost", id: "cost" });
    this.submit = h("button", { type: "submit", className: "button primary", id: "submit" });
    root.append(this.#fields, h("div", { className: "foot" }, this.problem, this.cost, this.submit));
    root.addEventListener("submit", (event) => (event.preventDefault(), onSubmit()));
    root.addEventListener("input", onChange);
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const inText = event.key === "Enter" && event.target.localName === "textarea" && !composes(event);
    if (!inText || event.shiftKey) return;
    event.preventDefault();
    this.#root.requestSubmit();
  }

  /** Shows `fields` with their defaults, then `values` of those that are among them. */
  show(fields, values, { cards, card, words, action }) {
    Object.assign(this, { card, words });
    this.#inputs.clear();
    const places = { main: [], more: [], programs: [] };
    for (const field of fields) places[field.place].push(this.#row(field));
    const folds = Object.entries(FOLDS).map(([id, label]) => this.#fold(id, label, places[id]));
    this.#fields.replaceChildren(this.slot, ...this.#main(places.main), this.#modelRow(cards, card), ...folds);
    this.submit.textContent = action;
    this.reset(values);
    this.#problemOff();
  }

  // Width and height share a line with their presets.
  #main(rows) {
    const [width, height] = ["width", "height"].map((name) => this.#inputs.get(name)?.input);
    if (!width || !height) return rows;
    const [first, second] = ["row-width", "row-height"].map((id) => rows.find((row) => row.id === id));
    const size = h("div", { className: "sizes" }, first, second, sizePresets(this.card, width, height));
    return rows.filter((row) => row !== second).map((row) => (row === first ? size : row));
  }

  #fold(id, label, rows) {
    if (!rows.length) return "";
    const open = this.#root.querySelector(`#${id}`)?.open ?? false;
    return h(
      "details",
      { className: "more", id, open },
      h("summary", {}, label),
      h("div", { className: "grid" }, rows),
    );
  }

  #row(field) {
    const input = inputOf(field);
    this.#inputs.set(field.name, { field, input });
    if (field.name !== "prompt") return rowOf(field, input, this.#handles);
    const take = (prompt) => (this.fill({ prompt }), this.focus());
    return rowOf(
      field,
      input,
      this.#handles,
      styleChips(this.card.styles ?? [], input),
      this.words.length > 0 && h("p", { className: "help words" }, `Embeddings to name in it: ${this.words.join(", ")}`),
      h("div", { className: "below" }, this.tokens.node, promptHistory(take)),
    );
  }

  #modelRow(cards, card) {
    this.model.replaceChildren(...cards.map(({ id }) => h("option", { value: id }, id)));
    this.model.value = card.id;
    const onclick = () => showLicence(card);
    const licence = h("button", { type: "button", className: "link", onclick }, "Licence and sources");
    return h(
      "div",
      { className: "field model", id: "row-model" },
      h("label", { htmlFor: "field-model" }, "Model"),
      this.model,
      h("p", { className: "help clamped", title: card.description }, card.description),
      h("p", { className: "help" }, licence),
    );
  }

  /** Values as the request has them; empty controls are left out. */
  values() {
    const values = {};
    for (const [name, { input }] of this.#inputs)
      if (input.type !== "checkbox" && input.value !== UNSET)
        values[name] = input.type === "number" ? Number(input.value) : input.value;
    for (const [name, { field, input }] of this.#inputs)
      if (input.type === "checkbox") values[name] = input.checked ? field.on(values, this.card) : field.off;
    return values;
  }

  /** The field of a number that the browser can't read, if there is one: its control is as if empty. */
  get unread() {
    const bad = [...this.#root.elements].find(({ validity }) => validity.badInput);
    return bad && [...this.#inputs.keys()].find((name) => this.#inputs.get(name).input.contains(bad));
  }

  /** Whether it has a control for a field. */
  has(name) {
    return this.#inputs.has(name);
  }

  /** All that it says, to be compared. */
  get state() {
    return JSON.stringify([this.model.value, this.values()]);
  }

  /** Sets all controls: those that `values` doesn't name to their defaults. */
  reset(values) {
    const defaults = [...this.#inputs].map(([name, { field }]) => [name, field.default]);
    this.fill({ ...Object.fromEntries(defaults), ...values });
  }

  /** Sets the controls that `values` names. */
  fill(values) {
    for (const [name, { field, input }] of this.#inputs) {
      if (!(name in values)) continue;
      if (field.control === "switch") input.checked = values[name] !== field.off;
      else input.value = values[name] ?? UNSET;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  focus(name = "prompt") {
    (this.#inputs.get(name)?.input ?? this.submit).focus();
  }

  busy(on) {
    this.submit.disabled = on;
    this.submit.setAttribute("aria-busy", String(on));
  }

  /** Shows a Problem beside the field it names, else above the button; null clears it. */
  showProblem(problem) {
    this.#problemOff();
    if (!problem) return;
    const wait = problem.retryAfter ? ` Try again in ${plural(problem.retryAfter, "second")}.` : "";
    const names = String(problem.field ?? "").split("."); // as controls.0.scale, or body.steps
    const row = names.map((name) => name && this.#root.querySelector(`#error-${CSS.escape(name)}`)).find(Boolean);
    const place = row ?? this.problem;
    place.textContent = problem.message + wait;
    place.hidden = false;
    const input = row && controlOf(row);
    input?.closest("details")?.setAttribute("open", "");
    if (input?.localName !== "button") input?.setAttribute("aria-invalid", "true");
    if (row) this.#root.dispatchEvent(new CustomEvent("unfold", { bubbles: true }));
    (input ?? place).scrollIntoView({ block: "nearest" });
    input?.focus();
  }

  #problemOff() {
    for (const node of this.#root.querySelectorAll(".error, .problem")) {
      node.hidden = true;
      node.textContent = "";
    }
    for (const node of this.#root.querySelectorAll("[aria-invalid]")) node.removeAttribute("aria-invalid");
  }
}

/** What can mend an error: the button that it describes, as beside pictures, else the first control of its row. */
function controlOf(error) {
  const { parentElement: row } = error;
  const own = row.querySelector(`button[aria-describedby~="${error.id}"]`);
  return own ?? row.querySelector("[name]") ?? row.querySelector("input:not([type=file]), button");
}

function showLicence({ id, licence, attribution }) {
  const sources = h("ul", {}, attribution.map((line) => h("li", {}, line)));
  openSheet(id, h("p", {}, `Licence: ${licence}`), attribution.length > 0 && sources);
}
