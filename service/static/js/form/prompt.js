/**
 * Below the prompt: looks that the model knows, how many tokens of its window the prompt fills, the end of it that would
 * be cut, and earlier prompts.
 */

import { button, h } from "../lib/dom.js";
import { prompts } from "../lib/keep.js";

/** A bar that `tell({count, specials, cut, chunks}, window)` fills with the prompt's own; empty where nobody counts. */
export function tokenBar() {
  const meter = h("meter", { min: 0, "aria-label": "Tokens of the prompt" });
  const count = h("span", {});
  const cut = h("p", { className: "cut", hidden: true });
  const node = h("div", { className: "tokens" }, meter, count, cut);
  const tell = (tokens, window) => {
    const known = Number.isInteger(tokens?.count);
    node.classList.toggle("known", known);
    cut.hidden = !tokens?.cut;
    if (!known) return;
    const { specials = 0, chunks } = tokens; // each chunk is encoded by itself, with its own start and end
    const parts = chunks?.length || 1;
    const [own, room] = [tokens.count - parts * specials, window - specials];
    meter.max = parts * room;
    meter.high = meter.max - 0.5;
    meter.value = Math.min(own, meter.max);
    count.textContent = parts > 1 ? `${own} tokens, read in ${parts} parts` : `${own} of ${room} tokens`;
    cut.title = tokens.cut ?? ""; // its line has the beginning
    if (tokens.cut) cut.replaceChildren("Not read: ", h("del", { dir: "auto" }, tokens.cut));
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
      h("li", {}, h("button", { type: "button", dir: "auto", onclick: () => choose(prompt) }, prompt)),
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

/** Chips of the looks that a card lists: each adds its words to the end of `prompt`, or takes them out again. */
export function styleChips(styles, prompt) {
  const has = ({ suffix }) => prompt.value.includes(suffix);
  const turn = (style) => {
    const on = styles.filter((each) => has(each) !== (each === style));
    const bare = styles.reduce((text, { suffix }) => text.replace(suffix, ""), prompt.value).trimEnd();
    prompt.value = bare + on.map(({ suffix }) => suffix).join("");
    prompt.setSelectionRange(bare.length, bare.length); // who goes on typing names the thing
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const chips = styles.map((style) =>
    h(
      "button",
      { type: "button", className: "chip", title: style.suffix.trim(), onclick: () => turn(style) },
      style.name,
    ),
  );
  const mark = () => chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(has(styles[i]))));
  prompt.addEventListener("input", mark);
  mark();
  return chips.length > 0 && h("div", { className: "chips", role: "group", "aria-label": "Looks" }, chips);
}
