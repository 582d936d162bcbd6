/**
 * The newest jobs as thumbnails by day: this browser's, or all that the service shows; filtered, searched, selected.
 */

import * as api from "../lib/api.js";
import { button, h, tell } from "../lib/dom.js";
import { mine, store, stored } from "../lib/keep.js";
import { Filters } from "./filters.js";
import { Days } from "./days.js";
import { Selection } from "./selection.js";

const PAGE = 24;
const PAGES_AT_ONCE = 5;
const REFRESH_MS = 6000;
const LOOKS = 2; // at jobs of older pages at once: a key has so many calls a minute
const GONE = [404, 410];
const PAINT = 0.9; // of a job's time, where none of its kind was measured

const isUnderway = ({ status }) => status === "queued" || status === "running";

export class Gallery {
  #jobs = new Map();
  #cursor = null;
  #timer = 0;
  #problem = null; // why the last page wasn't read
  #newest = 0; // when the newest job was made that a first page had
  #loads = { newest: 0, more: 0 }; // a load that another of its kind has overtaken must not be shown
  #reread = () => this.refresh();
  #days = new Days();
  #empty = h("p", { className: "help" });
  #more = button("Show more", { className: "button small", hidden: true, onclick: () => this.#load(this.#cursor, false) });
  #cancelAll = button("", {
    className: "button small",
    id: "cancel-all",
    hidden: true,
    onclick: () => this.#cancelMine(),
  });

  /** `onCompare(first, second)` shows two pictures side by side. */
  constructor(root, { onCompare }) {
    this.all = stored("everyone", false);
    this.filters = new Filters(() => this.#again());
    const loaded = (ids) => ids.map((id) => this.#jobs.get(id)).filter(Boolean);
    this.selection = new Selection(this.#days.node, { loaded, onCompare, onDeleted: () => this.#again() });
    const scope = h(
      "div",
      { className: "segmented", role: "radiogroup", "aria-label": "Whose jobs" },
      this.#scope("Mine", "This browser's", false),
      this.#scope("All", "Everyone's", true),
    );
    root.append(
      h(
        "div",
        { className: "history-head" },
        h("h2", { id: "history-title" }, "Gallery"),
        scope,
        this.selection.toggle,
      ),
      this.filters.node,
      this.selection.bar,
      this.#cancelAll,
      this.#empty,
      this.#days.node,
      this.#more,
    );
  }

  #scope(label, title, all) {
    const onchange = () => {
      this.all = all;
      store("everyone", all);
      this.#again();
    };
    const input = h("input", { type: "radio", name: "scope", checked: this.all === all, onchange });
    return h("label", { className: "choice", title }, input, h("span", {}, label));
  }

  /** Marks the job that the stage shows. */
  select(id) {
    this.#days.mark(id);
  }

  /** Takes a job out, whose end is known before the list says so. */
  know(job) {
    if (this.#jobs.has(job.id)) this.#jobs.set(job.id, job);
  }

  /** Shares of painting and of the rest in jobs of a kind and model, as the newest of them measured them. */
  stages({ kind, request }) {
    const of = [...this.#jobs.values()].filter((job) => job.kind === kind && job.request.model === request.model);
    const { timings } = of.find((job) => job.timings.denoise_s) ?? {};
    if (!timings) return { paint: PAINT };
    const { denoise_s: paint, decode_s: decode, store_s: stored_ } = timings;
    return { paint: paint / (paint + (decode ?? 0) + (stored_ ?? 0)) };
  }

  #again() {
    this.#jobs.clear();
    this.#cursor = null;
    this.#loads.more += 1;
    return this.refresh(false);
  }

  /**
   * Reads the newest page again, and goes on doing so while jobs are under way or it wasn't answered, until the tab is
   * hidden; `quiet` as api.js has it.
   */
  async refresh(quiet = true) {
    clearTimeout(this.#timer);
    await this.#load(null, quiet);
    clearTimeout(this.#timer);
    const again = this.#problem && api.passes(this.#problem);
    const wait = Math.max(REFRESH_MS, 1000 * (this.#problem?.retryAfter ?? 0));
    if (again || [...this.#jobs.values()].some(isUnderway))
      this.#timer = setTimeout(() => document.hidden || this.refresh(), wait);
  }

  // Pages are the service's, and jobs of others are left out here: one call may take a few pages to find some.
  async #load(cursor, quiet) {
    const kind = cursor === null ? "newest" : "more";
    const load = ++this.#loads[kind];
    const own = new Set(mine());
    const known = this.#jobs.size;
    const again = cursor === null && known > 0;
    const { model, ...query } = this.filters.query;
    try {
      for (let pages = 0; pages < PAGES_AT_ONCE; pages++) {
        const page = await api.jobs({ ...query, limit: PAGE, cursor }, { quiet });
        if (load !== this.#loads[kind]) return;
        for (const job of page.items)
          if ((this.all || own.has(job.id)) && (!model || job.request.model === model)) this.#jobs.set(job.id, job);
        cursor = page.next_cursor;
        const gap = kind === "newest" && this.#gapBehind(page.items);
        if (!again || gap) this.#cursor = cursor;
        if (again) await this.#lookBehind(page.items);
        if (load !== this.#loads[kind]) return;
        if (again || !cursor || this.#jobs.size >= known + PAGE) break;
      }
      this.#render(null);
    } catch (problem) {
      if (problem.status === api.UNAUTHORIZED) addEventListener("key", this.#reread, { once: true });
      if (load === this.#loads[kind]) this.#render(problem);
    }
  }

  /** Whether more jobs came since a first page was read than this one has: those between are behind its cursor. */
  #gapBehind(items) {
    const made = items.map((job) => Date.parse(job.created_at));
    const gap = made.length > 0 && Math.min(...made) > this.#newest;
    this.#newest = Math.max(this.#newest, ...made);
    return gap;
  }

  /** Looks at jobs under way that the newest page doesn't list, those first that it hasn't looked at for longest. */
  async #lookBehind(items) {
    const listed = new Set(items.map(({ id }) => id));
    const others = [...this.#jobs.values()].filter((job) => isUnderway(job) && !listed.has(job.id));
    await Promise.all(others.slice(0, LOOKS).map(({ id }) => this.#look(id)));
  }

  async #look(id) {
    try {
      const job = await api.job(id, { quiet: true });
      if (this.#jobs.delete(id)) this.#jobs.set(id, job); // the last of them now
    } catch (problem) {
      if (!GONE.includes(problem.status)) throw problem;
      this.#jobs.delete(id);
    }
  }

  #render(problem) {
    this.#problem = problem;
    const jobs = [...this.#jobs.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
    this.#days.show(jobs);
    this.filters.offer(jobs);
    const nothing = this.filters.any ? "Nothing matches." : "What you make appears here.";
    this.#empty.textContent = problem?.message || (jobs.length ? "" : nothing);
    this.#empty.hidden = this.#empty.textContent === "";
    this.#more.hidden = !this.#cursor || (!this.all && mine().every((id) => this.#jobs.has(id)));
    const running = this.#mineUnderway();
    this.#cancelAll.hidden = running.length < 2;
    this.#cancelAll.querySelector("span").textContent = `Cancel all ${running.length} of mine`;
    this.selection.refresh();
  }

  #mineUnderway() {
    const own = new Set(mine());
    return [...this.#jobs.values()].filter((job) => isUnderway(job) && own.has(job.id));
  }

  async #cancelMine() {
    const ends = await Promise.allSettled(this.#mineUnderway().map(({ id }) => api.cancel(id)));
    const failed = ends.filter(({ status }) => status === "rejected");
    tell(failed.length ? failed[0].reason.message : "Canceled");
    await this.refresh();
  }
}
