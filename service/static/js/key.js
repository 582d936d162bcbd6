/**
 * The API key of this tab, where the gateway wants one: asked for in a dialog, kept until the tab is closed.
 */

import { h } from "./dom.js";

const NAME = "latentd.key";
let asking = null;

/** The header that carries the key; none where there is no key. */
export function authorization() {
  const key = sessionStorage.getItem(NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Asks for a key, once for all calls that wait; resolves to whether one was given. */
export function askForKey(detail) {
  asking ??= ask(detail).finally(() => (asking = null));
  return asking;
}

function ask(detail) {
  const input = h("input", { id: "api-key", type: "password", autocomplete: "off", required: true, spellcheck: false });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "api-key-title" }, "This service asks for an API key"),
    h("p", {}, detail),
    h("label", { htmlFor: "api-key" }, "API key"),
    input,
    h("button", { type: "submit", className: "button primary" }, h("span", {}, "Use this key")),
  );
  const dialog = h("dialog", { className: "api-key", "aria-labelledby": "api-key-title" }, form);
  return new Promise((resolve) => {
    let given = false;
    form.addEventListener("submit", () => {
      given = true;
      sessionStorage.setItem(NAME, input.value.trim());
    });
    dialog.addEventListener("close", () => (dialog.remove(), resolve(given)));
    document.body.append(dialog);
    dialog.showModal();
  });
}
