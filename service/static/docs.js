/**
 * Draws openapi.json: every call with its parameters, body fields, examples and answers. No library, no foreign asset.
 */

import { request } from "./js/lib/api.js";

const node = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
};

let openapi;

/** Follows `$ref` to the schema that it names. */
const resolved = (schema) => {
  const name = schema?.$ref?.split("/").pop();
  return name ? { name, ...openapi.components.schemas[name] } : (schema ?? {});
};

const BOUNDS = [
  ["minimum", "≥ "],
  ["exclusiveMinimum", "> "],
  ["maximum", "≤ "],
  ["exclusiveMaximum", "< "],
  ["minLength", "characters ≥ "],
  ["maxLength", "characters ≤ "],
];

/** A schema in a few words: its type or choices, bounds and default. */
function words(given) {
  const schema = resolved(given);
  if (schema.anyOf) return schema.anyOf.filter((each) => each.type !== "null").map(words).join(" or ") + default_(schema);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const type = schema.enum?.join(" | ") ?? schema.name ?? schema.format ?? schema.type ?? "anything";
  const items = schema.type === "array" ? ` of ${words(schema.items)}` : "";
  const bounds = BOUNDS.filter(([key]) => key in schema).map(([key, sign]) => `, ${sign}${schema[key]}`);
  return type + items + bounds.join("") + default_(schema);
}

const default_ = (schema) => ("default" in schema && schema.default !== null ? `, default ${JSON.stringify(schema.default)}` : "");

const table = (rows) =>
  node("table", {}, node("tbody", {}, ...rows.map((cells) => node("tr", {}, ...cells.map((cell) => node("td", {}, cell))))));

const parameterRows = (parameters) =>
  parameters.map(({ name, in: place, required, schema, description }) => [
    node("code", { textContent: name }),
    `${place}${required ? ", required" : ""}: ${words(schema)}`,
    description ?? schema.description ?? "",
  ]);

const fieldRows = ({ properties = {}, required = [] }) =>
  Object.entries(properties).map(([name, field]) => [
    node("code", { textContent: name }),
    words(field) + (required.includes(name) ? ", required" : ""),
    field.description ?? "",
  ]);

const heading = (text) => node("h3", { textContent: text });

function bodyParts(content) {
  return Object.entries(content).flatMap(([type, { schema, examples = {} }]) => [
    heading(`Body: ${type}`),
    table(fieldRows(resolved(schema))),
    ...Object.values(examples).flatMap(({ summary, value }) => [
      heading(`Example: ${summary}`),
      node("pre", { textContent: JSON.stringify(value, null, 2) }),
    ]),
  ]);
}

const answerRows = (responses) =>
  Object.entries(responses).map(([status, { description, content = {} }]) => [
    node("code", { textContent: status }),
    Object.entries(content).map(([type, { schema }]) => `${type}${schema?.$ref ? `: ${words(schema)}` : ""}`).join(", "),
    description ?? "",
  ]);

function call(path, method, operation) {
  const { summary, description, parameters = [], requestBody, responses } = operation;
  return node(
    "section",
    { id: operation.operationId },
    node("h2", {}, node("span", { className: "method", textContent: method.toUpperCase() }), node("code", { textContent: path })),
    node("p", { textContent: [summary, description].filter(Boolean).join(". ") }),
    ...(parameters.length ? [heading("Parameters"), table(parameterRows(parameters))] : []),
    ...(requestBody ? bodyParts(requestBody.content) : []),
    heading("Answers"),
    table(answerRows(responses)),
  );
}

function schemaSection(name, schema) {
  return node("section", { id: `schema-${name}` }, node("h2", { textContent: name }), node("p", { textContent: schema.description ?? "" }), table(fieldRows(schema)));
}

function draw() {
  const calls = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  );
  document.querySelector("#version").textContent = openapi.info.version;
  document.querySelector("#summary").textContent = openapi.info.summary ?? "";
  document.querySelector("#contents").append(
    ...calls.map(({ path, method, operation }) =>
      node("a", { href: `#${operation.operationId}` }, node("span", { className: "method", textContent: method.toUpperCase() }), path),
    ),
  );
  document.querySelector("#calls").replaceChildren(
    ...calls.map(({ path, method, operation }) => call(path, method, operation)),
    ...Object.entries(openapi.components.schemas).map(([name, schema]) => schemaSection(name, schema)),
  );
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  openapi = await (await request("openapi.json")).json();
  draw();
} catch (error) {
  document.querySelector("#calls").textContent = `openapi.json can't be drawn: ${error.message}`;
}
