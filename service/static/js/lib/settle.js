/**
 * Settings that a picture carries, as far as this service has what they ask for.
 */

import { named } from "./settings.js";

const WITH_SCHEDULE = /^(.*) (karras|exponential)$/i; // how A1111 once wrote a sampler with its schedule

/** `{kind, values, missing}`: the task, the form's values, and sentences about what isn't here. */
export function settle(settings, service) {
  const kind = service.able(settings.kind).length ? settings.kind : service.kinds[0];
  const missing = [];
  const card = service.card(kind, settings.model);
  const values = { ...settings, model: card.id };
  if (settings.model && settings.model !== card.id) missing.push(`Its model, ${settings.model}, isn't installed here.`);
  settleSampler(values, card, service.schemas[kind].properties, missing);
  const addOns = service.addOns(card);
  if (settings.loras) values.loras = settleAddOns("LoRA", settings.loras, addOns.loras, missing);
  if (settings.controls) {
    values.controls = settleAddOns("ControlNet", settings.controls, addOns.controls, missing);
    if (values.controls.length) missing.push("The pictures that led it aren't in the file: choose them again.");
  }
  return { kind, values, missing };
}

function settleSampler(values, card, properties, missing) {
  const [, plain, schedule] = WITH_SCHEDULE.exec(values.sampler ?? "") ?? [];
  const wanted = named(card.samplers, values.sampler) ?? named(card.samplers, plain);
  if (plain && wanted) values.schedule ??= schedule.toLowerCase();
  if (values.sampler && !wanted) missing.push(`Its sampler, ${values.sampler}, isn't offered here.`);
  if (wanted) values.sampler = wanted;
  else delete values.sampler;
  const names =
    JSON.stringify(properties.schedule ?? "")
      .match(/"\w+"/g)
      ?.map((name) => name.slice(1, -1)) ?? [];
  if (values.schedule) values.schedule = named(names, values.schedule) ?? "";
}

/** Those of a list that are installed and fit the model, by their ids here. */
function settleAddOns(what, sent, addOns, missing) {
  const cardOf = (name) => (addOns?.cards ?? []).find(({ id, names = [] }) => named([id, ...names], name));
  const found = sent.map((each) => ({ ...each, id: cardOf(each.id)?.id, was: each.id }));
  for (const { was } of found.filter(({ id }) => !id))
    missing.push(`Its ${what}, ${was}, isn't installed here or doesn't fit the model.`);
  return found.filter(({ id }) => id);
}
