/**
 * The tabs that choose a task; arrow keys go from one to the next.
 */

import { byId } from "./dom.js";

const tabs = () => [...document.querySelectorAll("[role=tab]")];
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** Enables the tabs: before the models are known there is nothing that they could show. */
export function listenToTabs(onChoose) {
  for (const tab of tabs()) {
    tab.disabled = false;
    tab.addEventListener("click", () => onChoose(tab.dataset.kind));
    tab.addEventListener("keydown", ({ key }) => key in STEPS && step(tab, STEPS[key]));
  }
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
