/**
 * The few helpers that build this page: elements, icons, announcements and how numbers are written.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with properties, listeners (`onclick`) and children. Strings become text nodes: no markup is ever parsed.
 * Properties that are undefined, null or false are left out.
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

/** A symbol of icons.svg, hidden from screen readers: every button has words of its own. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

export function button(label, props = {}, iconName = undefined) {
  return h(
    "button",
    { type: "button", className: "button", ...props },
    iconName && icon(iconName),
    h("span", {}, label),
  );
}

/** One of a stage's tools. */
export const tool = (label, onclick, symbol, title) => button(label, { className: "button small", onclick, title }, symbol);

/** Whether a key is that of an input method, which writes a word by several; Safari says so by the old code alone. */
export const composes = ({ isComposing, keyCode }) => isComposing || keyCode === 229;

/** Whether keys write into a node. */
export const writes = (node) =>
  node.matches?.("textarea, select, input:not([type=range], [type=checkbox], [type=radio])");

/** A key's letter, small; that of its place among Latin ones where it writes another script's. */
export const letterOf = ({ key, code }) =>
  (key.length === 1 && key > "~" && code.startsWith("Key") ? code[3] : key).toLowerCase();

/** What keys ask for: "undo", "redo", or nothing of the two. */
export function historyKey(event) {
  const pressed = event.ctrlKey || event.metaKey ? letterOf(event) : "";
  if (pressed === "y" || (pressed === "z" && event.shiftKey)) return "redo";
  return pressed === "z" ? "undo" : undefined;
}

/** Box of a picture's shape, which stage.css fits into the stage. */
export function pictureBox({ width, height }, ...children) {
  const box = h("div", { className: "canvas" }, ...children);
  box.style.setProperty("--w", width);
  box.style.setProperty("--h", height);
  return box;
}

export const byId = (id) => document.getElementById(id);

/** Says a sentence to screen readers once; repeated text is not read again. */
export function announce(text) {
  const region = byId("announce");
  if (region.textContent !== text) region.textContent = text;
}

const TOLD_MS = 5000;

/** Says a sentence to everyone: what was done or went wrong where nothing else on the page shows it. */
export function tell(text) {
  announce(text);
  const note = h("p", { className: "told", "aria-hidden": "true" }, text);
  byId("told").replaceChildren(note);
  setTimeout(() => note.remove(), TOLD_MS);
}

/** Seconds as people say them: 0.42 s, 7.1 s, 2 min 5 s. */
export function seconds(value) {
  if (value < 1) return `${value.toFixed(2)} s`;
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1024 ** 2) return `${(value / 1024).toFixed(value < 10240 ? 1 : 0)} KiB`;
  return `${(value / 1024 ** 2).toFixed(1)} MiB`;
}

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Puts `node` into view where it isn't: every action that changes the stage calls it. */
export function reveal(node) {
  const { top, bottom } = node.getBoundingClientRect();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top < 0 || bottom > innerHeight) node.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

/** Lets `work` build `root` anew, and gives focus and caret back to the control of the same id. */
export function keepFocus(root, work) {
  const { activeElement: node } = document;
  const { id, selectionStart, selectionEnd } = node;
  const inside = id && root.contains(node);
  work();
  const again = inside && byId(id);
  if (!again) return;
  again.focus();
  if (selectionStart !== null && again.setSelectionRange) again.setSelectionRange(selectionStart, selectionEnd);
}

/** Calls `work` once nothing has asked for it for `ms`. */
export function debounced(ms, work) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), ms);
  };
}

/** Calls `work` when somebody comes back to the page. */
export function onReturn(work) {
  addEventListener("focus", () => work());
  document.addEventListener("visibilitychange", () => document.hidden || work());
}

/** A modal sheet with a heading and a way to close it; focus goes in, stays and comes back (as `dialog` does). */
export function openSheet(title, ...children) {
  const close = button("Close", { className: "button small close", onclick: () => dialog.close() }, "clear");
  const head = h("header", {}, h("h2", { id: "sheet-title" }, title), close);
  const dialog = h("dialog", { className: "sheet", "aria-labelledby": "sheet-title" }, head, ...children);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
