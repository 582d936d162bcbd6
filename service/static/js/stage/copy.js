/**
 * Copies the call that makes a picture again: which fields it must name, and the menu of languages.
 */

import { hasUsualEta, posted } from "../form/fields.js";
import { tell } from "../lib/dom.js";
import { curl, javascript, openai, python, speaksOpenai } from "./calls.js";
import { menu } from "./files.js";

// What the service adds to a request when it resolves it; a call must not send it.
const FILES = ["image", "mask", "depth"];
const RESOLVED = new Set([
  "kind",
  "seeds",
  "numerics",
  ...FILES,
  "embeddings",
  "guidance_embedded",
  "webhook_url",
  "deadline_ms",
  "preview_every",
]);
const FROM_PICTURE = new Set(["width", "height"]); // of kinds whose answer has its upload's size
// Fields that a model refuses where its card doesn't list them.
const OF_MODELS = new Set([
  "prompt",
  "negative_prompt",
  "guidance_scale",
  "strength",
  "noise_level",
  "steps",
  "sampler",
  "eta",
]);
const DEFAULTS = {
  priority: "interactive",
  determinism: "fast",
  num_images: 1,
  output_format: "png",
  negative_prompt: "",
};

/** The fields that a call must name to make `image` again; `card` is the model's, if it is still there. */
function fieldsFor({ request, images }, image, card) {
  const index = images.findIndex(({ id }) => id === image.id);
  const kept = Object.entries(request).filter(
    ([name, value]) =>
      !RESOLVED.has(name) &&
      value !== null &&
      !(card && OF_MODELS.has(name) && !card.fields.includes(name)) &&
      !("image" in request && FROM_PICTURE.has(name)) &&
      !(request.timesteps && name === "steps") &&
      !(request.denoising_start && name === "strength") &&
      !(name === "eta" && hasUsualEta(request, card)) &&
      DEFAULTS[name] !== value,
  );
  const fields = Object.fromEntries(kept);
  delete fields.num_images;
  if (fields.loras) fields.loras = fields.loras.map(({ hash, ...lora }) => lora);
  if (fields.hires) fields.hires = posted(fields.hires);
  if (fields.controls) fields.controls = fields.controls.map(({ hash, image: _, ...control }) => control);
  return { ...fields, seed: request.seeds?.[index] ?? image.seed };
}

function callOf(job, image, card) {
  const { kind, request } = job;
  const starts = FILES.filter((name) => name in request);
  const uploads = [...starts, ...(request.controls ?? []).map((_, i) => `control_${i}`)];
  return { kind, fields: fieldsFor(job, image, card), uploads, name: image.id };
}

const LANGUAGES = {
  curl,
  Python: python,
  JavaScript: javascript,
  "OpenAI call": openai,
  JSON: ({ fields }) => JSON.stringify(fields, null, 2),
};

export function copyMenu(job, image, card) {
  const names = Object.keys(LANGUAGES).filter((name) => name !== "OpenAI call" || speaksOpenai(job));
  const copy = (name) => async () => {
    await toClipboard(LANGUAGES[name](callOf(job, image, card)));
    tell(`Copied as ${name}`);
  };
  return menu(
    "Copy as",
    "copy-as",
    names.map((name) => [name, copy(name)]),
  );
}

// The clipboard is for secure origins only; a page of http://machine:8000 copies a selection.
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("This browser doesn't let the page copy.");
  return undefined;
}
