/**
 * Which fields a request of a kind and model has: what the page knows how to show, joined with the bounds of the
 * OpenAPI document and the defaults of the model's card. A field of a card that the page doesn't know is shown by its
 * schema, so that new kinds of task appear by themselves.
 */

/**
 * What the page shows, in order. `place` is main, more, or programs (what people seldom need); `soft` is where a slider
 * ends, because bounds are far wider than what is useful. A switch that is on has the value of `on(values, card)`.
 */
const KNOWN = [
  { name: "prompt", place: "main", control: "text", label: "Prompt", lines: 3, hint: "What the picture shows" },
  {
    name: "negative_prompt",
    place: "main",
    control: "text",
    label: "Without",
    lines: 1,
    hint: "What it must not show",
  },
  {
    name: "strength",
    place: "main",
    control: "slider",
    label: "Strength",
    soft: 1,
    step: 0.01,
    help: "1 starts from noise; less keeps some of what is there.",
  },
  {
    name: "feather",
    place: "main",
    control: "slider",
    label: "Feather",
    soft: 64,
    unit: "px",
    help: "Pixels outside the mask that may blend into it.",
  },
  { name: "boxes", place: "main", label: "Boxes", help: "What is where; drawn on the stage, or by left, top, right and bottom in percent." },
  { name: "width", place: "main", control: "number", label: "Width", unit: "px" },
  { name: "height", place: "main", control: "number", label: "Height", unit: "px" },
  { name: "num_images", place: "main", control: "count", label: "Pictures" },
  { name: "seed", place: "main", control: "seed", label: "Seed", hint: "random" },
  { name: "loras", place: "main", label: "Styles and characters (LoRA)" },
  {
    name: "controls",
    place: "main",
    label: "Led by a picture (ControlNet)",
    help: "Its picture is cropped to the size that is made.",
  },
  { name: "steps", place: "more", control: "slider", label: "Steps", soft: 100 },
  {
    name: "guidance_scale",
    place: "more",
    control: "slider",
    label: "Guidance",
    soft: 15,
    step: 0.1,
    help: "How closely the prompt is followed.",
  },
  {
    name: "image_guidance_scale",
    place: "more",
    control: "slider",
    label: "Picture guidance",
    soft: 5,
    step: 0.1,
    help: "How much is kept of the picture.",
  },
  {
    name: "guidance_interval",
    place: "more",
    control: "span",
    label: "Guidance acts",
    step: 0.05,
    help: "Between which shares of noise: 1 is the beginning, 0 the end. Empty: always.",
  },
  {
    name: "guidance_rescale",
    place: "more",
    control: "number",
    label: "Softer contrast",
    step: 0.05,
    hint: "0",
    help: "1 takes back all contrast that guidance adds.",
  },
  { name: "sampler", place: "more", control: "select", label: "Sampler" },
  { name: "schedule", place: "more", control: "select", label: "Schedule", none: "The model's own" },
  {
    name: "prompt_syntax",
    place: "more",
    control: "switch",
    label: "Weights in the prompt",
    on: () => "weighted",
    off: "plain",
    help: "(word:1.2) counts more, [word] less.",
  },
  {
    name: "clip_skip",
    place: "more",
    control: "number",
    label: "CLIP skip",
    hint: "the model's",
    help: "2 for many models of anime.",
  },
  {
    name: "preview_every",
    place: "more",
    control: "switch",
    label: "Previews",
    on: previewEvery,
    off: 0,
    help: "See the picture while it is painted.",
  },
  {
    name: "eta",
    place: "programs",
    control: "number",
    label: "Eta",
    step: 0.05,
    hint: "the sampler's",
    help: "Noise added at each step; 0 adds none.",
  },
  ...["aesthetic_score", "negative_aesthetic_score", "denoising_start", "denoising_end"].map((name) => ({
    name,
    place: "programs",
    control: "number",
    label: worded(name),
    step: name.startsWith("d") ? 0.01 : 0.1,
    hint: "the model's",
  })),
  { name: "output_format", place: "programs", control: "select", label: "Format" },
  {
    name: "priority",
    place: "programs",
    control: "select",
    label: "Priority",
    help: "Bulk goes behind interactive requests.",
  },
  {
    name: "deadline_ms",
    place: "programs",
    control: "number",
    label: "Deadline",
    unit: "ms",
    hint: "none",
    help: "Given up if it isn't done by then.",
  },
  {
    name: "determinism",
    place: "programs",
    control: "switch",
    label: "Same bytes every time",
    on: () => "strict",
    off: "fast",
    help: "Strict: equal bytes whatever else runs. A little slower.",
  },
];

