/**
 * Keys of the whole page.
 */

import { byId } from "../lib/dom.js";

/** Listens to the page's keys; `actions` are `{prompt, picture, search, send, tab(index)}`. */
export function listenToShortcuts(actions) {
  byId("shortcuts").addEventListener("click", show);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const act = actionOf(event, actions);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

const writes = (node) => node.matches?.("textarea, select, input:not([type=range], [type=checkbox], [type=radio])");

function actionOf(event, { prompt, picture, search, send, tab }) {
  const { key } = event;
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) return send;
  if (key === "Escape" && writes(event.target)) return () => event.target.blur(); // so that keys are the page's again
  if (event.altKey && /^[1-9]$/.test(key)) return () => tab(Number(key) - 1);
  if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return undefined;
  return { "?": show, "/": prompt, p: picture, P: picture, g: search, G: search }[key];
}

async function show() {
  const { showKeys } = await import("./keys.js");
  showKeys();
}
