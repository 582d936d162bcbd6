/**
 * The tabs that choose a task, one for each that an installed card can do; arrow keys go from one to the next.
 */

import { byId, h } from "../lib/dom.js";

const NAMES = {
  txt2img: "Create",
  img2img: "From a picture",
  inpaint: "Repaint",
  depth2img: "By depth",
  upscale: "Upscale",
  class2img: "Of a class",
  semantic2img: "From a map",
  layout2img: "From boxes",
};
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** What people call a task; one that this page has never heard of by its own name. */
export const nameOf = (kind) => NAMES[kind] ?? kind[0].toUpperCase() + kind.slice(1).replaceAll("_", " ");

/** Those of the page's own tasks first, in the order in which people need them. */
export function inOrder(kinds) {
  const known = Object.keys(NAMES);
  const place = (kind) => (known.includes(kind) ? known.indexOf(kind) : known.length);
  return [...kinds].sort((a, b) => place(a) - place(b));
}

const tabs = () => [...byId("tabs").children];

/** Shows the tabs of `kinds`; nothing is rebuilt while they stay the same. */
export function showTabs(kinds, onChoose) {
  if (
    tabs()
      .map(({ dataset }) => dataset.kind)
      .join() === kinds.join()
  )
    return;
  byId("tabs").replaceChildren(...kinds.map((kind) => tabOf(kind, onChoose)));
}

function tabOf(kind, onChoose) {
  const onclick = () => onChoose(kind);
  const props = { type: "button", role: "tab", id: `tab-${kind}`, "data-kind": kind, "aria-controls": "form", onclick };
  const tab = h("button", props, nameOf(kind));
  tab.addEventListener("keydown", ({ key }) => key in STEPS && step(tab, STEPS[key]));
  return tab;
}

function step(tab, by) {
  const all = tabs();
  const next = all[(all.indexOf(tab) + by + all.length) % all.length];
  next.focus();
  next.click();
}

export function markTab(kind) {
  for (const tab of tabs()) {
    const selected = tab.dataset.kind === kind;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
  }
  byId("form").setAttribute("aria-labelledby", `tab-${kind}`);
  document.body.dataset.kind = kind;
}
