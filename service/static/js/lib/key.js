/**
 * The API key of this tab, where the gateway wants one: asked for in a dialog, kept until the tab is closed.
 */

import { h } from "./dom.js";
import { ofTab } from "./memory.js";

const NAME = "latentd.key";
let asking = null;
let asked = 0; // dialogs that were ended
let entered = false; // by the last of them

/** The header that carries the key; none where there is no key. */
export function authorization() {
  const key = ofTab.get(NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** How often a key was asked for: a call notes it before it is sent, for `askForKey`. */
export const timesAsked = () => asked;

/**
 * Asks for a key, once for all calls that wait; resolves to whether one was given. A call that was `sentAfter` fewer
 * dialogs than there were was refused for what was known before: what the last of them ended with holds for it, too.
 */
export function askForKey(sentAfter) {
  if (sentAfter !== asked) return Promise.resolve(entered);
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

// The first time nobody has done anything wrong yet. What the service says of a key is for programs.
const UNKNOWN =
  "That key isn't known here, has expired or was withdrawn. Is all of it there? Whoever runs the service can make another.";

function ask() {
  const given = ofTab.get(NAME) !== null;
  const input = h("input", { id: "api-key", type: "password", autocomplete: "off", required: true, spellcheck: false });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "api-key-title" }, "Sign in with your key"),
    h(
      "p",
      { className: "help" },
      "This service is open to people who have a key. Whoever runs it gives you one; it looks like lat_… and stays in " +
        "this tab until you close it.",
    ),
    given && h("p", { className: "error", role: "alert" }, UNKNOWN),
    h("label", { htmlFor: "api-key" }, "Your key"),
    input,
    h("button", { type: "submit", className: "button primary" }, h("span", {}, "Continue")),
  );
  const dialog = h("dialog", { className: "api-key", "aria-labelledby": "api-key-title" }, form);
  return new Promise((resolve) => {
    let submitted = false;
    form.addEventListener("submit", () => {
      submitted = true;
      ofTab.set(NAME, input.value.trim());
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      asked += 1;
      entered = submitted;
      resolve(entered);
      if (entered) dispatchEvent(new Event("key")); // what was refused in the meantime can be read now
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
