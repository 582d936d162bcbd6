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
  const [, plain, schedule] = WITH_SCHEDULE.exec(settings.sampler ?? "") ?? [];
  const wanted = named(card.samplers, settings.sampler) ?? named(card.samplers, plain);
  if (plain && wanted) values.schedule ??= schedule.toLowerCase();
  if (settings.sampler && !wanted) missing.push(`Its sampler, ${settings.sampler}, isn't offered here.`);
  if (wanted) values.sampler = wanted;
  else delete values.sampler;
  const known = service.schemas[kind].properties.schedule;
  const names =
    JSON.stringify(known ?? "")
      .match(/"\w+"/g)
      ?.map((name) => name.slice(1, -1)) ?? [];
  if (values.schedule) values.schedule = named(names, values.schedule) ?? "";
  return { kind, values, missing };
}
