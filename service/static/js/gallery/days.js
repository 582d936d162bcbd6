/**
 * Thumbnails by day. What stays is kept in its place, so that focus and scroll survive every update.
 */

import { h } from "../lib/dom.js";
import { nameOf } from "../form/tabs.js";
import { address, goTo } from "../lib/address.js";

const STATUS = { queued: "waiting", running: "running", failed: "failed", canceled: "canceled", succeeded: "" };
const DAY_MS = 24 * 3600 * 1000;

export class Days {
  node = h("div", { className: "days" });
  #items = new Map(); // by id: {node, state}
  #sections = new Map(); // by day
  #marked = "";

  show(jobs) {
    const days = byDay(jobs);
    const ids = new Set(jobs.map(({ id }) => id));
    for (const [id, { node }] of this.#items) if (!ids.has(id)) (node.remove(), this.#items.delete(id));
    for (const [day, { node }] of this.#sections) if (!days.has(day)) (node.remove(), this.#sections.delete(day));
    arrange(
      this.node,
      [...days].map(([day, of]) => this.#section(day, of)),
    );
    this.mark(this.#marked);
  }

  /** Marks the job that the stage shows. */
  mark(id) {
    this.#marked = id;
    for (const link of this.node.querySelectorAll("a"))
      link.setAttribute("aria-current", String(link.dataset.id === id));
  }

  #section(day, jobs) {
    if (!this.#sections.has(day)) {
      const list = h("ul", { className: "thumbs" });
      const name = h("h3");
      this.#sections.set(day, { name, list, node: h("section", {}, name, list) });
    }
    const { name, list, node } = this.#sections.get(day);
    name.textContent = dayName(day); // today is yesterday on a page that stays open
    arrange(
      list,
      jobs.map((job) => this.#item(job)),
    );
    return node;
  }

  #item(job) {
    const state = JSON.stringify([job.status, job.progress.step, job.images.length]);
    const known = this.#items.get(job.id);
    if (known?.state === state) return known.node;
    const node = known?.node ?? itemOf(job);
    const link = node.querySelector("a");
    const title = titleOf(job);
    Object.assign(link, { className: `thumb ${job.status}`, title, ariaLabel: title });
    link.replaceChildren(...pictureOf(job));
    node.querySelector("input").ariaLabel = `Select ${title}`;
    this.#items.set(job.id, { node, state });
    return node;
  }
}

/** Jobs by the day on which they were made, in their order. */
function byDay(jobs) {
  const days = new Map();
  for (const job of jobs) {
    const day = new Date(job.created_at).toDateString();
    days.set(day, [...(days.get(day) ?? []), job]);
  }
  return days;
}

/** Puts `nodes` into `parent` in order, moving only what isn't there yet. */
function arrange(parent, nodes) {
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
}

function itemOf(job) {
  const link = h("a", { href: `#job=${job.id}`, "data-id": job.id });
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault();
    goTo({ task: address().task || job.kind, job: job.id });
    dispatchEvent(new Event("hashchange")); // where the address said it already, too: it may be that it couldn't be shown
  });
  return h("li", {}, link, h("input", { type: "checkbox", className: "pick", "data-id": job.id }));
}

function pictureOf(job) {
  const [image] = job.images;
  const share = job.progress.steps ? Math.round((100 * job.progress.step) / job.progress.steps) : 0;
  const label = job.status === "running" ? `${share} %` : STATUS[job.status];
  const picture = image
    ? h("img", { src: image.url, alt: "", loading: "lazy", draggable: false })
    : h("span", { className: "blank" }, label);
  const badge = job.images.length > 1 && h("span", { className: "badge" }, String(job.images.length));
  return [picture, badge].filter(Boolean);
}

const titleOf = (job) => [nameOf(job.kind), job.request.prompt, STATUS[job.status]].filter(Boolean).join(": ");

function dayName(day) {
  const ago = Math.round((new Date(new Date().toDateString()) - new Date(day)) / DAY_MS);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  return new Date(day).toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long" });
}
