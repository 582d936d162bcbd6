/**
 * A call as curl, Python and JavaScript: what runs as it is pasted, against this server. Where a key is in use
 * the samples read it from LATENTD_API_KEY, or name its place; it never stands in them.
 */

import { base, keyed, text } from "./call.js";
import { python } from "./python.js";

const shell = (value) => `'${value.replaceAll("'", String.raw`'\''`)}'`;
const lines = (parts, joint) => parts.filter(Boolean).join(joint);

function curl(call) {
  const headers = Object.entries(call.headers).filter(([name, value]) => name !== "Accept" || value !== "application/json");
  const verb = call.method === "GET" || call.media ? "" : `-X ${call.method}`;
  const command = lines(["curl", call.streams ? "-sN" : "-s", verb, shell(call.url)], " ");
  const parts = [
    command,
    keyed() && '-H "Authorization: Bearer $LATENTD_API_KEY"',
    ...headers.map(([name, value]) => `-H ${shell(`${name}: ${value}`)}`),
    call.answersPicture && `-o picture.${call.extension}`,
  ];
  if (call.media === "multipart/form-data") parts.push(...formParts(call));
  const pictures = call.sentPictures;
  if (call.media !== "application/json") return `${lines(parts, " \\\n  ")}\n`;
  if (!pictures.length) return `${lines([...parts, `--json ${shell(JSON.stringify(call.fields))}`], " \\\n  ")}\n`;
  return `${printed(call, pictures)} |\n  ${lines([...parts, "--json @-"], " \\\n  ")}\n`;
}

const formParts = (call) => [
  ...call.sentPictures.map(({ name }) => `-F ${name}=@${name}.png`),
  ...Object.entries(call.fields).map(([name, value]) => `--form-string ${shell(`${name}=${text(value)}`)}`),
];

/** JSON with pictures in base64, by printf: on a command line it would be too long. */
function printed(call, pictures) {
  const holes = pictures.map(({ name, list }) => `${JSON.stringify(name)}: ${list ? '["%s"]' : '"%s"'}`);
  const fields = JSON.stringify(call.fields).slice(1, -1).replaceAll("\\", "\\\\").replaceAll("%", "%%");
  const files = pictures.map(({ name }) => `"$(base64 < ${name}.png | tr -d '\\n')"`);
  return `printf ${shell(`{${lines([...holes, fields], ", ")}}`)} ${files.join(" ")}`;
}

function javascript(call) {
  const headers = {
    ...(keyed() && { Authorization: "Bearer YOUR-KEY" }),
    ...(call.media === "application/json" && { "Content-Type": "application/json" }),
    ...call.headers,
  };
  const { before, body } = javascriptBody(call);
  const options = [
    call.method !== "GET" && `  method: "${call.method}",`,
    Object.keys(headers).length && `  headers: ${JSON.stringify(headers)},`,
    body && `  body${body === "body" ? "" : `: ${body}`},`,
  ].filter(Boolean);
  const given = options.length ? `, {\n${options.join("\n")}\n}` : "";
  return [...before, `const answer = await fetch(${JSON.stringify(call.url)}${given});`, ...read(call), ""].join("\n");
}

const chosen = (name) => `document.querySelector("#${name}").files[0]`; // of <input type="file" id="…">

function javascriptBody(call) {
  const pictures = call.sentPictures;
  if (!call.media) return { before: [], body: "" };
  const fields = JSON.stringify(call.fields);
  if (call.media === "application/json") {
    if (!pictures.length) return { before: [], body: `JSON.stringify(${fields})` };
    const before = [
      "const base64 = (file) => new Promise((resolve) => {",
      "  const reader = new FileReader();",
      '  reader.onload = () => resolve(reader.result.split(",")[1]);',
      "  reader.readAsDataURL(file);",
      "});",
      `const fields = ${fields};`,
      ...pictures.map(({ name, list }) =>
        list ? `fields.${name} = [await base64(${chosen(name)})];` : `fields.${name} = await base64(${chosen(name)});`,
      ),
    ];
    return { before, body: "JSON.stringify(fields)" };
  }
  const before = [
    "const body = new FormData();",
    ...pictures.map(({ name }) => `body.append("${name}", ${chosen(name)});`),
    ...Object.entries(call.fields).map(([name, value]) => `body.append("${name}", ${JSON.stringify(text(value))});`),
  ];
  return { before, body: "body" };
}

function read(call) {
  if (call.answersPicture) return ["const picture = URL.createObjectURL(await answer.blob());", "console.log(answer.status, picture);"];
  if (!call.streams) return [`console.log(answer.status, await answer.${call.answersJson ? "json" : "text"}());`];
  return [
    "const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();",
    "for (let read = await reader.read(); !read.done; read = await reader.read()) console.log(read.value);",
  ];
}

export const LANGUAGES = [
  ["curl", curl],
  ["Python", (call) => python(call, base().replace(/\/$/, ""))],
  ["JavaScript", javascript],
];
