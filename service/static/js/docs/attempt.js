/**
 * A form that really sends a call: its parameters, body and files; what it is given goes into the code above it, too.
 */

import { button, h } from "../lib/dom.js";
import { authorization } from "../lib/key.js";
import { show } from "./answer.js";

/** The form of a call; `changed` is told when what it sends is another. */
export function attempt(call, changed) {
  const output = h("div", { className: "answer", role: "status" });
  const send = button("Send", { type: "submit", className: "button primary" });
  const fields = [
    ...(call.media ? bodyFields(call, changed) : []),
    ...(call.choosesAnswer ? [answerField(call, changed)] : []),
    ...call.parameters.map((parameter) => parameterField(call, parameter, changed)),
  ];
  const form = h("form", {}, ...fields, send);
  let running = null;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    send.firstChild.textContent = "Stop";
    return run(call, output, running.signal).finally(() => {
      running = null;
      send.firstChild.textContent = "Send";
    });
  });
  return h("div", {}, form, output);
}

async function run(call, output, signal) {
  output.replaceChildren();
  const began = performance.now();
  try {
    const { headers, ...options } = await call.options();
    const answer = await fetch(call.url, { ...options, headers: { ...headers, ...authorization() }, signal, cache: "no-store" });
    await show(answer, output, began);
  } catch (error) {
    const why = signal.aborted ? "Stopped." : `No whole answer: ${error.message}`;
    output.append(h("p", { className: "status bad" }, why));
  }
}

const labelled = (id, label, help, input) =>
  h("div", { className: "field" }, h("label", { htmlFor: id }, label), input, help && h("p", { className: "help", id: `${id}-help` }, help));

function parameterField(call, parameter, changed) {
  const { name, in: place, required, schema, description, example } = parameter;
  const id = `${call.id}-${name}`;
  const label = `${name} (${place}${required ? ", required" : ""})`;
  const options = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  const props = { id, value: call.value(parameter), placeholder: example ?? "", spellcheck: false, autocomplete: "off" };
  const input = options ? select(id, ["", ...options], "") : h("input", props);
  input.addEventListener("input", () => ((call.given[name] = input.value), changed()));
  document.addEventListener("places", () => place === "path" && (input.value = call.value(parameter)));
  return labelled(id, label, description ?? schema.description, input);
}

function select(id, options, chosen) {
  const made = options.map((value) => h("option", { value, selected: value === chosen }, value || "not sent"));
  return h("select", { id }, ...made);
}

function answerField(call, changed) {
  const id = `${call.id}-accept`;
  const input = select(id, call.answers, call.accept);
  input.addEventListener("input", () => ((call.accept = input.value), changed()));
  document.addEventListener("example", ({ detail }) => detail === call && (input.value = call.accept));
  return labelled(id, "Accept (header)", "A picture's bytes, once it is drawn; or the job.", input);
}

function bodyFields(call, changed) {
  const id = `${call.id}-body`;
  const written = () => JSON.stringify(call.fields, null, 2);
  const input = h("textarea", { id, value: written(), rows: 5, spellcheck: false });
  input.addEventListener("input", () => {
    const fields = objectOf(input.value);
    input.setCustomValidity(fields === null ? "Write a JSON object." : "");
    if (fields !== null) ((call.fields = fields), changed());
  });
  const use = (example) => {
    call.use(example);
    input.value = written();
    input.setCustomValidity("");
    document.dispatchEvent(new CustomEvent("example", { detail: call }));
    changed();
  };
  const label = call.media === "multipart/form-data" ? "Fields of the form, as JSON" : "Body, as JSON";
  const fields = (wanted) =>
    call.pictures.filter((each) => each.wanted === wanted).map((each) => pictureField(call, each, changed));
  const more = fields(false);
  return [
    ...fields(true),
    ...(more.length ? [h("details", {}, h("summary", {}, "More files"), ...more)] : []),
    ...(call.examples.length > 1 ? [exampleField(call, use)] : []),
    labelled(id, label, null, input),
  ];
}

function objectOf(text) {
  try {
    const value = JSON.parse(text || "{}");
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function exampleField(call, use) {
  const id = `${call.id}-example`;
  const input = select(id, call.examples.map(({ summary }) => summary), call.examples[0].summary);
  input.addEventListener("input", () => use(call.examples[input.selectedIndex]));
  return labelled(id, "Example", null, input);
}

function pictureField(call, { name, wanted }, changed) {
  const id = `${call.id}-${name}`;
  const input = h("input", { id, type: "file", accept: "image/png,image/jpeg,image/webp" });
  input.addEventListener("input", () => ((call.files[name] = input.files[0]), changed()));
  return labelled(id, `${name} (file${wanted ? ", required" : ""})`, null, input);
}
