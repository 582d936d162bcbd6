/**
 * Several jobs at once: saved as a ZIP, removed for good, or two of them compared.
 */

import * as api from "../lib/api.js";
import { button, h, openSheet, plural, tell } from "../lib/dom.js";

export class Selection {
  #picked = new Set();
  #count = h("span", { className: "picked", role: "status" });

  /** `loaded(ids)` gives the jobs of ids; `onDeleted()` is called when some are gone. */
  constructor(list, { loaded, onCompare, onDeleted }) {
    Object.assign(this, { list, loaded, onCompare, onDeleted });
    this.toggle = button("Select", {
      className: "button small",
      id: "select",
      "aria-pressed": "false",
      onclick: () => this.#turn(this.bar.hidden),
    });
    this.zip = button("ZIP", { className: "button small", id: "selected-zip", onclick: () => this.#zip() }, "download");
    this.compare = button("Compare", {
      className: "button small",
      id: "selected-compare",
      onclick: () => this.#compare(),
    });
    this.remove = button(
      "Delete",
      { className: "button small", id: "selected-delete", onclick: () => this.#ask() },
      "clear",
    );
    const props = { className: "selection", hidden: true, role: "group", "aria-label": "Selected jobs" };
    this.bar = h("div", props, this.#count, this.zip, this.compare, this.remove);
    list.addEventListener("change", ({ target }) => target.matches(".pick") && this.#pick(target));
  }

  #turn(on) {
    this.bar.hidden = !on;
    this.list.classList.toggle("selecting", on);
    this.toggle.setAttribute("aria-pressed", String(on));
    this.#picked.clear();
    for (const box of this.list.querySelectorAll(".pick")) box.checked = false;
    this.#show();
  }

  #pick({ checked, dataset }) {
    if (checked) this.#picked.add(dataset.id);
    else this.#picked.delete(dataset.id);
    this.#show();
  }

  /** Forgets what is no longer there; the list is read. */
  refresh() {
    this.#picked = new Set(this.#jobs().map(({ id }) => id));
    this.#show();
  }

  // While the list is read again, some that are picked may not be loaded.
  #show() {
    const jobs = this.#jobs();
    this.#count.textContent = `${this.#picked.size} selected`;
    this.zip.disabled = !this.#images.length;
    this.remove.disabled = !jobs.length;
    this.compare.disabled = jobs.length !== 2 || jobs.some(({ images }) => !images.length);
  }

  #jobs() {
    return this.loaded([...this.#picked]);
  }

  get #images() {
    return this.#jobs().flatMap(({ images }) => images);
  }

  async #zip() {
    const images = this.#images; // of now: the selection may be over before its module has come
    try {
      const { saveZip } = await import("../stage/files.js");
      await saveZip(images, "latentd");
    } catch (problem) {
      tell(problem.message);
    }
  }

  #compare() {
    const [first, second] = this.#jobs();
    this.onCompare(first, second);
  }

  #ask() {
    const jobs = this.#jobs();
    const remove = () => (sheet.close(), this.#remove(jobs));
    const sheet = openSheet(
      `Delete ${plural(jobs.length, "job")}?`,
      h("p", {}, "Their pictures are removed from the service for good."),
      button("Delete", { className: "button primary", id: "confirm-delete", onclick: remove }),
    );
  }

  async #remove(jobs) {
    const ends = await Promise.allSettled(jobs.map(({ id }) => api.purge(id)));
    const failed = ends.filter(({ status }) => status === "rejected");
    tell(failed.length ? failed[0].reason.message : `${plural(jobs.length, "job")} deleted`);
    this.#turn(false);
    this.onDeleted();
  }
}
