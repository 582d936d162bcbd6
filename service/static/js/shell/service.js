/**
 * What the service has: its models, its request schemas, and whether workers are alive; shown in the page's head.
 */

import * as api from "../lib/api.js";
import { byId } from "../lib/dom.js";
import { inOrder } from "../form/tabs.js";
import { requestSchemas } from "../form/fields.js";

const REFRESH_MS = 5000;
const FORMLESS = new Set(["layout2img"]); // boxes are drawn by programs

export class Service {
  cards = [];
  #loras = [];
  #controlnets = [];
  #lists = {}; // of form/addons.js, where there is anything to add
  #default = "";
  #onChange;

  /** `onChange()` is called when the models have changed: one was installed, removed, or is served now. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Tasks that the installed models can do. */
  get kinds() {
    return inOrder(Object.keys(this.schemas).filter((kind) => this.able(kind).length));
  }

  /** Reads the models and the OpenAPI document, then the models again and again. Throws Problem if nobody answers. */
  async start() {
    const asked = [api.openapi(), api.models(), api.loras(), api.controlnets()];
    const [openapi, models, loras, controlnets] = await Promise.all(asked);
    this.openapi = openapi;
    this.schemas = requestSchemas(openapi);
    this.#take(models);
    [this.#loras, this.#controlnets] = [loras.items, controlnets.items];
    if (loras.items.length || controlnets.items.length) this.#lists = await import("../form/addons.js");
    setInterval(() => this.#refresh(), REFRESH_MS);
  }

  /** Cards of the models that can do `kind` from this page. */
  able(kind) {
    return kind in this.schemas && !FORMLESS.has(kind) ? this.cards.filter((card) => card.tasks.includes(kind)) : [];
  }

  /** The card of `model` if it can do `kind`, else the service's default if that can, else the first that can. */
  card(kind, model) {
    const able = this.able(kind);
    return able.find(({ id }) => id === model) ?? able.find(({ id }) => id === this.#default) ?? able[0];
  }

  /** What can be added to the model of `card`, by the request's field: `{cards, input}`; nothing where none fits. */
  addOns(card) {
    const fits = ({ unserved, context_width: width }) =>
      !unserved && (!width || !card.context_width || width === card.context_width);
    const { loraList, controlList } = this.#lists;
    const all = { loras: [this.#loras, loraList], controls: [this.#controlnets, controlList] };
    const found = Object.entries(all).map(([name, [cards, input]]) => [name, { cards: cards.filter(fits), input }]);
    return Object.fromEntries(found.filter(([, { cards }]) => cards.length && card.fields.includes("prompt")));
  }

  /** Whether a live worker holds the model. */
  serves(model) {
    return this.cards.some(({ id, loaded }) => id === model && loaded);
  }

  async #refresh() {
    try {
      const before = this.kinds.join();
      this.#take(await api.models());
      if (this.kinds.join() !== before) this.#onChange();
    } catch (problem) {
      this.#say("bad", problem.status ? problem.message : "No answer from the service");
    }
  }

  #take({ items, default: model }) {
    this.cards = items;
    this.#default = model;
    this.#show();
  }

  #show() {
    if (this.cards.some((card) => card.loaded)) this.#say("good", "Ready");
    else this.#say("waiting", "No worker yet: jobs wait");
  }

  #say(state, text) {
    byId("service").className = `service ${state}`;
    byId("service").textContent = text;
  }
}
