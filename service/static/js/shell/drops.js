/**
 * Pictures that are dropped anywhere on the page or pasted.
 */

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
