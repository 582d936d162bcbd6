/**
 * The sheet that lists the keys of the page and of its parts.
 */

import { h, openSheet } from "../lib/dom.js";

const KEYS = [
  [
    "Anywhere",
    [
      ["?", "This list"],
      ["/", "To the prompt"],
      ["P", "To the picture"],
      ["G", "Search the gallery"],
      ["Ctrl Enter", "Send the request"],
      ["1 … 9 with Alt", "The task of that tab"],
      ["Escape", "Leave the field, for these keys"],
    ],
  ],
  [
    "Prompt",
    [
      ["Enter", "Send"],
      ["Shift Enter", "A new line"],
    ],
  ],
  [
    "Picture",
    [
      ["← →", "The picture before, the next"],
      ["+ −", "Larger, smaller"],
      ["0 1", "All of it, pixel for pixel"],
      ["Wheel, pinch", "Zoom"],
    ],
  ],
  [
    "Mask",
    [
      ["Arrows", "Move; Shift: further"],
      ["Space", "Begin and end drawing"],
      ["[ ]", "Smaller, larger brush"],
      ["B E R", "Brush, eraser, rectangle"],
      ["Ctrl Z, Ctrl Y", "Undo, redo"],
      ["Escape", "Drop what is being drawn"],
    ],
  ],
  [
    "Boxes",
    [
      ["Arrows", "Move the box"],
      ["Shift Arrows", "Its right and lower side"],
      ["Delete", "Remove it"],
      ["Ctrl Z, Ctrl Y", "Undo, redo"],
    ],
  ],
];

export function showKeys() {
  const groups = KEYS.map(([title, keys]) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h(
        "dl",
        { className: "keys" },
        keys.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text))),
      ),
    ),
  );
  openSheet("Keyboard", h("div", { className: "groups" }, groups));
}
