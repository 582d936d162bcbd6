/**
 * The sheet that asks what a picture is for.
 */

import { button, h, openSheet } from "../lib/dom.js";
import { readSettings } from "../lib/settings.js";

/** Asks what a picture is for: `uses` are `{label, icon, use(file)}`; `onSettings(settings)` takes what it says. */
export async function askWhatFor(file, uses, onSettings) {
  const settings = await readSettings(file).catch(() => null);
  const url = URL.createObjectURL(file);
  const choose = (act) => () => (dialog.close(), act());
  const said = settings?.prompt ? h("q", { className: "clamped", dir: "auto" }, settings.prompt) : "";
  const buttons = [
    ...uses.map(({ label, icon, use }) => button(label, { onclick: choose(() => use(file)) }, icon)),
    settings &&
      button("Read its settings", { id: "read-settings", onclick: choose(() => onSettings(settings)) }, "reuse"),
  ];
  const dialog = openSheet(
    "What is this picture for?",
    h("img", { src: url, alt: "", className: "dropped" }),
    said,
    h("div", { className: "stack" }, ...buttons.filter(Boolean)),
    !settings && h("p", { className: "help" }, "It carries no settings that could be read."),
  );
  dialog.addEventListener("close", () => URL.revokeObjectURL(url));
}
