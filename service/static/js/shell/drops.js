/**
 * Pictures that are dropped anywhere on the page or pasted: a sheet asks what they are for.
 */

import { button, h, openSheet } from "../lib/dom.js";
import { readSettings } from "../lib/settings.js";

const imageOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

/** `onFile(file, onPlace)` is called with each picture; `onPlace`: it was dropped where the task asks for one. */
export function takeDropsAndPastes(onFile) {
  const over = (on) => document.body.classList.toggle("dragging", on);
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => carriesFiles(event) && (event.preventDefault(), over(true)));
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
  document.addEventListener("drop", (event) => {
    over(false);
    const file = imageOf(event.dataTransfer);
    if (file || carriesFiles(event)) event.preventDefault();
    if (file) onFile(file, Boolean(event.target.closest?.(".drop")));
  });
  document.addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
    if (file) (event.preventDefault(), onFile(file, false));
  });
}

/** Asks what a picture is for: `uses` are `{label, icon, use(file)}`, `onSettings(settings)` takes what it says of itself. */
export async function askWhatFor(file, uses, onSettings) {
  const settings = await readSettings(file).catch(() => null);
  const url = URL.createObjectURL(file);
  const choose = (act) => () => (dialog.close(), act());
  const said = settings?.prompt ? h("q", { className: "clamped" }, settings.prompt) : "";
  const buttons = [
    ...uses.map(({ label, icon, use }) => button(label, { onclick: choose(() => use(file)) }, icon)),
    settings && button("Read its settings", { id: "read-settings", onclick: choose(() => onSettings(settings)) }, "reuse"),
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
