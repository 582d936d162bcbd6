/**
 * What the form asks for, as the service takes it: fields and pictures, or flat pictures of their sizes for a dry run.
 */

import { Problem } from "../lib/api.js";
import { standIn } from "./cost.js";
import { filesOfSchema } from "./fields.js";

const LARGEST_STAND_IN = 4096; // of a side, while one types

export class Order {
  constructor(form, desk, service) {
    Object.assign(this, { form, desk, service });
  }

  /** Names of the pictures that a request of a kind starts from. */
  starts(kind = this.desk.kind) {
    return filesOfSchema(this.service.schemas[kind]);
  }

  get #fields() {
    const fields = { ...this.form.values(), model: this.form.model.value };
    if (fields.denoising_start) delete fields.strength; // says the same in another way
    return fields;
  }

  /** The size of the answer, before it is enlarged. */
  size({ width, height } = this.form.values()) {
    const { picture, card } = this.desk;
    const side = card.native_size;
    return this.starts().length ? picture : { width: width ?? side, height: height ?? side };
  }

  /** `{kind, fields, files}` for a dry run; null where something is missing. */
  async trial() {
    const { kind, card, picture } = this.desk;
    const fields = this.#fields;
    if (!card || (this.starts().length && !picture)) return null;
    const names = [...this.starts(), ...(fields.controls ?? []).map((_, i) => `control_${i}`)];
    const size = this.size(fields);
    if (names.length && Math.max(size.width, size.height) > LARGEST_STAND_IN) return null;
    // White is no class of a label map; such a file is small.
    const stand = (name) => (kind === "semantic2img" && name === "image" ? picture.file : standIn(size, "#fff"));
    const files = await Promise.all(names.map(async (name) => [name, await stand(name)]));
    return { kind, fields: withoutKeys(fields), files: Object.fromEntries(files) };
  }

  /**
   * `{kind, fields, files, source}`; `source` is what this browser keeps to show and repeat the job.
   * Throws Problem for what is missing.
   */
  async ready() {
    const { kind } = this.desk; // whoever goes to another tab meanwhile has sent this one
    const fields = this.#fields;
    const field = this.form.unread;
    if (field) throw new Problem({ detail: "This browser can't read that as a number.", field });
    if (this.desk.card.layout && !fields.boxes) throw new Problem({ detail: "Draw a box first.", field: "boxes" });
    const source = await this.#source();
    const keys = (fields.controls ?? []).map(({ picture }) => picture);
    const files = { ...source, ...(keys.length && (await this.#controlFiles(fields))) };
    if (source.mask) fields.mask_mode = "white";
    if (keys.length) source.controls = keys;
    return { kind, fields: withoutKeys(fields), files, source };
  }

  async #source() {
    const needed = this.starts();
    const { picture } = this.desk;
    if (!needed.length) return {};
    if (!picture) throw new Problem({ detail: "Choose a picture first.", field: "image" });
    if (needed.includes("depth")) return { image: picture.file, depth: this.#depth.file };
    if (!needed.includes("mask")) return { image: picture.file };
    if (!picture.mask || picture.mask.empty)
      throw new Problem({ detail: "Draw on the picture what is to be repainted.", field: "mask" });
    return { image: picture.file, mask: await picture.mask.file() };
  }

  get #depth() {
    if (!this.desk.depth) throw new Problem({ detail: "Choose a depth map first.", field: "depth" });
    return this.desk.depth;
  }

  async #controlFiles(fields) {
    const { controlFile } = await import("./addons.js");
    const file = (control) => controlFile(control, this.size(fields));
    const files = await Promise.all(fields.controls.map(file));
    return Object.fromEntries(files.map((each, i) => [`control_${i}`, each]));
  }
}

// Where this browser has the picture of a control is nothing that the service knows.
const withoutKeys = ({ controls, ...fields }) =>
  controls ? { ...fields, controls: controls.map(({ picture, ...control }) => control) } : fields;
