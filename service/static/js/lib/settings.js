/**
 * Settings that a PNG carries: the request as JSON where latentd wrote it, else A1111's `parameters` text.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MOST_TEXT = 1 << 20; // of one chunk: what isn't read by people isn't read here

/** Text chunks of a PNG by keyword, tEXt and iTXt; empty for any other file. */
async function pngTexts(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const texts = {};
  if (SIGNATURE.some((value, i) => bytes[i] !== value)) return texts;
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const data = bytes.subarray(at + 8, at + 8 + length);
    const [keyword, text] = readChunk(ascii(bytes.subarray(at + 4, at + 8)), data);
    if (keyword) texts[keyword] = text;
    at += 12 + length;
  }
  return texts;
}

const ascii = (bytes) => String.fromCharCode(...bytes);

function readChunk(type, data) {
  if (!["tEXt", "iTXt"].includes(type) || data.length > MOST_TEXT) return [];
  const end = data.indexOf(0);
  const keyword = ascii(data.subarray(0, end));
  if (type === "tEXt") return [keyword, new TextDecoder("latin1").decode(data.subarray(end + 1))];
  if (data[end + 1] !== 0) return []; // compressed
  const language = data.indexOf(0, end + 3);
  const translated = data.indexOf(0, language + 1);
  return [keyword, new TextDecoder().decode(data.subarray(translated + 1))];
}

/** `{kind, …fields}` that a picture was made with, or null if it doesn't say. Numbers are numbers. */
export async function readSettings(file) {
  const texts = await pngTexts(file);
  if (texts.latentd) {
    try {
      const { request, index } = JSON.parse(texts.latentd);
      return { ...request, seed: request.seeds?.[index] ?? request.seed, num_images: 1 }; // of its job this one alone
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return texts.parameters ? readParameters(texts.parameters) : null;
}

// Names of A1111 and its heirs → ours. A sampler's name is compared by letters alone.
const NUMBERS = {
  Steps: "steps",
  "CFG scale": "guidance_scale",
  Seed: "seed",
  "Denoising strength": "strength",
  "Clip skip": "clip_skip",
  Eta: "eta",
};
const LORA = /<lora:([^<>:]+)(?::([^<>]*))?>/g;
const WEIGHED = /\([^()]*:\s*[\d.]+\s*\)|(?<!\\)[([]/;
const NEGATIVE = "Negative prompt: ";

/** How much of a LoRA; 1 where nothing, or no number, says. 0 is a number. */
const weight = (text) => (text?.trim() && Number.isFinite(Number(text)) ? Number(text) : 1);

/** Reads A1111's text: the prompt, a line for what it mustn't show, and a line of `Name: value` pairs. */
function readParameters(text) {
  const lines = text.trim().split("\n");
  const facts = /(^|, )Steps: \d/.test(lines.at(-1)) ? pairs(lines.pop()) : {};
  const cut = lines.findIndex((line) => line.startsWith(NEGATIVE));
  const [positive, negative] = cut < 0 ? [lines, []] : [lines.slice(0, cut), lines.slice(cut)];
  const prompt = positive.join("\n");
  const settings = { kind: "txt2img", prompt: prompt.replace(LORA, "").trim() };
  const loras = [...prompt.matchAll(LORA)].map(([, id, scale]) => ({ id: id.trim(), scale: weight(scale) }));
  if (loras.length) settings.loras = loras;
  if (WEIGHED.test(text)) settings.prompt_syntax = "weighted";
  if (negative.length) settings.negative_prompt = negative.join("\n").slice(NEGATIVE.length).trim();
  for (const [name, field] of Object.entries(NUMBERS))
    if (Number.isFinite(Number(facts[name] ?? NaN))) settings[field] = Number(facts[name]);
  const size = /^(\d+)x(\d+)$/.exec(facts.Size ?? "");
  if (size) [settings.width, settings.height] = [Number(size[1]), Number(size[2])];
  if (facts["Hires upscale"]) settings.hires = { scale: Number(facts["Hires upscale"]) };
  if (facts.Sampler) settings.sampler = facts.Sampler;
  if (facts["Schedule type"]) settings.schedule = facts["Schedule type"].toLowerCase();
  if (facts.Model) settings.model = facts.Model;
  return settings;
}

// A value with a comma is quoted. A name begins with no space and is bounded: what isn't followed by a colon is read over
// and over otherwise, and a text can be long.
const pairs = (line) =>
  Object.fromEntries(
    [...line.matchAll(/([\w()+/-][\w ()+/-]{0,63}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g)].map(([, name, value]) => [
      name.trim(),
      value.replace(/^"|"$/g, "").trim(),
    ]),
  );

const letters = (name) =>
  name
    .toLowerCase()
    .replace(/\+\+/g, "pp")
    .replace(/[^a-z0-9]/g, "");

/** The one of `names` that means `name`: by letters alone; undefined if none does. */
export const named = (names, name) => names.find((each) => letters(each) === letters(String(name ?? "")));
