/**
 * The stage when a job has ended: its pictures and what can be done with them, or why there are none.
 */

import { downloadUrl } from "./api.js";
import { compare } from "./compare.js";
import { button, bytes, h, icon, pictureBox, seconds } from "./dom.js";

const ENDINGS = {
  failed: "This job failed",
  canceled: "Canceled",
};

// A repainted picture is looked at first and compared then; an enlarged one is only seen beside the small one.
const SHOWN_BEFORE = { inpaint: 0, upscale: 50 };

/**
 * @param job an ended job
 * @param before File that it started from, if this browser still has it
 * @param actions {onRepaint(image), onUpscale(image), onReuse(job, image), onAgain(job)}, those that can be done, and
 * `scale`, how many times larger an upscaler's answer is
 */
export function resultView(job, before, actions) {
  if (job.status !== "succeeded") return endingView(job, actions);
  const stage = h("div", { className: "picture-place" });
  const bar = h("div", { className: "actions", role: "group", "aria-label": "With this picture" });
  const facts = h("dl", { className: "facts" });
  const choices =
    job.images.length > 1 ? h("div", { className: "choices", role: "group", "aria-label": "Pictures" }) : "";
  const show = (image) => {
    stage.replaceChildren(pictureBox(image, picture(job, image, before)));
    bar.replaceChildren(...actionButtons(job, image, actions));
    facts.replaceChildren(...factRows(job, image));
    for (const choice of choices.children ?? [])
      choice.setAttribute("aria-pressed", String(choice.dataset.id === image.id));
  };
  if (choices) choices.append(...job.images.map((image) => choiceOf(image, () => show(image))));
  show(job.images[0]);
  return h("figure", { className: "frame result" }, stage, choices, caption(job), bar, warnings(job), facts);
}

function picture(job, image, before) {
  const alt = job.request.prompt || `Result of ${job.kind}`;
  return before
    ? compare(before, image.url, alt, SHOWN_BEFORE[job.kind])
    : h("img", { src: image.url, alt, width: image.width, height: image.height, className: "picture" });
}

const choiceOf = (image, onclick) =>
  h(
    "button",
    { type: "button", className: "thumb", "data-id": image.id, onclick, "aria-pressed": "false" },
    h("img", { src: image.url, alt: `Seed ${image.seed}` }),
  );

const caption = ({ request }) => h("figcaption", {}, request.prompt && h("q", {}, request.prompt));

function actionButtons(job, image, { scale, onRepaint, onUpscale, onReuse, onAgain }) {
  const download = h(
    "a",
    { className: "button primary", href: downloadUrl(image), download: `${image.id}.${image.format}`, id: "download" },
    icon("download"),
    h("span", {}, `Download ${image.format.toUpperCase()}`),
  );
  return [
    download,
    onRepaint && button("Repaint a part", { id: "repaint", onclick: () => onRepaint(image) }, "brush"),
    scale && onUpscale && button(`Upscale ×${scale}`, { id: "upscale", onclick: () => onUpscale(image) }, "upscale"),
    onAgain && button("New seed", { id: "again", onclick: () => onAgain(job) }, "dice"),
    button("Reuse settings", { id: "reuse", onclick: () => onReuse(job, image) }, "reuse"),
  ].filter(Boolean);
}

function factRows({ request, timings, model }, image) {
  const guided = [0, 1].includes(request.guidance_scale) ? "" : `, guidance ${request.guidance_scale}`;
  const stages = [
    ["waited", timings.queue_s],
    ["painted", timings.denoise_s],
    ["decoded", timings.decode_s],
    ["stored", timings.store_s],
  ];
  const rows = {
    Seed: String(image.seed),
    Size: `${image.width} × ${image.height}, ${bytes(image.bytes)}`,
    Sampler: `${request.sampler}, ${request.steps} steps${guided}`,
    Model: request.model ?? model,
    Time: stages
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => `${name} ${seconds(value)}`)
      .join(" · "),
  };
  return Object.entries(rows).flatMap(([name, value]) =>
    value ? [h("div", {}, h("dt", {}, name), h("dd", {}, value))] : [],
  );
}

/** What the service changed or cut, such as the end of a prompt. */
function warnings(job) {
  if (!job.warnings.length) return "";
  return h(
    "ul",
    { className: "warnings" },
    job.warnings.map(({ message }) => h("li", {}, message)),
  );
}

function endingView(job, { onReuse }) {
  const reason = job.error?.detail ?? "Nothing was made. The settings can be used again.";
  return h(
    "div",
    { className: `ending ${job.status}`, role: job.status === "failed" ? "alert" : "status" },
    h("h2", {}, ENDINGS[job.status]),
    h("p", {}, reason),
    job.request.prompt && h("p", {}, h("q", {}, job.request.prompt)),
    warnings(job),
    button("Reuse settings", { id: "reuse", onclick: () => onReuse(job) }, "reuse"),
  );
}
