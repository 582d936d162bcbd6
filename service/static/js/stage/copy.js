/**
 * The call that makes a picture again, for the clipboard: curl, Python, JavaScript, JSON.
 */

import { announce } from "../lib/dom.js";
import { menu } from "./files.js";

// What the service adds to a request when it resolves it; a call must not send it.
const FILES = ["image", "mask", "depth"];
const RESOLVED = new Set(["kind", "seeds", "numerics", ...FILES, "webhook_url", "deadline_ms", "preview_every"]);
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
  eta: 0,
  negative_prompt: "",
};

/** The fields that a call must name to make `image` again; `card` is the model's, if it is still there. */
export function fieldsFor({ request, images }, image, card) {
  const uploads = files(request);
  const index = images.findIndex(({ id }) => id === image.id);
  const kept = Object.entries(request).filter(
    ([name, value]) =>
      !RESOLVED.has(name) &&
      value !== null &&
      !(card && OF_MODELS.has(name) && !card.fields.includes(name)) &&
      !(uploads.length && FROM_PICTURE.has(name)) &&
      DEFAULTS[name] !== value,
  );
  const fields = Object.fromEntries(kept);
  delete fields.num_images;
  return { ...fields, seed: request.seeds?.[index] ?? image.seed };
}

const files = (request) => FILES.filter((name) => name in request);
const base = () => new URL(".", location.href).href;
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

function curl(kind, fields, uploads, name) {
  const call = `curl -s ${quoted(`${base()}v1/${kind}`)} -H 'Accept: image/png' -o ${name}.png`;
  if (!uploads.length) return `${call} \\\n  --json ${quoted(JSON.stringify(fields))}`;
  const parts = [
    ...uploads.map((upload) => `-F ${upload}=@${upload}.png`),
    ...Object.entries(fields).map(([field, value]) => `--form-string ${quoted(`${field}=${value}`)}`),
  ];
  return [call, ...parts].join(" \\\n  ");
}

// JSON's true, false and null are no Python.
const python_ = (value) =>
  value === true ? "True" : value === false ? "False" : value === null ? "None" : JSON.stringify(value);

function python(kind, { prompt, ...fields }, uploads, name) {
  const given = [
    ...uploads.map((upload) => `${upload}="${upload}.png"`),
    ...Object.entries(fields).map(([field, value]) => `${field}=${python_(value)}`),
  ];
  const first = prompt === undefined ? [] : [uploads.length ? `prompt=${python_(prompt)}` : python_(prompt)];
  return [
    "from latentd_client import Client",
    "",
    `with Client(${JSON.stringify(base().replace(/\/$/, ""))}) as client:`,
    `    job = client.${kind}(${[...first, ...given].join(", ")})`,
    `    client.images(job)[0].save("${name}.png")`,
    "",
  ].join("\n");
}

function javascript(kind, fields, uploads) {
  const url = JSON.stringify(`${base()}v1/${kind}`);
  const body = uploads.length
    ? [
        "const body = new FormData();",
        ...uploads.map((upload) => `body.append("${upload}", ${upload}File);`),
        `for (const [name, value] of Object.entries(${JSON.stringify(fields)})) body.append(name, value);`,
        `const answer = await fetch(${url}, { method: "POST", headers: { Accept: "image/png" }, body });`,
      ]
    : [
        `const answer = await fetch(${url}, {`,
        '  method: "POST",',
        '  headers: { "Content-Type": "application/json", Accept: "image/png" },',
        `  body: JSON.stringify(${JSON.stringify(fields)}),`,
        "});",
      ];
  return [...body, "const picture = await answer.blob();", ""].join("\n");
}

export function copyMenu(job, image, card) {
  const { kind, request } = job;
  const copy = (what, text) => async () => {
    await toClipboard(text());
    announce(`Copied as ${what}`);
  };
  const fields = () => fieldsFor(job, image, card);
  const uploads = files(request);
  const name = image.id;
  return menu("Copy as", "copy-as", [
    ["curl", copy("curl", () => curl(kind, fields(), uploads, name))],
    ["Python", copy("Python", () => python(kind, fields(), uploads, name))],
    ["JavaScript", copy("JavaScript", () => javascript(kind, fields(), uploads))],
    ["JSON", copy("JSON", () => JSON.stringify(fields(), null, 2))],
  ]);
}

// The clipboard is for secure origins only; a page of http://machine:8000 copies a selection.
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  return undefined;
}
