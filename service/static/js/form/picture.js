/**
 * The picture that a request starts from: chosen, dropped or pasted, or taken from a result.
 */

import { button, bytes, h } from "../lib/dom.js";

const SENT = ["image/png", "image/jpeg", "image/webp"]; // what the service reads
const TYPES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff";

/**
 * A file with its decoded size, EXIF rotation applied as the service does; a PNG of it where the service doesn't read its
 * format. Throws an Error that says what is wrong.
 */
export async function openPicture(file) {
  try {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    const { width, height } = bitmap;
    return { file: SENT.includes(file.type) ? file : await pngOf(bitmap, file.name), bitmap, width, height };
  } catch (cause) {
    throw new Error(`${file.name || "The file"} is not a picture that this browser can read.`, { cause });
  }
}

async function pngOf(bitmap, name) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new File([await canvas.convertToBlob()], `${name}.png`, { type: "image/png" });
}

/** Large place to drop a picture on, for an empty stage. */
export function dropPlace(title, text, onFile) {
  const input = fileInput(onFile);
  return h(
    "label",
    { className: "drop" },
    input,
    h("span", { className: "drop-title" }, title),
    h("span", { className: "drop-text" }, text),
    h("span", { className: "button", "aria-hidden": "true" }, "Choose a picture"),
  );
}

export function fileInput(onFile, label = "Choose a picture") {
  return h("input", {
    type: "file",
    accept: TYPES,
    className: "hidden",
    "aria-label": label,
    onchange: (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) onFile(file);
    },
  });
}

/** The form's row for a picture: thumbnail, name and size, and how to replace it; without `onShow` it isn't shown. */
export function pictureRow(picture, { name = "image", label, hint = "drop, paste or choose", onFile, onShow, showLabel }) {
  const input = fileInput(onFile);
  const choose = button(
    picture ? "Replace" : "Choose",
    { className: "button small", "aria-describedby": `error-${name}`, onclick: () => input.click() },
    "picture",
  );
  const shows = { className: "button small", "aria-describedby": "error-mask", onclick: onShow };
  const edit = picture && onShow && button(showLabel, shows);
  return h(
    "div",
    { className: "field picture", id: `row-${name}` },
    h("span", { className: "label" }, label),
    input,
    h(
      "div",
      { className: "picture-row" },
      picture ? thumbnail(picture) : h("span", { className: "thumb empty" }),
      facts(picture, hint),
      choose,
      edit,
    ),
    h("p", { className: "error", id: `error-${name}`, hidden: true }),
    name === "image" && h("p", { className: "error", id: "error-mask", hidden: true }),
  );
}

const facts = (picture, hint) =>
  h(
    "span",
    { className: "facts" },
    picture ? `${picture.width} × ${picture.height}` : "None yet",
    h("small", {}, picture ? bytes(picture.file.size) : hint),
  );

export function thumbnail({ bitmap }) {
  const side = 96;
  const canvas = h("canvas", { className: "thumb", width: side, height: side, "aria-hidden": "true" });
  const crop = Math.min(bitmap.width, bitmap.height);
  canvas
    .getContext("2d")
    .drawImage(bitmap, (bitmap.width - crop) / 2, (bitmap.height - crop) / 2, crop, crop, 0, 0, side, side);
  return canvas;
}

/** Asks for a file of the disk. */
export function chooseFile(onFile) {
  const input = Object.assign(fileInput(onFile), { tabIndex: -1 });
  for (const end of ["change", "cancel"]) input.addEventListener(end, () => input.remove());
  document.body.append(input); // one that is nowhere may be collected while its dialog is open
  input.click();
}

/** The picture itself on a canvas of its own size. */
export function pictureCanvas({ bitmap, width, height }) {
  const canvas = h("canvas", { width, height, className: "base", role: "img", "aria-label": "Your picture" });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}
