/**
 * Saving pictures: as PNG or WebP whatever they are stored as, one or all of a job, several as a ZIP.
 */

import { imageFile, TOO_MANY } from "../lib/api.js";
import { h, plural, tell } from "../lib/dom.js";
import { pause } from "../lib/events.js";

const AT_ONCE = 4; // stored pictures that are asked for

/** Hands a file to the browser, which saves it. */
export function save(file, name = file.name) {
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // a download begins after the click has returned
}

/** A stored picture as a File of `format`; pixels are unchanged (WebP of quality 1 is lossless). */
async function converted(image, format) {
  const file = await imageFile(image);
  if (image.format === format) return file;
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const type = `image/${format}`;
  const blob = await canvas.convertToBlob({ type, quality: 1 });
  if (blob.type !== type) throw new Error("This browser can't write WebP; save it as PNG."); // which all write
  return new File([blob], `${image.id}.${format}`, { type });
}

/** Saves pictures as one archive. */
export async function saveZip(images, name) {
  const { zip } = await import("../lib/zip.js");
  save(await zip(await imageFiles(images)), `${name}.zip`);
}

/** Stored pictures as files, in their order. */
async function imageFiles(images) {
  const files = [];
  const left = [...images.entries()];
  const take = async () => {
    while (left.length) {
      const [index, image] = left.shift();
      files[index] = await inTime(() => imageFile(image));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
  return files;
}

/** What `work()` resolves with, as soon as the service lets it. */
async function inTime(work) {
  for (;;) {
    try {
      return await work();
    } catch (problem) {
      if (problem.status !== TOO_MANY || !problem.retryAfter) throw problem;
      tell(`Too much was asked for at once; saving goes on in ${plural(problem.retryAfter, "second")}.`);
      await pause(1000 * problem.retryAfter);
    }
  }
}

/** A button that opens a list of things to do; it closes once one is chosen, and by Escape. */
export function menu(label, id, items) {
  const list = h(
    "ul",
    { className: "menu" },
    items.map(([text, act]) => h("li", {}, h("button", { type: "button", onclick: () => run(act) }, text))),
  );
  const details = h("details", { className: "menu-place", id }, h("summary", { className: "button" }, label), list);
  const run = async (act) => {
    details.open = false;
    details.querySelector("summary").focus();
    try {
      await act();
    } catch (problem) {
      tell(problem.message);
    }
  };
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    event.stopPropagation();
    details.open = false;
    details.querySelector("summary").focus();
  });
  details.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !details.contains(event.relatedTarget)) details.open = false;
  });
  return details;
}

export function saveMenu(job, image) {
  const as = (format) => [
    format.toUpperCase().replace("WEBP", "WebP"),
    async () => save(await converted(image, format)),
  ];
  const all = [`All ${job.images.length} as ZIP`, () => saveZip(job.images, job.id)];
  return menu("Save as", "save-as", [as("png"), as("webp"), ...(job.images.length > 1 ? [all] : [])]);
}
