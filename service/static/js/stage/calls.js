/**
 * The call that makes a picture again, in the languages that people copy it in. `fields` are the request's, `uploads`
 * names the pictures that go with them, which the caller has as files.
 */

import { inForm } from "../lib/api.js";
import { authorization } from "../lib/key.js";

const base = () => new URL(".", location.href).href;
const keyed = () => "Authorization" in authorization();
const formatOf = ({ output_format: format = "png" }) => format; // which the answer must be asked for as, too
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

export function curl({ kind, fields, uploads, name }) {
  const key = keyed() ? ` -H "Authorization: Bearer $LATENTD_API_KEY"` : "";
  const format = formatOf(fields);
  const call = `curl -s ${quoted(`${base()}v1/${kind}`)}${key} -H 'Accept: image/${format}' -o ${name}.${format}`;
  if (!uploads.length) return `${call} \\\n  --json ${quoted(JSON.stringify(fields))}`;
  const parts = [
    ...uploads.map((upload) => `-F ${upload}=@${upload}.png`),
    ...Object.entries(fields).map(([field, value]) => `--form-string ${quoted(`${field}=${inForm(value)}`)}`),
  ];
  return [call, ...parts].join(" \\\n  ");
}

/** A value as Python writes it: JSON's true, false and null are none. */
function python_(value) {
  if (value === true || value === false) return value ? "True" : "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(python_).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, each]) => `${JSON.stringify(name)}: ${python_(each)}`)
    .join(", ")}}`;
}

export function python({ kind, fields: { prompt, controls, ...others }, uploads, name }) {
  const pictures = uploads.filter((upload) => !upload.startsWith("control_"));
  const led = (control, i) => `{**${python_(control)}, "image": Path("control_${i}.png")}`;
  const given = [
    ...pictures.map((upload) => `${upload}="${upload}.png"`),
    ...Object.entries(others).map(([field, value]) => `${field}=${python_(value)}`),
    ...(controls ? [`controls=[${controls.map(led).join(", ")}]`] : []),
  ];
  const first = prompt === undefined ? [] : [pictures.length ? `prompt=${python_(prompt)}` : python_(prompt)];
  return [
    "from pathlib import Path",
    "",
    "from latentd_client import Client",
    "",
    `with Client(${JSON.stringify(base().replace(/\/$/, ""))}) as client:`,
    `    job = client.wait(client.${kind}(${[...first, ...given].join(", ")}))`,
    `    Path("${name}.${formatOf(others)}").write_bytes(client.image_file(job.images[0]))`,
    "",
  ].join("\n");
}

export function javascript({ kind, fields, uploads }) {
  const url = JSON.stringify(`${base()}v1/${kind}`);
  const key = keyed() ? ', Authorization: "Bearer lat_…"' : "";
  const accept = `Accept: "image/${formatOf(fields)}"`;
  const values = Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, inForm(value)]));
  const body = uploads.length
    ? [
        "const body = new FormData();",
        ...uploads.map((upload) => `body.append("${upload}", ${upload}File);`),
        `for (const [name, value] of Object.entries(${JSON.stringify(values)})) body.append(name, value);`,
        `const headers = { ${accept}${key} };`,
        `const answer = await fetch(${url}, { method: "POST", headers, body });`,
      ]
    : [
        `const answer = await fetch(${url}, {`,
        '  method: "POST",',
        `  headers: { "Content-Type": "application/json", ${accept}${key} },`,
        `  body: JSON.stringify(${JSON.stringify(fields)}),`,
        "});",
      ];
  return [...body, "const picture = await answer.blob();", ""].join("\n");
}

const OPENAI_KINDS = { txt2img: "generate", img2img: "edit", inpaint: "edit" };
const OPENAI_OWN = ["model", "output_format"];
const OPENAI_EXTRA = ["negative_prompt", "seed", "steps", "guidance_scale", "sampler", "strength"]; // ours, as extra_body

/** Whether OpenAI's API has a call for the kind. */
export const speaksOpenai = ({ kind }) => kind in OPENAI_KINDS;

/** The call of the `openai` package; what it has no word for is said in a comment. */
export function openai({ kind, fields: { prompt = "", width, height, ...fields }, uploads, name }) {
  const pick = (names) => names.filter((field) => field in fields).map((field) => [field, fields[field]]);
  const extra = Object.fromEntries(pick(OPENAI_EXTRA));
  const unsaid = Object.keys(fields).filter((field) => ![...OPENAI_OWN, ...OPENAI_EXTRA, "mask_mode"].includes(field));
  const given = [
    ...uploads
      .filter((upload) => !upload.startsWith("control_"))
      .map((upload) => `${upload}=open("${upload}.png", "rb")`),
    `prompt=${python_(prompt)}`,
    ...pick(OPENAI_OWN).map(([field, value]) => `${field}=${python_(value)}`),
    ...(width && height ? [`size="${width}x${height}"`] : []),
    'response_format="b64_json"',
    `extra_body=${python_(extra)}`,
  ];
  return [
    "import base64",
    "",
    "from openai import OpenAI",
    "",
    ...(uploads.includes("mask") ? ["# mask.png: transparent where it is repainted"] : []),
    ...(unsaid.length ? [`# not told, since OpenAI's API has no word for it: ${unsaid.join(", ")}`] : []),
    `client = OpenAI(base_url="${base()}v1", api_key="${keyed() ? "lat_…" : "none"}")`,
    `answer = client.images.${OPENAI_KINDS[kind]}(`,
    ...given.map((each) => `    ${each},`),
    ")",
    `with open("${name}.${formatOf(fields)}", "wb") as file:`,
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
    "",
  ].join("\n");
}
