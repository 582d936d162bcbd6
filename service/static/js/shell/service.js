/**
 * What the service has: its models, its request schemas, and whether workers are alive; shown in the page's head.
 */

import * as api from "../lib/api.js";
import { button, byId, onReturn } from "../lib/dom.js";
import { inOrder } from "../form/tabs.js";
import { requestSchemas } from "../form/fields.js";

const REFRESH_MS = 10_000;

export class Service {
  cards = [];
  #addOns = { loras: [], controlnets: [], embeddings: [] };
  #inputs = {}; // of form/addons.js and boxes/list.js, where there is something for them
  #default = "";
  #reads = 0; // one that another has overtaken must not be shown
  #reading = false; // the newest of them has no answer yet
  #rest = 0; // until when the service asked to be left alone
  #onChange;
  #onWorkers;

  /**
   * `onChange()` is called when a model or what can be added to one was installed or removed, `onWorkers()` when other
   * models than before have live workers.
   */
  constructor(onChange, onWorkers) {
    this.#onChange = onChange;
    this.#onWorkers = onWorkers;
  }

  /** Tasks that the installed models can do. */
  get kinds() {
    return inOrder(Object.keys(this.schemas).filter((kind) => this.able(kind).length));
  }

  /** Reads the models and the OpenAPI document, then the models again and again. Throws Problem if nobody answers. */
  async start() {
    const [openapi, models, addOns] = await Promise.all([api.openapi(), api.models(), readAddOns()]);
    this.openapi = openapi;
    this.schemas = requestSchemas(openapi);
    await this.#importInputs(models, addOns);
    this.#take(models, addOns);
    const idle = () => this.#reading || document.hidden || Date.now() < this.#rest;
    setInterval(() => idle() || this.#refresh(), REFRESH_MS);
    // Who drops a file into the models folder does that elsewhere, and comes back.
    onReturn(() => this.#refresh(readAddOns));
    addEventListener("key", () => this.#refresh(readAddOns));
  }

  /** Cards of the models that can do `kind` from this page. */
  able(kind) {
    return kind in this.schemas ? this.cards.filter((card) => card.tasks.includes(kind)) : [];
  }

  /** The card of `model` if it can do `kind`, else the service's default if that can, else the first that can. */
  card(kind, model) {
    const able = this.able(kind);
    return able.find(({ id }) => id === model) ?? able.find(({ id }) => id === this.#default) ?? able[0];
  }

  /** Fields of the model of `card` that have an `input` of their own; what can be added to it where any of the `cards` fits. */
  addOns(card) {
    const { loraList, controlList, boxList } = this.#inputs;
    const { loras, controlnets } = this.#addOns;
    const all = { loras: [loras, loraList], controls: [controlnets, controlList] };
    const of = (cards) => cards.filter((each) => fits(card, each, each.context_width));
    const found = Object.entries(all).map(([name, [cards, input]]) => [name, { cards: of(cards), input }]);
    const some = found.filter(([, { cards }]) => cards.length && card.fields.includes("prompt"));
    return Object.fromEntries(card.layout ? [...some, ["boxes", { card, input: boxList }]] : some);
  }

  /** Embeddings that prompts for the model of `card` can name. */
  words(card) {
    const width = ({ widths }) => widths.reduce((sum, each) => sum + each, 0);
    return this.#addOns.embeddings.filter((each) => fits(card, each, width(each))).map(({ name }) => name);
  }

  /** Whether a live worker holds the model. */
  serves(model) {
    return this.cards.some(({ id, loaded }) => id === model && loaded);
  }

  /** Whether a live worker holds any. */
  get ready() {
    return this.cards.some(({ loaded }) => loaded);
  }

  /**
   * Reads the models, and by `addOns()` what can be added to them; else that is what was read last, maybe meanwhile.
   * `quiet` as api.js has it.
   */
  async #refresh(addOns, quiet = true) {
    const read = ++this.#reads;
    this.#reading = true;
    try {
      const [models, found] = await Promise.all([api.models({ quiet }), addOns?.({ quiet })]);
      await this.#importInputs(models, found ?? this.#addOns);
      if (read === this.#reads) this.#compare(models, found ?? this.#addOns);
    } catch (problem) {
      if (read === this.#reads) this.#tell(problem);
    }
    if (read === this.#reads) this.#reading = false;
  }

  #compare(models, addOns) {
    const [before, served] = [this.#installed, this.#served];
    this.#take(models, addOns);
    if (this.#installed !== before) this.#onChange();
    if (this.#served !== served) this.#onWorkers();
  }

  async #importInputs({ items }, { loras, controlnets }) {
    if (loras.length || controlnets.length) Object.assign(this.#inputs, await import("../form/addons.js"));
    if (items.some((card) => card.layout)) Object.assign(this.#inputs, await import("../boxes/list.js"));
  }

  #take({ items, default: model }, addOns) {
    this.cards = items;
    this.#addOns = addOns;
    this.#default = model;
    this.#show();
  }

  /** What there is, by name. */
  get #installed() {
    const all = [this.kinds, this.cards, ...Object.values(this.#addOns)];
    return JSON.stringify(all.map((each) => each.map((card) => card.id ?? card.name ?? card)));
  }

  get #served() {
    return JSON.stringify(this.cards.filter(({ loaded }) => loaded).map(({ id }) => id));
  }

  #show() {
    if (this.ready) this.#say("good", "Ready");
    else this.#say("waiting", "No worker yet: jobs wait");
  }

  #tell({ status, message, retryAfter }) {
    this.#rest = Date.now() + 1000 * (retryAfter ?? 0);
    const enter = () => button("Enter it", { className: "button small", onclick: () => this.#refresh(readAddOns, false) });
    if (status === api.UNAUTHORIZED) this.#say("bad", "A key is needed", enter());
    else this.#say("bad", status ? message : "No answer from the service");
  }

  #say(state, text, ...more) {
    const node = byId("service");
    if (node.firstChild?.data === text) return; // said already: its button may have the focus
    node.className = `service ${state}`;
    node.replaceChildren(text, ...more);
  }
}

const fits = (card, { unserved }, width) => !unserved && (!width || !card.context_width || width === card.context_width);

async function readAddOns(options) {
  const lists = await Promise.all([api.loras(options), api.controlnets(options), api.embeddings(options)]);
  const [loras, controlnets, embeddings] = lists.map(({ items }) => items);
  return { loras, controlnets, embeddings };
}
