/**
 * One call as it would be sent: what it can be given, what it is given now, and the fetch of it.
 */

import { authorization } from "../lib/key.js";

const PICTURE = /^image\//;

/** Ids that stand in a path until the reader gives others: those of the newest job, its first picture, a model. */
export const places = { job: "JOB-ID", image: "JOB-ID-0", model: "MODEL" };

/** Tells every call that the places changed. */
export function learn(found) {
  Object.assign(places, found);
  document.dispatchEvent(new CustomEvent("places"));
}

/** Whether a key is in use. */
export const keyed = () => "Authorization" in authorization();

/** Where the service is: this page lies beside its API, also below a path. */
export const base = () => new URL(".", location.href).href;

export class Call {
  constructor(path, method, operation, schemas) {
    Object.assign(this, { path, method: method.toUpperCase(), operation });
    this.id = operation.operationId;
    this.tag = operation.tags?.[0] ?? "";
    this.parameters = (operation.parameters ?? []).map((each) => ({ ...each, schema: unwrapped(each.schema) }));
    this.answers = Object.keys(operation.responses["200"]?.content ?? {});
    this.given = {}; // parameters, by name
    this.files = {}; // pictures that were chosen, by name
    this.accept = this.answers.find((type) => PICTURE.test(type)) ?? this.answers[0] ?? null;
    this.choosesAnswer = this.answers.includes("application/json") && PICTURE.test(this.accept);
    this.#readBody(schemas);
  }

  #readBody(schemas) {
    const content = this.operation.requestBody?.content;
    if (!content) return;
    const needsFiles = picturesOf(schemas.resolved(content["multipart/form-data"]?.schema)).some(({ wanted }) => wanted);
    this.media = needsFiles ? "multipart/form-data" : "application/json";
    const { schema, examples } = content[this.media];
    this.pictures = picturesOf(schemas.resolved(schema));
    const shown = examples ?? content["application/json"]?.examples ?? {};
    this.examples = Object.values(shown).map(({ summary, value }) => ({ summary, fields: this.#written(value) }));
    this.use(this.examples[0] ?? { fields: {} });
  }

  /** An example's fields without its pictures, which are chosen. */
  #written(value) {
    const names = new Set(this.pictures.map(({ name }) => name));
    return Object.fromEntries(Object.entries(value).filter(([name]) => !names.has(name)));
  }

  use({ fields }) {
    this.fields = fields;
    const several = "num_images" in fields || "output_format" in fields; // a picture is one, of the type asked for
    if (several && this.choosesAnswer) this.accept = "application/json";
  }

  value({ name, in: place }) {
    if (name in this.given) return this.given[name];
    if (place !== "path") return "";
    return this.path.includes("/images/") ? places.image : this.path.includes("/models/") ? places.model : places.job;
  }

  get url() {
    const named = (place) => this.parameters.filter((each) => each.in === place && this.value(each) !== "");
    let path = this.path;
    for (const each of named("path")) path = path.replace(`{${each.name}}`, encodeURIComponent(this.value(each)));
    const query = new URLSearchParams(named("query").map((each) => [each.name, this.value(each)])).toString();
    return `${base()}${path.slice(1)}${query && `?${query}`}`;
  }

  /** Headers beside the key and the body's type. */
  get headers() {
    const given = this.parameters.filter((each) => each.in === "header" && this.value(each) !== "");
    const accept = this.choosesAnswer ? { Accept: this.accept } : {};
    return { ...accept, ...Object.fromEntries(given.map((each) => [each.name, this.value(each)])) };
  }

  /** Whether the answer is a picture's bytes, or comes bit by bit. */
  get answersPicture() {
    return PICTURE.test(this.accept ?? "") && this.given.dry_run !== "true";
  }

  get streams() {
    return this.accept === "text/event-stream" || this.fields?.stream === true;
  }

  /** JSON, where a body comes at all: a call that removes a job answers none. */
  get answersJson() {
    return this.accept === "application/json" && this.given.purge !== "true";
  }

  get extension() {
    return { "image/jpeg": "jpg", "image/webp": "webp" }[this.accept] ?? "png";
  }

  /** The pictures that are sent: those that must be there, and those that were chosen. */
  get sentPictures() {
    return (this.pictures ?? []).filter(({ name, wanted }) => wanted || this.files[name]);
  }

  async options() {
    const options = { method: this.method, headers: this.headers };
    if (this.media === "multipart/form-data") {
      options.body = new FormData();
      for (const { name } of this.pictures) if (this.files[name]) options.body.append(name, this.files[name]);
      for (const [name, value] of Object.entries(this.fields)) options.body.append(name, text(value));
    } else if (this.media) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify({ ...this.fields, ...(await this.#base64()) });
    }
    return options;
  }

  async #base64() {
    const chosen = this.pictures.filter(({ name }) => this.files[name]);
    const read = chosen.map(async ({ name, list }) => {
      const data = (await dataUrl(this.files[name])).split(",")[1];
      return [name, list ? [data] : data];
    });
    return Object.fromEntries(await Promise.all(read));
  }
}

/** A field of a form. */
export const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// Of `X or null` the X.
const unwrapped = (schema) => schema.anyOf?.find((each) => each.type !== "null") ?? schema;

const isPicture = (schema) => schema?.format === "binary" || schema?.contentEncoding === "base64";

function picturesOf({ properties = {}, required = [] }) {
  return Object.entries(properties)
    .map(([name, schema]) => ({ name, schema: unwrapped(schema), wanted: required.includes(name) }))
    .map(({ name, schema, wanted }) => ({ name, wanted, list: isPicture(schema.items), one: isPicture(schema) }))
    .filter(({ list, one }) => list || one);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}
