/**
 * Thumbnails of the newest jobs: this browser's, or all that the service shows.
 */

import * as api from "./api.js";
import { button, h } from "./dom.js";
import { mine } from "./sources.js";

const PAGE = 24;
const PAGES_AT_ONCE = 5;
const REFRESH_MS = 3000;
const SHOW_ALL = "latentd.history";
const NAMES = { txt2img: "Created", inpaint: "Repainted", upscale: "Upscaled" };
const STATUS = { queued: "waiting", running: "running", failed: "failed", canceled: "canceled", succeeded: "" };

export class History {
  #list = h("ul", { className: "thumbs" });
  #empty = h("p", { className: "help" });
  #more = button("Show more", { className: "button small", hidden: true, onclick: () => this.#load(this.#cursor) });
  #jobs = new Map();
  #cursor = null;
  #timer = 0;
  #selected = "";

  constructor(root) {
    this.all = localStorage.getItem(SHOW_ALL) === "all";
    const scope = h(
      "div",
      { className: "group segmented", role: "radiogroup", "aria-label": "Whose jobs" },
      this.#scope("This browser", false),
      this.#scope("Everyone", true),
    );
    root.append(
      h("div", { className: "history-head" }, h("h2", { id: "history-title" }, "Recent"), scope),
      this.#empty,
      this.#list,
      this.#more,
    );
  }

  #scope(label, all) {
    const onchange = () => {
      this.all = all;
      localStorage.setItem(SHOW_ALL, all ? "all" : "mine");
      this.#jobs.clear();
      this.refresh();
    };
    return h(
      "label",
      { className: "choice" },
      h("input", { type: "radio", name: "scope", checked: this.all === all, onchange }),
      h("span", {}, label),
    );
  }

  /** Marks the job that the stage shows. */
  select(id) {
    this.#selected = id;
    for (const link of this.#list.querySelectorAll("a"))
      link.setAttribute("aria-current", String(link.dataset.id === id));
  }

  /** Reads the newest page again, and goes on doing so while jobs of it are under way. */
  async refresh() {
    clearTimeout(this.#timer);
    await this.#load(null);
    const underway = [...this.#jobs.values()].some(({ status }) => status === "queued" || status === "running");
    if (underway) this.#timer = setTimeout(() => this.refresh(), REFRESH_MS);
  }

  // Pages are the service's, and jobs of others are left out here: one call may take a few pages to find some.
  async #load(cursor) {
    const own = new Set(mine());
    const known = this.#jobs.size;
    try {
      for (let pages = 0; pages < PAGES_AT_ONCE; pages++) {
        const page = await api.jobs(PAGE, cursor);
        for (const job of page.items) if (this.all || own.has(job.id)) this.#jobs.set(job.id, job);
        const again = cursor === null && known > 0;
        cursor = page.next_cursor;
        if (!again) this.#cursor = cursor;
        if (again || !cursor || this.#jobs.size >= known + PAGE) break;
      }
      this.#render("");
    } catch (problem) {
      this.#render(problem.message);
    }
  }

  #render(problem) {
    const jobs = [...this.#jobs.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
    this.#list.replaceChildren(...jobs.map((job) => h("li", {}, this.#thumb(job))));
    this.#empty.textContent = problem || (jobs.length ? "" : "What you make appears here.");
    this.#empty.hidden = this.#empty.textContent === "";
    this.#more.hidden = !this.#cursor;
    this.select(this.#selected);
  }

  #thumb(job) {
    const [image] = job.images;
    const title = [NAMES[job.kind] ?? job.kind, job.request.prompt, STATUS[job.status]].filter(Boolean).join(": ");
    const share = job.progress.steps ? Math.round((100 * job.progress.step) / job.progress.steps) : 0;
    const label = job.status === "running" ? `${share} %` : STATUS[job.status];
    return h(
      "a",
      { href: `#job=${job.id}`, className: `thumb ${job.status}`, title, "aria-label": title, "data-id": job.id },
      image ? h("img", { src: image.url, alt: "", loading: "lazy" }) : h("span", { className: "blank" }, label),
      job.images.length > 1 && h("span", { className: "badge" }, String(job.images.length)),
    );
  }
}
