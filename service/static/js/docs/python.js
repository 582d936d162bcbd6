/**
 * A call as Python: by latentd_client, which reads the key from LATENTD_API_KEY, or by httpx where that has no method.
 */

import { keyed } from "./call.js";

const NAMES = { true: "True", false: "False", null: "None" };

/** JSON as Python writes it. */
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  const written = JSON.stringify(value);
  return NAMES[written] ?? written;
}

// What could be no keyword stays a mapping.
const NAME = /^[A-Za-z_]\w*$/;
const keywords = (fields) =>
  Object.keys(fields).every((name) => NAME.test(name))
    ? Object.entries(fields).map(([name, value]) => `${name}=${literal(value)}`)
    : [`**${literal(fields)}`];

const arguments_ = (...parts) => parts.flat().filter(Boolean).join(", ");

const quoted = JSON.stringify;
const place = (call, name) => call.value(call.parameters.find((each) => each.name === name));
const job = (call) => `client.job(${quoted(place(call, "id"))})`;

/** Calls that the client has, by operation: what they import, and their lines. */
const CLIENT = {
  list_jobs(call) {
    const filters = call.parameters.filter((each) => !["limit", "cursor"].includes(each.name) && call.value(each));
    const given = filters.map((each) => `${each.name}=${quoted(call.value(each))}`);
    const most = call.given.limit || "20";
    return {
      imports: ["from itertools import islice"],
      lines: [`for job in islice(client.jobs(${given.join(", ")}), ${most}):`, "    print(job.id, job.status)"],
    };
  },
  get_job: (call) => ({ lines: [`job = ${job(call)}`, "print(job.status, job.raw)"] }),
  cancel_job: (call) => ({
    lines: call.given.purge === "true" ? [`client.purge(${job(call)})`] : [`print(client.cancel(${job(call)}).status)`],
  }),
  stream_events: (call) => ({
    lines: [`for event in client.events(${job(call)}):`, "    print(event.type, event.data)"],
  }),
  get_image(call) {
    const [, id, index] = /^(.*?)(?:-(\d+))?$/.exec(place(call, "id"));
    const name = `picture.${call.extension}`;
    return {
      imports: ["from pathlib import Path"],
      lines: [
        `image = client.job(${quoted(id)}).images[${index ?? 0}]`,
        `Path("${name}").write_bytes(client.image_file(image))`,
      ],
    };
  },
  list_models: () => ({ lines: ["for card in client.models():", '    print(card["id"], card["tasks"])'] }),
};

function task(call) {
  const pictures = call.sentPictures.map(({ name }) => `${name}="${name}.png"`);
  if (call.given.dry_run === "true")
    return { lines: [`print(client.dry_run(${arguments_(quoted(call.id), pictures, keywords(call.fields))}))`] };
  const key = call.given["Idempotency-Key"];
  const given = arguments_(pictures, keywords(call.fields), key && `idempotency_key=${quoted(key)}`);
  const lines = [`job = client.${call.id}(${given})`];
  if (call.answersPicture) lines.push(`client.images(job)[0].save("picture.${call.extension}")`);
  else lines.push(...(call.given.Prefer ? ["job = client.wait(job)"] : []), "print(job.id, job.status)");
  return { lines };
}

/** Returns the program; `server` is where it asks. */
export function python(call, server) {
  const known = call.tag === "tasks" ? task : CLIENT[call.id];
  if (!known) return plain(call);
  const { imports = [], lines } = known(call);
  return [
    ...imports,
    ...(imports.length ? [""] : []),
    "from latentd_client import Client",
    "",
    ...(keyed() ? ["# the key is read from LATENTD_API_KEY"] : []),
    `with Client(${quoted(server)}) as client:`,
    ...lines.map((line) => `    ${line}`),
    "",
  ].join("\n");
}

function plain(call) {
  const { before, given } = plainBody(call);
  const headers = Object.entries(call.headers).map(([name, value]) => `${quoted(name)}: ${quoted(value)}`);
  if (keyed()) headers.unshift(`"Authorization": f"Bearer {os.environ['LATENTD_API_KEY']}"`);
  const sent = arguments_(quoted(call.url), given, headers.length && `headers={${headers.join(", ")}}`, "timeout=600");
  const needs = [
    before.join().includes("base64.") && "import base64",
    keyed() && "import os",
    (before.length || call.answersPicture) && "from pathlib import Path",
  ].filter(Boolean);
  const imports = [...needs, ...(needs.length ? [""] : []), "import httpx", ""];
  const verb = call.method.toLowerCase();
  if (call.streams)
    return [
      ...imports,
      ...before,
      `with httpx.stream("${call.method}", ${sent}) as answer:`,
      "    for line in answer.iter_lines():",
      "        print(line)",
      "",
    ].join("\n");
  const print = call.answersJson ? "print(answer.json())" : "print(answer.text)";
  return [...imports, ...before, `answer = httpx.${verb}(${sent})`, "answer.raise_for_status()", print, ""].join("\n");
}

function plainBody(call) {
  const pictures = call.sentPictures;
  if (!call.media) return { before: [], given: "" };
  if (call.media === "multipart/form-data") {
    const files = pictures.map(({ name }) => `"${name}": Path("${name}.png").read_bytes()`);
    return {
      before: [`files = {${files.join(", ")}}`],
      given: arguments_("files=files", `data=${literal(call.fields)}`),
    };
  }
  const before = pictures.map(({ name }) => `${name} = base64.b64encode(Path("${name}.png").read_bytes()).decode()`);
  const encoded = pictures.map(({ name, list }) => `${quoted(name)}: ${list ? `[${name}]` : name}`);
  const fields = Object.entries(call.fields).map(([name, value]) => `${quoted(name)}: ${literal(value)}`);
  return { before, given: `json={${[...encoded, ...fields].join(", ")}}` };
}
