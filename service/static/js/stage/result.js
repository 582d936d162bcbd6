/**
 * The stage when a job has ended: its pictures and what can be done with them, or why there are none.
 */

import { downloadUrl } from "../lib/api.js";
import { button, bytes, h, icon, pictureBox, seconds } from "../lib/dom.js";
import { compare } from "./compare.js";
import { copyMenu } from "./copy.js";
import { saveMenu } from "./files.js";
import { zoomable } from "./viewer.js";

const ENDINGS = { failed: "This job failed", canceled: "Canceled" };

// A repainted picture is looked at first and compared then; an enlarged one is only seen beside the small one.
const SHOWN_BEFORE = { upscale: 50 };

/**
 * @param job an ended job
 * @param before URL of the picture that it started from, if this browser still has it
 * @param actions {uses: [{kind, label, icon, use(image)}], onReuse(job, image), onVariations(job, image)}, those that
 * can be done, and the model's card, if it is still installed
 */
export function resultView(job, before, actions) {
  return job.status === "succeeded" ? new Result(job, before, actions).node : endingView(job, actions);
}

class Result {
  #shown = null; // the image that is shown alone; null: all of them
  #view = null;
  #place = h("div", { className: "frame" });
  #bar = h("div", { className: "actions", role: "group", "aria-label": "With this picture" });
  #facts = h("dl", { className: "facts" });
  #choices = h("div", { className: "choices strip", role: "group", "aria-label": "Pictures" });

  constructor(job, before, actions) {
    Object.assign(this, { job, before, actions });
    const several = job.images.length > 1;
    if (several) this.#choices.append(this.#allButton(), ...job.images.map((image) => this.#choiceOf(image)));
    this.node = h(
      "figure",
      { className: "frame result", tabIndex: -1 },
      this.#place,
      several && this.#choices,
      caption(job),
      this.#bar,
      warnings(job),
      this.#facts,
    );
    this.node.addEventListener("keydown", (event) => this.#key(event));
    this.show(several ? null : job.images[0]);
  }

  /** Shows one picture, or all for null. */
  show(image) {
    this.#shown = image;
    const about = image ?? this.job.images[0];
    const [place, zoom] = image ? this.#one(image) : [this.#grid(), ""];
    const left = this.#place.contains(document.activeElement); // a tile that was chosen by it: keys are the result's again
    this.#place.replaceWith(place);
    if (left) this.node.focus({ preventScroll: true });
    this.#place = place;
    this.#bar.replaceChildren(...this.#actionButtons(about), zoom);
    this.#facts.replaceChildren(...factRows(this.job, about));
    for (const choice of this.#choices.children)
      choice.setAttribute("aria-pressed", String(choice.dataset.id === (image?.id ?? "all")));
  }

  #one(image) {
    const alt = this.job.request.prompt || `Result of ${this.job.kind}`;
    const compared = this.before && compare(this.before, image.url, alt, SHOWN_BEFORE[this.job.kind] ?? 0);
    const picture = compared?.frame ?? h("img", { src: image.url, alt, className: "picture", draggable: false });
    const box = pictureBox(image, picture);
    const place = h("div", { className: "place" }, box);
    const drag = (event) => !event.target.matches("input");
    const { view, buttons } = zoomable(place, box, { width: image.width, drag });
    this.#view = view;
    if (compared) buttons.prepend(compared.hold);
    return [place, buttons];
  }

  #grid() {
    this.#view = null;
    const columns = Math.ceil(Math.sqrt(this.job.images.length));
    const tiles = this.job.images.map((image, i) => {
      const label = `Picture ${i + 1}, seed ${image.seed}`;
      const picture = h("img", { src: image.url, alt: "", className: "picture" });
      const onclick = () => this.show(image);
      return h(
        "button",
        { type: "button", className: "tile", onclick, "aria-label": label },
        pictureBox(image, picture),
      );
    });
    const grid = h("div", { className: "place tiles" }, tiles);
    grid.style.setProperty("--columns", columns);
    grid.style.setProperty("--rows", Math.ceil(tiles.length / columns));
    return grid;
  }

  #allButton() {
    const onclick = () => this.show(null);
    return h(
      "button",
      { type: "button", className: "thumb all", "data-id": "all", onclick, "aria-label": "All pictures" },
      icon("grid"),
    );
  }

  #choiceOf(image) {
    const onclick = () => this.show(image);
    const props = { type: "button", className: "thumb", "data-id": image.id, onclick, "aria-pressed": "false" };
    return h("button", props, h("img", { src: image.url, alt: `Seed ${image.seed}` }));
  }

  /** Arrows go from picture to picture, or move one that is zoomed; + - 0 1 zoom. */
  #key(event) {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey) return;
    if (this.#view?.key(event.key)) event.preventDefault();
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") this.step(event.key === "ArrowRight" ? 1 : -1);
  }

  step(by) {
    const { images } = this.job;
    if (images.length < 2) return;
    const at = this.#shown ? images.findIndex(({ id }) => id === this.#shown.id) : by > 0 ? -1 : 0;
    this.show(images[(at + by + images.length) % images.length]);
  }

  #actionButtons(image) {
    const { uses, onReuse, onVariations, card } = this.actions;
    const { job } = this;
    const name = `${image.id}.${image.format}`;
    const download = h(
      "a",
      { className: "button primary", href: downloadUrl(image), download: name, id: "download" },
      icon("download"),
      h("span", {}, "Download"),
    );
    return [
      download,
      ...uses.map(({ kind, label, icon: drawn, use }) =>
        button(label, { id: `use-${kind}`, onclick: () => use(image) }, drawn),
      ),
      onVariations && button("Variations", { id: "variations", onclick: () => onVariations(job, image) }, "dice"),
      button("Reuse settings", { id: "reuse", onclick: () => onReuse(job, image) }, "reuse"),
      saveMenu(job, image),
      copyMenu(job, image, card),
    ].filter(Boolean);
  }
}

const caption = ({ request }) =>
  h("figcaption", { className: "clamped", title: request.prompt ?? "" }, request.prompt && h("q", { dir: "auto" }, request.prompt));

function factRows({ request, timings, model }, image) {
  const guided = [undefined, 0, 1].includes(request.guidance_scale) ? "" : `, guidance ${request.guidance_scale}`;
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

/** What the service changed or cut, such as the end of a prompt: one line, all of it when it is opened. */
function warnings(job) {
  if (!job.warnings.length) return "";
  const [first, ...others] = job.warnings.map(({ message }) => message);
  const more = others.length ? ` (and ${others.length} more)` : "";
  return h(
    "details",
    { className: "warnings" },
    h("summary", {}, first + more),
    [first, ...others].map((message) => h("p", {}, message)),
  );
}

function endingView(job, { onReuse }) {
  const reason = job.error?.detail ?? "Nothing was made. The settings can be used again.";
  return h(
    "div",
    { className: `ending ${job.status}`, role: job.status === "failed" ? "alert" : "status" },
    h("h2", {}, ENDINGS[job.status]),
    h("p", {}, reason),
    job.request.prompt && h("p", { className: "clamped" }, h("q", { dir: "auto" }, job.request.prompt)),
    warnings(job),
    button("Reuse settings", { id: "reuse", onclick: () => onReuse(job) }, "reuse"),
  );
}
