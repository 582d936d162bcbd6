/**
 * What is being worked on: the task, its model, its values and its picture. All of it is kept by this browser, so that
 * Back and reload find it again: values for this tab, and for tabs to come what somebody changed last in any of them.
 */

import { fieldsOf } from "./fields.js";
import { openPicture } from "./picture.js";
import { hasSameBytes } from "../lib/api.js";
import { debounced, tell } from "../lib/dom.js";
import * as keep from "../lib/keep.js";

const PAUSE_MS = 250;
const WORDS = ["prompt", "negative_prompt"]; // go from task to task
// Numbers belong to a model's card: only what a person wants of any model goes with them to another.
const OF_ANY_MODEL = [...WORDS, "num_images", "seed", "output_format", "priority", "preview_every", "determinism"];

const ACTIONS = { txt2img: "Create", inpaint: "Repaint", img2img: "Create from it", depth2img: "Create from it" };

export class Desk {
  kind = "";
  picture = null;
  depth = null; // how near each pixel of the picture is; for this visit alone
  #drafts = {}; // by kind: {model, of, values}, and whether they were `given` by a link and nobody changed them
  #shown = ""; // the kind whose fields the form has
  #seen = ""; // the form's state as it was noted last
  #giving = false; // a link fills the form; what all tabs share is kept only of what somebody does
  #filling = false; // the editor, by itself: neither is a picture kept then
  #keepPictureSoon = debounced(PAUSE_MS, () => this.#keepPicture());

  constructor(form, service) {
    Object.assign(this, { form, service });
    this.keepSoon = debounced(PAUSE_MS, () => this.keepValues());
  }

  get card() {
    return this.service.card(this.kind, this.#drafts[this.kind]?.model);
  }

  /** Brings back what was there when the page was left; the task that was open, or the first. */
  async restore() {
    const { kind, drafts } = keep.storedInTab("desk", keep.stored("desk", {}));
    this.#drafts = drafts ?? {};
    const kept = await keep.draft();
    const lost = ({ message }) => tell(`Your picture comes back at your next visit, not now: ${message}`);
    if (kept) await this.#restorePicture(kept).catch(lost);
    return this.service.kinds.includes(kind) ? kind : this.service.kinds[0];
  }

  async #restorePicture({ file, operations }) {
    const { maskOf } = operations?.length ? await import("../mask/editor.js") : {};
    try {
      this.picture = await openPicture(file);
      const mask = maskOf?.(this.picture, { onChange: () => this.keepPicture() });
      await this.#unkept(() => mask?.restore(operations));
    } catch (error) {
      await this.#keepPicture(); // the browser has lost bytes: what needs them would fail at every visit
    }
  }

  select(kind) {
    this.keepValues();
    this.kind = kind;
    this.#drafts[kind] ??= { values: {} };
    if (this.#shown) this.#carry(kind);
  }

  /** Takes the form's words to another task's draft, one that was cleared, too: they alone may be new to other tabs. */
  #carry(kind) {
    const { values, given } = this.#drafts[this.#shown];
    const own = this.#drafts[kind].values;
    const names = WORDS.filter((name) => this.form.has(name) && (values[name] ?? "") !== (own[name] ?? ""));
    const words = Object.fromEntries(names.map((name) => [name, values[name] ?? ""]));
    Object.assign(own, words);
    if (names.length && given) this.#drafts[kind].given = true;
    const withWords = (kept) => ({ ...kept, values: { ...kept?.values, ...words } });
    this.#share(kind, names.length && !given ? withWords : (kept) => kept);
  }

  chooseModel(id, kind = this.kind) {
    this.keepValues();
    this.#drafts[kind] = { values: {}, ...this.#drafts[kind], model: id };
    this.#share(kind, () => this.#drafts[kind]);
  }

  /** Shows the fields of task and model, with what was entered before. */
  show() {
    const { kind, card, service } = this;
    const { values, given } = this.#drafts[kind];
    const same = this.#drafts[kind].of === card.id;
    const carried = same
      ? values
      : Object.fromEntries(OF_ANY_MODEL.filter((name) => name in values).map((name) => [name, values[name]]));
    this.#shown = kind;
    this.form.show(fieldsOf(kind, card, service.schemas, service.openapi, service.addOns(card)), carried, {
      cards: service.able(kind),
      card,
      words: card.fields.includes("prompt") ? service.words(card) : [],
      action: kind === "upscale" ? `Upscale ×${card.scale}` : (ACTIONS[kind] ?? "Create"),
    });
    this.#drafts[kind] = { model: card.id, of: card.id, values: carried, given };
    this.#seen = this.form.state;
  }

  /** Notes what the form has, at once. */
  keepValues() {
    if (this.#shown) this.#note();
    keep.storeInTab("desk", { kind: this.kind, drafts: this.#drafts });
  }

  #note() {
    const { state } = this.form;
    const changed = state !== this.#seen;
    const { given, ...draft } = this.#drafts[this.#shown];
    this.#seen = state;
    const values = this.form.values();
    this.#drafts[this.#shown] = { ...draft, of: this.form.card.id, values, given: given && !changed };
    if (changed) this.#share(this.#shown, () => this.#drafts[this.#shown]);
  }

  /** Keeps the task for tabs to come, and what `change` makes of the draft of `kind` that the last tab left. */
  #share(kind, change) {
    if (this.#giving) return;
    const { drafts } = keep.stored("desk", {});
    keep.store("desk", { kind: this.kind, drafts: { ...drafts, [kind]: change(drafts?.[kind]) } });
  }

  /** Lets a link fill the form by `work()`. */
  give(work) {
    this.keepValues();
    this.#giving = true;
    try {
      work();
    } finally {
      this.#giving = false;
    }
    this.#drafts[this.#shown].given = true;
    this.#seen = this.form.state;
  }

  /** Notes picture and mask, which all tabs share, soon. */
  keepPicture() {
    if (!this.#filling) this.#keepPictureSoon();
  }

  async #unkept(work) {
    this.#filling = true;
    try {
      await work();
    } finally {
      this.#filling = false;
    }
  }

  async #keepPicture() {
    const { picture } = this;
    try {
      await keep.keepDraft(picture && { file: picture.file, operations: picture.mask?.operations ?? [] });
    } catch (error) {
      tell(`This browser can't keep the picture for your next visit: ${error.message}`);
    }
  }

  /** Takes picture and mask that a job started from, to be `kept`; what the editor has of them stays as it is. */
  async takeSource(source, draw, kept) {
    if (source?.depth) this.depth = await openPicture(source.depth);
    if (!source?.file) return;
    if (!isSame(source.file, this.picture?.file)) this.picture = await openPicture(source.file);
    if (source.mask) await this.#unkept(() => this.#takeMask(source.mask, draw));
    if (kept) this.keepPicture();
  }

  /** Puts a mask in the place of what was drawn; undoing brings that back. */
  async #takeMask(file, draw) {
    const { maskOf } = await import("../mask/editor.js");
    const mask = maskOf(this.picture, draw);
    if (await hasSameBytes(await mask.file(), file)) return;
    mask.clear();
    await mask.addFile(file);
  }
}

const isSame = (file, other) => other && file.size === other.size && file.name === other.name;
