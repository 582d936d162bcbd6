/**
 * Draws openapi.json: every call with code that runs, a form that sends it, its fields and answers; events and webhooks.
 */

import * as api from "./js/lib/api.js";
import { h } from "./js/lib/dom.js";
import { attempt } from "./js/docs/attempt.js";
import { Call, keyed, learn } from "./js/docs/call.js";
import { Code } from "./js/docs/code.js";
import { code, prose, Schemas, table } from "./js/docs/schemas.js";

const heading = (text) => h("h4", {}, text);
const method = (name) => h("span", { className: `method ${name.toLowerCase()}` }, name.toUpperCase());
const section = (id, title, ...children) => h("section", { id }, h("h3", {}, ...title), ...children);

const said = ({ summary, description }) => [summary && h("p", { className: "summary" }, summary), description && h("p", {}, ...prose(description))];

/** Folded away until it is asked for, and drawn then. */
function folded(title, draw) {
  const details = h("details", {}, h("summary", {}, title));
  details.addEventListener("toggle", () => details.append(...draw()), { once: true });
  return details;
}

const parameterRows = (call, schemas) =>
  call.parameters.map(({ name, in: place, required, schema, description }) => [
    code(name),
    [`${place}${required ? ", required" : ""}: `, ...schemas.words(schema)],
    prose(description ?? schema.description),
  ]);

function bodies({ requestBody }, schemas) {
  return Object.entries(requestBody?.content ?? {}).flatMap(([type, { schema }]) => [heading(`Body: ${type}`), schemas.fields(schema)]);
}

const contents = (content, schemas) =>
  Object.entries(content ?? {}).flatMap(([type, { schema }]) => [
    h("div", {}, type, ...(schema && !schema.oneOf && type.includes("json") ? [": ", ...schemas.words(schema)] : [])),
  ]);

const answerRows = ({ responses }, schemas) =>
  Object.entries(responses).map(([status, { description, content }]) => [code(status), contents(content, schemas), prose(description)]);

const headerRows = ({ responses }) =>
  Object.entries(responses["200"]?.headers ?? {}).map(([name, { description }]) => [code(name), prose(description)]);

function reference(call, schemas) {
  const rows = parameterRows(call, schemas);
  const headers = headerRows(call.operation);
  return [
    ...(rows.length ? [heading("Parameters"), table(["Name", "Is", "Means"], rows)] : []),
    ...bodies(call.operation, schemas),
    heading("Answers"),
    table(["Status", "Body", "When"], answerRows(call.operation, schemas)),
    ...(headers.length ? [heading("Headers of answers"), table(["Header", "Means"], headers)] : []),
  ];
}

function drawn(call, schemas) {
  const shown = new Code(call);
  document.addEventListener("places", () => shown.draw());
  return section(
    call.id,
    [method(call.method), " ", code(call.path)],
    ...said(call.operation),
    shown.element,
    folded("Try it", () => [attempt(call, () => shown.draw())]),
    folded("Fields and answers", () => reference(call, schemas)),
  );
}

/** The events of a job, one schema each. */
function events({ paths }, schemas) {
  const stream = paths["/v1/jobs/{id}/events"].get.responses["200"].content["text/event-stream"].schema;
  return stream.oneOf
    .filter(({ properties }) => properties)
    .map(({ title, properties }) => {
      const schema = properties.data.contentSchema;
      const { description } = schemas.resolved(schema);
      return section(`event-${title}`, [code(`event: ${title}`)], description && h("p", {}, description), schemas.fields(schema));
    });
}

const webhooks = (document_, schemas) =>
  Object.entries(document_.webhooks).map(([name, { post }]) =>
    section(
      `webhook-${name}`,
      [method("post"), " ", code("webhook_url")],
      ...said(post),
      heading("Headers"),
      table(["Header", "Means"], post.parameters.map((each) => [code(each.name), prose(each.description)])),
      ...bodies(post, schemas),
      heading("What you answer"),
      table(["Status", "Means"], Object.entries(post.responses).map(([status, { description }]) => [code(status), description])),
    ),
  );

/** Calls by their first tag, in the document's order; what has no words of its own is called by its tag. */
function groups({ tags }, calls) {
  const described = new Map(tags.map(({ name, description }) => [name, description]));
  const names = new Set([...described.keys(), ...calls.map(({ tag }) => tag)]);
  return [...names].map((name) => ({ name, description: described.get(name), calls: calls.filter(({ tag }) => tag === name) }));
}

const TITLES = { openai: "OpenAI's API", a1111: "AUTOMATIC1111's API" };
const titled = (name) => TITLES[name] ?? name[0].toUpperCase() + name.slice(1);

const part = (id, title, description, children) =>
  h("div", { className: "part", id }, h("h2", {}, title), description && h("p", {}, description), ...children);

function draw(openapi) {
  const schemas = new Schemas(openapi);
  const calls = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([name, operation]) => new Call(path, name, operation, schemas)),
  );
  document.querySelector("#version").textContent = openapi.info.version;
  document.querySelector("#summary").textContent = openapi.info.summary ?? "";
  const parts = groups(openapi, calls);
  document.querySelector("#contents").append(...parts.flatMap(contentsOf), ...others());
  document.querySelector("#calls").replaceChildren(
    ...parts.map((each) =>
      part(`part-${each.name}`, titled(each.name), each.description, each.calls.map((call) => drawn(call, schemas))),
    ),
    part("events", "Events", "What GET /v1/jobs/{id}/events sends: each has an id, a name and JSON as its data.", events(openapi, schemas)),
    part("webhooks", "Webhooks", "What this service sends to you.", webhooks(openapi, schemas)),
    part("schemas", "Schemas", null, schemas.sections()),
  );
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

const contentsOf = ({ name, calls }) => [
  h("a", { className: "group", href: `#part-${name}` }, titled(name)),
  ...calls.map((call) => h("a", { href: `#${call.id}` }, method(call.method), call.path)),
];

const others = () => ["Events", "Webhooks", "Schemas"].map((name) => h("a", { className: "group", href: `#${name.toLowerCase()}` }, name));

/** Puts ids that exist here into the code: the newest job that has pictures, and the default model. */
async function findPlaces() {
  const [{ items }, models] = await Promise.all([api.jobs({ status: "succeeded", limit: 1 }), api.models()]);
  const found = { model: models.default };
  if (items.length) Object.assign(found, { job: items[0].id, image: items[0].images[0].id });
  learn(found);
}

/** A link sends no key: where one is needed, it saves what was read by it. */
function offerDocument(openapi) {
  const link = document.querySelector("a[href='openapi.json']");
  const file = new Blob([JSON.stringify(openapi, null, 2)], { type: "application/json" });
  if (keyed()) Object.assign(link, { href: URL.createObjectURL(file), download: "openapi.json" });
}

const wide = matchMedia("(min-width: 60rem)");
const unfold = () => (document.querySelector("#fold").open = wide.matches);
wide.addEventListener("change", unfold);
unfold();

try {
  const openapi = await api.openapi();
  draw(openapi);
  offerDocument(openapi);
} catch (error) {
  document.querySelector("#calls").textContent = `openapi.json can't be drawn: ${error.message}`;
  throw error;
}
await findPlaces();
