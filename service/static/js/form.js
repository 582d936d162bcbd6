/**
 * The request form: the controls of the chosen kind and model, their values, and problems shown beside their field.
 */

import { h, icon, plural } from "./dom.js";

const UNSET = "";

/** Builds a field's control; `read` gives its value for the request, undefined where it is left to the service. */
const CONTROLS = {
  text: (field) => h("textarea", { rows: field.lines, placeholder: field.hint, spellcheck: true, autocomplete: "off" }),
  number: (field) => numberInput(field),
  slider: (field) => numberInput(field),
  seed: (field) => numberInput({ ...field, default: UNSET }),
  select: (field) =>
    h(
      "select",
      {},
      field.options.map((option) => h("option", { value: option }, option)),
    ),
  switch: () => h("input", { type: "checkbox", role: "switch", className: "toggle" }),
};

function numberInput(field) {
  const { min, max, step = 1, hint } = field;
  return h("input", {
    type: "number",
    inputMode: step < 1 ? "decimal" : "numeric",
    min,
    max,
    step,
    placeholder: hint ?? "",
  });
}

export class Form {
  #controls = new Map();
  #root;

  /** `root` is the form element; its submit button and error box are made here, the picture's place is `slot`. */
  constructor(root, { onSubmit, onModel }) {
    this.#root = root;
    this.slot = h("div", { className: "slot" });
    this.model = h("select", { id: "field-model", onchange: () => onModel(this.model.value) });
    this.problem = h("div", { className: "problem", id: "problem", role: "alert", hidden: true });
    this.submit = h("button", { type: "submit", className: "button primary", id: "submit" });
    root.addEventListener("submit", (event) => (event.preventDefault(), onSubmit()));
    root.addEventListener("keydown", (event) => {
      const send =
        event.key === "Enter" && event.target.localName === "textarea" && !event.shiftKey && !event.isComposing;
      if (send) (event.preventDefault(), root.requestSubmit());
    });
  }

  /** Shows `fields`; values that the new fields also have are kept, the others get their defaults. */
  show(fields, { cards, card, action }) {
    const kept = this.values();
    const more = h("div", { className: "grid" });
    const details = h(
      "details",
      { className: "more", id: "more", open: this.#root.querySelector("#more")?.open ?? false },
      h("summary", {}, "More settings"),
      more,
    );
    this.#controls.clear();
    this.#root.replaceChildren(this.slot);
    for (const field of fields) (field.place === "main" ? this.#root : more).append(this.#row(field));
    this.#root.append(this.#modelRow(cards, card), details, this.problem, this.submit);
    this.submit.textContent = action;
    this.fill({
      ...Object.fromEntries(fields.map((field) => [field.name, field.default])),
      ...this.#carried(kept, card),
    });
    this.#problemOff();
  }

  // Numbers belong to a model's card: only what a person wrote goes with them to another model.
  #carried(kept, card) {
    const same = this.card?.id === card.id;
    this.card = card;
    const names = same
      ? Object.keys(kept)
      : ["prompt", "negative_prompt", "num_images", "output_format", "priority", "preview_every", "determinism"];
    return Object.fromEntries(Object.entries(kept).filter(([name]) => names.includes(name)));
  }

  #modelRow(cards, card) {
    this.model.replaceChildren(...cards.map(({ id }) => h("option", { value: id }, id)));
    this.model.value = card.id;
    const licence = h("a", { href: `v1/models/${card.id}`, title: card.licence }, "Licence and sources");
    const note = h("p", { className: "help" }, `${card.description} `, licence);
    return h(
      "div",
      { className: "field model", id: "row-model" },
      h("label", { htmlFor: "field-model" }, "Model"),
      this.model,
      note,
    );
  }

  #row(field) {
    const input = CONTROLS[field.control](field);
    input.id = `field-${field.name}`;
    input.name = field.name;
    input.title = field.description ?? "";
    input.setAttribute("aria-describedby", `help-${field.name} error-${field.name}`);
    this.#controls.set(field.name, { field, input });
    const label = h(
      "label",
      { htmlFor: input.id },
      field.label,
      field.unit && h("span", { className: "unit" }, ` ${field.unit}`),
    );
    return h(
      "div",
      { className: `field ${field.control}`, id: `row-${field.name}` },
      label,
      field.control === "slider" ? this.#slider(field, input) : field.control === "seed" ? this.#seed(input) : input,
      h("p", { className: "help", id: `help-${field.name}` }, field.help ?? ""),
      h("p", { className: "error", id: `error-${field.name}`, hidden: true }),
    );
  }

  // The slider is a second handle for the number beside it: hidden from readers, which have the number.
  #slider(field, input) {
    const { min = 0, max = field.soft, soft, step = 1 } = field;
    const range = h("input", {
      type: "range",
      min,
      max: Math.min(max, soft),
      step,
      tabIndex: -1,
      "aria-hidden": "true",
    });
    range.addEventListener("input", () => (input.value = range.value));
    input.addEventListener("input", () => (range.value = input.value));
    return h("div", { className: "slide" }, range, input);
  }

  #seed(input) {
    const forget = () => ((input.value = UNSET), input.focus());
    return h(
      "div",
      { className: "slide" },
      input,
      h(
        "button",
        { type: "button", className: "button small", title: "Draw a new seed for each request", onclick: forget },
        icon("dice"),
        h("span", {}, "Random"),
      ),
    );
  }

  /** Values as the request has them; empty controls are left out. */
  values() {
    const values = {};
    for (const [name, { input }] of this.#controls)
      if (input.type !== "checkbox" && input.value !== UNSET)
        values[name] = input.type === "number" ? Number(input.value) : input.value;
    for (const [name, { field, input }] of this.#controls)
      if (input.type === "checkbox") values[name] = input.checked ? field.on(values, this.card) : field.off;
    return values;
  }

  /** Sets the controls that `values` names. */
  fill(values) {
    for (const [name, { field, input }] of this.#controls) {
      if (!(name in values)) continue;
      if (field.control === "switch") input.checked = values[name] !== field.off;
      else input.value = values[name] ?? UNSET;
      input.dispatchEvent(new Event("input"));
    }
  }

  focus(name = "prompt") {
    (this.#controls.get(name)?.input ?? this.submit).focus();
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
    const row = this.#root.querySelector(
      `#error-${CSS.escape(
        String(problem.field ?? "")
          .split(".")
          .pop(),
      )}`,
    );
    const place = row ?? this.problem;
    place.textContent = problem.message + wait;
    place.hidden = false;
    const input = row?.parentElement.querySelector("[name]");
    input?.closest("details")?.setAttribute("open", "");
    input?.setAttribute("aria-invalid", "true");
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
