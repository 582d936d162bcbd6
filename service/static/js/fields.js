/**
 * Which fields a request of a kind and model has: what the page knows how to show, joined with the bounds of the
 * OpenAPI document and the defaults of the model's card. A field that either doesn't use is not shown.
 */

/**
 * What the page shows, in order. `place` is main or more; `soft` is where a slider ends, because bounds are far
 * wider than what is useful. A switch that is on has the value of `on(values, card)`.
 */
const KNOWN = [
  { name: "prompt", place: "main", control: "text", label: "Prompt", lines: 3, hint: "What the picture shows" },
  {
    name: "negative_prompt",
    place: "main",
    control: "text",
    label: "Negative prompt",
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
    help: "1 repaints from noise; less keeps some of what is there.",
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
  { name: "sampler", place: "more", control: "select", label: "Sampler" },
  {
    name: "eta",
    place: "more",
    control: "number",
    label: "Eta",
    step: 0.05,
    help: "Noise added at each step; 0 adds none.",
  },
  { name: "width", place: "more", control: "number", label: "Width", unit: "px" },
  { name: "height", place: "more", control: "number", label: "Height", unit: "px" },
  { name: "num_images", place: "more", control: "number", label: "Pictures" },
  { name: "seed", place: "more", control: "seed", label: "Seed", hint: "random" },
  {
    name: "priority",
    place: "more",
    control: "select",
    label: "Priority",
    help: "Bulk goes behind interactive requests.",
  },
  {
    name: "deadline_ms",
    place: "more",
    control: "number",
    label: "Deadline",
    unit: "ms",
    hint: "none",
    help: "Given up if it isn't done by then.",
  },
  { name: "output_format", place: "more", control: "select", label: "Format" },
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
    name: "determinism",
    place: "more",
    control: "switch",
    label: "Same bytes every time",
    on: () => "strict",
    off: "fast",
    help: "Strict: equal bytes whatever else runs. A little slower.",
  },
];

// A preview costs one decode: six a picture are cheap beside its steps.
const PREVIEWS = 6;

function previewEvery({ steps }, card) {
  return Math.max(1, Math.round((steps ?? card.defaults.steps) / PREVIEWS));
}

// Fields that every model has; all others are shown only where the card lists them.
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
    const content = item.post?.requestBody?.content;
    if (content?.["application/json"])
      schemas[path.split("/").pop()] = resolve(content["application/json"].schema, openapi);
  }
  return schemas;
}

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

/** Fields of a request of `kind` by the model of `card`: `{name, label, control, default, min, max, options, …}`. */
export function fieldsOf(kind, card, schemas, openapi) {
  const properties = schemas[kind].properties;
  return KNOWN.filter(({ name }) => name in properties && (COMMON.has(name) || card.fields.includes(name))).map(
    (known) => {
      const property = branch(properties[known.name], openapi);
      const step = known.step ?? 1;
      return {
        ...known,
        description: property.description,
        step,
        min: property.minimum ?? property.exclusiveMinimum + step,
        max: property.maximum ?? property.exclusiveMaximum - step,
        maxLength: property.maxLength,
        options: known.name === "sampler" ? card.samplers : property.enum,
        default: defaultOf(known.name, card, property),
      };
    },
  );
}

function defaultOf(name, card, property) {
  if (name === "width" || name === "height") return card.native_size;
  if (name === "preview_every") return previewEvery({}, card);
  if (name in card.defaults) return card.defaults[name];
  return property.default ?? property.enum?.[0] ?? "";
}
