/**
 * Pictures that are dropped anywhere on the page or pasted.
 */

import { writes } from "../lib/dom.js";

const imageOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

// Programs for texts and tables add a picture of what was copied.
const isText = ({ types }) => ["text/plain", "text/html"].every((type) => types.includes(type));

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
    if (!file || (writes(event.target) && isText(event.clipboardData))) return;
    event.preventDefault();
    onFile(file, false);
  });
}