function worded(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

// Uploads, and what the page sets itself or has no use for.
const UNSHOWN = new Set(["image", "mask", "depth", "mask_mode", "webhook_url", "timesteps", "model"]);

// Fields of a request that no control has, whatever the model: what a picture had that was made with them.
const UNSAID = {
  hires: "a second, larger pass",
  timesteps: "timesteps of its own",
  original_size: "a size that its model was told",
  target_size: "a size that its model was told",
  crop: "a crop that its model was told",
};

const CLASS = new Set(["label", "class_id"]); // what the picture shows, as the prompt elsewhere

// A preview costs one decode: six a picture are cheap beside its steps.
const PREVIEWS = 6;

function previewEvery({ steps }, card) {
  return Math.max(1, Math.round((steps ?? card.defaults.steps) / PREVIEWS));
}

/** Those fields of a resolved request that the form can't say, as a post has them. */
export function unsaidOf(request) {
  const found = Object.entries(request).filter(([name, value]) => name in UNSAID && value !== null);
  return Object.fromEntries(found.map(([name, value]) => [name, name === "hires" ? posted(value) : value]));
}

/** A second pass as a post has it: its model is named there, not resolved. */
export const posted = ({ enlarged_by: _, ...hires }) => hires;

/** What the form says, joined with what it can't: timesteps stand for steps and schedule. */
export function withUnsaid(fields, unsaid) {
  const all = { ...fields, ...unsaid };
  if (unsaid.timesteps) for (const name of ["steps", "schedule"]) delete all[name];
  return all;
}

/** Whether a request need not name its eta: the card's is its own sampler's, and ddim's; tcd else has one of its own. */
export function hasUsualEta({ sampler, eta }, card) {
  const { defaults } = card ?? {};
  if (sampler === defaults?.sampler && eta === defaults.eta) return true;
  return !eta && sampler !== "tcd" && !(sampler === "ddim" && defaults?.eta);
}

/** A sentence about what of a request the form leaves out, or "". */
export function lossOf(request) {
  const had = new Set(Object.keys(unsaidOf(request)).map((name) => UNSAID[name]));
  return had.size ? `That picture had ${[...had].join(" and ")}; the form makes it without.` : "";
}

// Fields that concern the job, not the model; all others are shown only where the card lists them.
const COMMON = new Set([
  "num_images",
  "seed",
  "output_format",
  "priority",
  "deadline_ms",
  "preview_every",
  "determinism",
]);

/** Schemas of the request bodies by kind, references followed. */
export function requestSchemas(openapi) {
  const schemas = {};
  for (const [path, item] of Object.entries(openapi.paths)) {
    const [, kind] = /^\/v1\/(\w+)$/.exec(path) ?? [];
    const content = item.post?.requestBody?.content;
    if (kind && content?.["application/json"]) schemas[kind] = resolve(content["application/json"].schema, openapi);
  }
  return schemas;
}

/** Names of the pictures that a request of this schema needs. */
export const filesOfSchema = ({ properties }) => ["image", "mask", "depth"].filter((name) => name in properties);

function resolve(schema, openapi) {
  if (!schema.$ref) return schema;
  const path = schema.$ref.slice(2).split("/");
  return resolve(
    path.reduce((node, key) => node[key], openapi),
    openapi,
  );
}

// Optional fields are written as anyOf with null; the other branch holds the bounds.
function branch(property, openapi) {
  const options = property.anyOf?.filter((option) => option.type !== "null") ?? [property];
  return { ...property, ...resolve(options[0], openapi) };
}

/**
 * Fields of a request of `kind` by the model of `card`: `{name, label, control, default, min, max, options, …}`; those
 * of `addOns` have an `input` of their own.
 */
export function fieldsOf(kind, card, schemas, openapi, addOns) {
  const { properties } = schemas[kind];
  // Whoever has samplers has schedules, and what guides in steps of two halves can do so now and then.
  const implied = {
    schedule: card.fields.includes("sampler"),
    guidance_interval: card.fields.includes("guidance_scale") && !card.guidance_embedded,
  };
  const uses = (name) => COMMON.has(name) || card.fields.includes(name) || implied[name] || name in addOns;
  const known = KNOWN.filter(({ name }) => name in properties && uses(name)).map((field) => ({
    ...field,
    ...addOns[field.name],
  }));
  const names = new Set(KNOWN.map(({ name }) => name));
  const others = card.fields.filter((name) => name in properties && !names.has(name) && !UNSHOWN.has(name));
  const own = others.map((name) => described(name, branch(properties[name], openapi), card)).filter(Boolean);
  const all = [...own.filter(({ name }) => CLASS.has(name)), ...known, ...own.filter(({ name }) => !CLASS.has(name))];
  return all.map((field) => withBounds(field, branch(properties[field.name], openapi), kind, card));
}

function withBounds(field, property, kind, card) {
  const step = field.step ?? 1;
  const options = field.name === "sampler" ? card.samplers : (field.options ?? property.enum);
  return {
    ...field,
    description: property.description,
    step,
    min: property.minimum ?? (property.exclusiveMinimum === undefined ? undefined : property.exclusiveMinimum + step),
    max: property.maximum ?? (property.exclusiveMaximum === undefined ? undefined : property.exclusiveMaximum - step),
    options: field.none && options ? ["", ...options] : options,
    default: defaultOf(field.name, kind, card, property),
  };
}

/** A field that the page doesn't know, by its schema alone; null for what no control could show. */
function described(name, property, card) {
  const field = { name, place: "main", label: worded(name), help: property.description };
  if (name === "class_id" && card.class_names) return null; // its name is chosen instead
  if (name === "label")
    return card.class_names
      ? { ...field, label: "Class", control: "select", options: card.class_names, help: "" }
      : null;
  if (property.enum) return { ...field, control: "select" };
  if (property.type === "integer") return { ...field, control: "number" };
  if (property.type === "number") return { ...field, control: "number", step: 0.01 };
  return property.type === "string" ? { ...field, control: "text", lines: 1 } : null;
}

function defaultOf(name, kind, card, property) {
  if (name === "width" || name === "height") return card.native_size;
  if (name === "preview_every") return previewEvery({}, card);
  if (name === "strength" && ["img2img", "depth2img"].includes(kind)) return card.defaults.img2img_strength;
  if (["schedule", "eta"].includes(name)) return ""; // the model's, and what each sampler takes by itself
  if (name === "label") return card.class_names[0];
  if (name === "class_id") return 0;
  if (name in card.defaults) return card.defaults[name] ?? "";
  return property.default ?? property.enum?.[0] ?? "";
}
