/**
 * Keys of the whole page, and the sheet that lists them and those of its parts.
 */

import { byId, h, openSheet } from "../lib/dom.js";

const KEYS = [
  ["Anywhere", [["?", "This list"], ["/", "To the prompt"], ["G", "Search the gallery"], ["Ctrl Enter", "Send the request"], ["1 … 9 with Alt", "The task of that tab"]]],
  ["Prompt", [["Enter", "Send"], ["Shift Enter", "A new line"]]],
  ["Picture", [["← →", "The picture before, the next"], ["+ −", "Larger, smaller"], ["0 1", "All of it, pixel for pixel"], ["Wheel, pinch", "Zoom"]]],
  ["Mask", [["Arrows", "Move; Shift: further"], ["Space", "Begin and end drawing"], ["[ ]", "Smaller, larger brush"], ["B E R", "Brush, eraser, rectangle"], ["Ctrl Z, Ctrl Y", "Undo, redo"], ["Escape", "Drop what is being drawn"]]],
]; // prettier-ignore

/** Listens to the page's keys; `actions` are `{prompt, search, send, tab(index)}`. */
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

function actionOf(event, { prompt, search, send, tab }) {
  const { key } = event;
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) return send;
  if (event.altKey && /^[1-9]$/.test(key)) return () => tab(Number(key) - 1);
  if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return undefined;
  return { "?": show, "/": prompt, g: search, G: search }[key];
}

function show() {
  const groups = KEYS.map(([title, keys]) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h("dl", { className: "keys" }, keys.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)))),
    ),
  );
  openSheet("Keyboard", h("div", { className: "groups" }, groups));
}
