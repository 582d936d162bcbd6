/**
 * Keys of the whole page.
 */

import { byId, composes, letterOf, writes } from "../lib/dom.js";

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

function actionOf(event, { prompt, picture, search, send, tab }) {
  if (composes(event)) return undefined;
  const { key, code } = event;
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) return send;
  if (key === "Escape" && writes(event.target)) return () => event.target.blur(); // so that keys are the page's again
  const [, digit] = /^Digit([1-9])$/.exec(code) ?? [];
  // On many layouts a digit writes a sign with Option or AltGr, "[" for one: where one writes it is that.
  if (event.altKey && digit && (key === digit || !writes(event.target))) return () => tab(digit - 1);
  if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return undefined;
  return { "?": show, "/": prompt, p: picture, g: search }[letterOf(event)];
}

async function show() {
  const { showKeys } = await import("./keys.js");
  showKeys();
}
