/**
 * What is added to a model: LoRAs, each with how much of it, and ControlNets, each with the picture that leads. Both are
 * groups whose value is the request's list; an empty one is "".
 */

import { button, h } from "../lib/dom.js";
import { keepSource, sourceOf } from "../lib/keep.js";
import { Problem } from "../lib/api.js";
import { groupOf, numberInput, slider } from "./controls.js";
import { fileInput, openPicture, thumbnail } from "./picture.js";

const UNSET = "";

/** LoRAs of the model's family, each at most once. */
export const loraList = (field) => new AddOns(field, { what: "LoRA", lineOf: loraLine, once: true }).node;

/** ControlNets of it; `picture` of their values is the id under which this browser keeps the picture. */
export const controlList = (field) => new AddOns(field, { what: "ControlNet", lineOf: controlLine, once: false }).node;

/** A line for each that was chosen, and what chooses one more; `lineOf(card, value, changed)` gives `{nodes, read}`. */
class AddOns {
  #lines = []; // {id, read, box}
  #place = h("div", { className: "lines" });

  constructor(field, { what, lineOf, once }) {
    Object.assign(this, { cards: field.cards, lineOf, once });
    this.choice = h("select", { "aria-label": what, name: field.name });
    // A select that acted by itself would add whatever arrow keys pass.
    this.add = button("Add", { className: "button small", onclick: () => this.#choose(this.choice.value) });
    this.add.ariaLabel = `Add this ${what}`;
    this.more = h("div", { className: "slide" }, this.choice, this.add);
    const get = () => (this.#lines.length ? this.#lines.map(({ id, read }) => ({ id, ...read() })) : UNSET);
    this.node = groupOf(field, get, (values) => this.#show(values || []), this.#place, this.more);
    this.#offer();
  }

  #show(values) {
    this.#lines = [];
    this.#place.replaceChildren();
    for (const value of values) this.#put(value);
    this.#offer();
  }

  // One that isn't here any more, or doesn't fit this model, can't be asked for.
  #put(value) {
    const card = this.cards.find(({ id }) => id === value.id);
    if (!card) return;
    const line = { id: card.id, ...this.lineOf(card, value, () => this.#changed()) };
    const remove = button("×", { className: "plain", title: "Remove", onclick: () => this.#remove(line) });
    remove.ariaLabel = `Remove ${card.id}`;
    const name = h("span", { className: "clamped", title: card.description }, card.id);
    const head = h("div", { className: "line-head" }, name, remove);
    line.box = h("div", { className: "line", role: "group", "aria-label": card.id }, head, line.nodes);
    this.#lines.push(line);
    this.#place.append(line.box);
  }

  #choose(id) {
    this.#put({ id });
    this.#offer();
    if (this.more.hidden) this.#lines.at(-1).box.querySelector("[type=number]").focus();
    this.#changed();
  }

  #remove(line) {
    this.#lines = this.#lines.filter((other) => other !== line);
    line.box.remove();
    forget();
    this.#offer();
    this.add.focus();
    this.#changed();
  }

  #offer() {
    const left = this.cards.filter(({ id }) => !this.once || this.#lines.every((line) => line.id !== id));
    this.choice.replaceChildren(...left.map(({ id }) => h("option", { value: id }, id)));
    this.more.hidden = !left.length;
  }

  #changed() {
    this.node.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

function loraLine({ id, trigger_words: words }, { scale = 1 }) {
  const bounds = { min: 0, max: 2, soft: 2, step: 0.05 };
  const amount = amountOf(`How much of ${id}`, bounds, scale);
  const said = words?.length > 0 && h("p", { className: "help" }, `Name it in the prompt: ${words.join(", ")}`);
  return { nodes: [amount.node, said].filter(Boolean), read: () => ({ scale: amount.read() }) };
}

/** A number with its slider; what is beyond the slider can be typed. */
function amountOf(label, bounds, value) {
  const input = numberInput({ step: bounds.step, spoken: label });
  const node = slider(bounds, input);
  const write = (amount) => ((input.value = amount), input.dispatchEvent(new Event("input")));
  write(value);
  return { node, read: () => Number(input.value) };
}

function controlLine({ id }, { scale = 1, start = 0, end = 1, preprocess, picture: key = null }, changed) {
  const picture = pictureOf(id, key, changed);
  const amount = amountOf(`How much of ${id}`, { min: 0, max: 2, soft: 2, step: 0.05 }, scale);
  const [from, to] = [
    ["from", start],
    ["until", end],
  ].map(([label, value]) => {
    const input = numberInput({ min: 0, max: 1, step: 0.05, spoken: `${id} acts ${label}` });
    input.value = value;
    return input;
  });
  const edges = h("input", { type: "checkbox", className: "toggle", role: "switch", checked: preprocess === "canny" });
  const span = h("div", { className: "group-of" }, h("span", { className: "unit" }, "Acts from"), from, "to", to);
  const drawn = h("label", { className: "drawn" }, edges, "Draw the edges of the picture first");
  const read = () => ({
    scale: amount.read(),
    start: Number(from.value),
    end: Number(to.value),
    ...(edges.checked && { preprocess: "canny" }),
    ...(picture.key && { picture: picture.key }),
  });
  return { nodes: [picture.node, amount.node, span, drawn], read };
}

const pictures = new Map(); // opened ones, by the id under which this browser keeps them
const rows = new Set(); // {key, node} of those that show them

/** Forgets opened pictures that no row shows any more and that can be opened again. */
function forget() {
  for (const row of rows) if (!row.node.isConnected) rows.delete(row);
  const shown = new Set([...rows].map(({ key }) => key));
  for (const [key, { kept }] of pictures) if (kept && !shown.has(key)) pictures.delete(key);
}

/** The row that chooses the picture of a control. */
function pictureOf(id, key, changed) {
  const row = { key, node: h("div", { className: "picture-row" }) };
  rows.add(row);
  const take = async (file) => {
    const key = `control ${file.name} ${file.size} ${file.lastModified}`;
    row.key = key;
    try {
      const picture = await openPicture(file);
      pictures.set(key, picture);
      show();
      changed();
      await keepSource(key, { image: file });
      picture.kept = true;
      forget();
    } catch (error) {
      show(error.message);
    }
  };
  const input = fileInput(take, `Picture for ${id}`);
  const show = (problem) => {
    const picture = pictures.get(row.key);
    const facts = picture ? `${picture.width} × ${picture.height}` : "No picture yet";
    const said = h("span", { className: problem ? "facts error" : "facts" }, problem ?? facts);
    const choose = button(picture ? "Replace" : "Choose", { className: "button small", onclick: () => input.click() });
    row.node.replaceChildren(
      input,
      picture ? thumbnail(picture) : h("span", { className: "thumb empty" }),
      said,
      choose,
    );
  };
  show();
  if (key) opened(key).then(() => (show(), forget()));
  return row;
}

/** A picture that is kept, opened; undefined where this browser has it no more. */
async function opened(key) {
  if (!pictures.has(key)) {
    const kept = await sourceOf(key);
    if (kept?.file) pictures.set(key, { ...(await openPicture(kept.file)), kept: true });
  }
  return pictures.get(key);
}

/** The picture of a control, cropped about its middle to a size. Throws Problem where there is none. */
export async function controlFile({ id, picture: key }, { width, height }) {
  const picture = key && (await opened(key));
  if (!picture) throw new Problem({ detail: `Choose the picture that leads ${id}.`, field: "controls" });
  if (picture.width === width && picture.height === height) return picture.file;
  const scale = Math.max(width / picture.width, height / picture.height);
  const [across, down] = [picture.width * scale, picture.height * scale];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(picture.bitmap, (width - across) / 2, (height - down) / 2, across, down);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  return new File([blob], "control.png", { type: blob.type });
}
