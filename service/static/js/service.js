/**
 * What the service has: its models, its request schemas, and whether workers are alive; shown in the page's head.
 */

import * as api from "./api.js";
import { byId } from "./dom.js";
import { requestSchemas } from "./fields.js";

const REFRESH_MS = 5000;

export class Service {
  cards = [];

  /** Reads the models and the OpenAPI document, then the models again and again. Throws Problem if nobody answers. */
  async start() {
    [this.openapi, this.cards] = await Promise.all([api.openapi(), api.models()]);
    this.schemas = requestSchemas(this.openapi);
    this.#show();
    setInterval(() => this.#refresh(), REFRESH_MS);
  }

  able(kind) {
    return kind in this.schemas ? this.cards.filter((card) => card.tasks.includes(kind)) : [];
  }

  /** The card of `model` if it can do `kind`, else the first that can. */
  card(kind, model) {
    const able = this.able(kind);
    return able.find(({ id }) => id === model) ?? able[0];
  }

  /** Whether a live worker holds the model. */
  serves(model) {
    return this.cards.some(({ id, loaded }) => id === model && loaded);
  }

  async #refresh() {
    try {
      this.cards = await api.models();
      this.#show();
    } catch (problem) {
      this.#say("bad", problem.status ? problem.message : "No answer from the service");
    }
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
