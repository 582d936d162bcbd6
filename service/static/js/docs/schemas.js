/**
 * What openapi.json says of values, in words, tables and links from one schema to the next.
 */

import { h } from "../lib/dom.js";

const BOUNDS = [
  ["minimum", "≥ "],
  ["exclusiveMinimum", "> "],
  ["maximum", "≤ "],
  ["exclusiveMaximum", "< "],
  ["minLength", "characters ≥ "],
  ["maxLength", "characters ≤ "],
  ["minItems", "items ≥ "],
  ["maxItems", "items ≤ "],
];

/** Reads schemas of one document. */
export class Schemas {
  constructor({ components }) {
    this.named = components.schemas;
  }

  /** Follows `$ref` to the schema that it names. */
  resolved(schema) {
    const name = schema?.$ref?.split("/").pop();
    return name ? { name, ...this.named[name] } : (schema ?? {});
  }

  /** A schema in a few words: its type or choices, bounds and default; named ones are links. */
  words(given) {
    const schema = this.resolved(given);
    if (schema.name) return [h("a", { href: `#schema-${schema.name}` }, title(schema))];
    const choices = (schema.anyOf ?? schema.oneOf)?.filter((each) => each.type !== "null");
    if (choices) return [...choices.flatMap((each, i) => [i > 0 && " or ", ...this.words(each)]), default_(schema)];
    if (schema.const !== undefined) return [JSON.stringify(schema.const)];
    const type = schema.enum?.join(" | ") ?? schema.format ?? schema.type ?? "anything";
    const items = schema.type === "array" && schema.items ? [" of ", ...this.words(schema.items)] : [];
    const bounds = BOUNDS.filter(([key]) => key in schema).map(([key, sign]) => `, ${sign}${schema[key]}`);
    return [type, ...items, ...bounds, default_(schema)];
  }

  /** One row a field of an object. */
  fields(given) {
    const { properties = {}, required = [] } = this.resolved(given);
    const rows = Object.entries(properties).map(([name, field]) => [
      code(name),
      [...this.words(field), required.includes(name) && ", required"],
      prose(field.description),
    ]);
    return rows.length ? table(["Field", "Is", "Means"], rows) : h("p", { className: "help" }, "No fields.");
  }

  /** Everything that other parts of the page link to, by name. */
  sections() {
    return Object.entries(this.named).map(([name, schema]) =>
      h(
        "section",
        { id: `schema-${name}` },
        h("h3", {}, title({ name })),
        schema.description && h("p", {}, ...prose(schema.description)),
        schema.properties ? this.fields(schema) : h("p", {}, ...this.words(schema)),
      ),
    );
  }
}

// Of two models of one name FastAPI writes the module before both.
const title = ({ name }) => name.split("__").pop();

const default_ = (schema) => schema.default !== undefined && schema.default !== null && `, default ${JSON.stringify(schema.default)}`;

export const code = (text) => h("code", {}, text);

/** A description, whose `names` are code. */
export const prose = (text) => (text ?? "").split("`").map((part, i) => (i % 2 ? code(part) : part));

/** A table whose rows a narrow window stacks. */
export const table = (heads, rows) =>
  h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, ...[cell].flat()))))),
  );
