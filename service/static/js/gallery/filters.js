/**
 * What the gallery shows: a search in prompts, and filters by task, status and model.
 */

import { debounced, h } from "../lib/dom.js";
import { nameOf } from "../form/tabs.js";

const PAUSE_MS = 300;
const STATUSES = { queued: "Waiting", running: "Running", succeeded: "Done", failed: "Failed", canceled: "Canceled" };

export class Filters {
  #search = h("input", {
    type: "search",
    id: "search",
    dir: "auto",
    placeholder: "Search prompts",
    "aria-label": "Search prompts",
    maxLength: 200,
  });
  #kind = h("select", { "aria-label": "Task", id: "filter-kind" }, h("option", { value: "" }, "Task"));
  #status = h(
    "select",
    { "aria-label": "Status", id: "filter-status" },
    h("option", { value: "" }, "Status"),
    Object.entries(STATUSES).map(([value, label]) => h("option", { value }, label)),
  );
  #model = h("select", { "aria-label": "Model", id: "filter-model" }, h("option", { value: "" }, "Model"));

  /** `onChange()` is called when the answer to `query` has changed. */
  constructor(onChange) {
    this.#search.addEventListener("input", debounced(PAUSE_MS, onChange));
    for (const select of [this.#kind, this.#status, this.#model]) select.addEventListener("change", onChange);
    const selects = h("div", { className: "selects" }, this.#kind, this.#status, this.#model);
    this.node = h("div", { className: "filters", role: "search" }, this.#search, selects);
  }

  /** As `GET /v1/jobs` has them; `model` is ours alone. */
  get query() {
    return {
      q: this.#search.value.trim(),
      kind: this.#kind.value,
      status: this.#status.value,
      model: this.#model.value,
    };
  }

  get any() {
    return Object.values(this.query).some(Boolean);
  }

  focus() {
    this.#search.focus();
  }

  /** Adds the tasks of installed models to what can be chosen. */
  tasks(kinds) {
    add(this.#kind, kinds, nameOf);
  }

  /** Adds the models of jobs that were seen. */
  offer(jobs) {
    add(this.#model, [...new Set(jobs.map(({ request }) => request.model))], (model) => model);
  }
}

function add(select, values, label) {
  const there = new Set([...select.options].map(({ value }) => value));
  select.append(...values.filter((value) => !there.has(value)).map((value) => h("option", { value }, label(value))));
}
