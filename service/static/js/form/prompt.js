/**
 * Below the prompt: how many tokens of the model's window it fills, the end of it that would be cut, and earlier prompts.
 */

import { button, h } from "../lib/dom.js";
import { prompts } from "../lib/keep.js";

/** A bar that `tell({count, cut}, window)` fills; empty where nobody counts. */
export function tokenBar() {
  const meter = h("meter", { min: 0, "aria-label": "Tokens of the prompt" });
  const count = h("span", {});
  const cut = h("p", { className: "cut", hidden: true });
  const node = h("div", { className: "tokens" }, meter, count, cut);
  const tell = (tokens, window) => {
    node.classList.toggle("known", Boolean(tokens?.count));
    cut.hidden = !tokens?.cut;
    if (!tokens?.count) return;
    meter.max = window;
    meter.high = window - 0.5;
    meter.value = Math.min(tokens.count, window);
    count.textContent = `${tokens.count} of ${window} tokens`;
    if (tokens.cut) cut.replaceChildren("Not read: ", h("del", {}, tokens.cut));
  };
  return { node, tell };
}

/** A button that lists the prompts sent before; `onChoose(prompt)` takes one. */
export function promptHistory(onChoose) {
  const list = h("ul", { className: "menu", hidden: true, id: "prompt-history" });
  const toggle = button(
    "Earlier",
    { className: "button small", "aria-expanded": "false", "aria-controls": list.id },
    "clock",
  );
  const show = (on) => {
    list.hidden = !on;
    toggle.setAttribute("aria-expanded", String(on));
  };
  const choose = (prompt) => (show(false), onChoose(prompt));
  toggle.addEventListener("click", () => {
    const items = prompts().map((prompt) =>
      h("li", {}, h("button", { type: "button", onclick: () => choose(prompt) }, prompt)),
    );
    list.replaceChildren(
      ...(items.length ? items : [h("li", { className: "help" }, "Prompts that you send appear here.")]),
    );
    show(list.hidden);
  });
  const node = h("div", { className: "earlier" }, toggle, list);
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || list.hidden) return;
    event.stopPropagation();
    show(false);
    toggle.focus();
  });
  return node;
}
