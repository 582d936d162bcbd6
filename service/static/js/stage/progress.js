/**
 * The stage while a job waits or runs: a tile for each picture, noise at first, then previews that grow sharper; one
 * bar over painting, decoding and storing; the place in the queue; cancel.
 */

import { announce, button, h, pictureBox, plural, seconds } from "../lib/dom.js";
import { noise } from "./noise.js";
import { askToNotify, canNotify } from "../shell/signals.js";

const TICK_MS = 500;
const BLUR = 0.02; // of a tile's shorter side, of the first preview; the last has none
const EDGE = 4; // blurs: grows the picture so that both of its blurred edges lie outside the tile
const SPOKEN = 4; // how often a run's progress is read out
const NEVER_FULL = 0.98; // of what comes after painting: only the end is the end

export class ProgressView {
  #painting = false;
  #ends = null; // by performance.now(); null where nobody knows
  #tail = null; // {from, s}: when painting was done, and the seconds that were left then
  #reached = ""; // where the job was when its end was last predicted
  #step = { step: 0, steps: 1 };
  #images = new Set();
  #stages;
  #onShare;
  #urls = [];
  #tiles;
  #steps = h("span", { className: "count" });
  #line = h("p", { className: "now" });
  #time = h("span", { className: "time" });
  #bar = h("progress", { max: 100, "aria-label": "Progress" });
  #connection = h("p", { className: "notice", hidden: true }, "Connection lost. Trying again; the job goes on.");

  constructor(job, { source, stages, onShare, onCancel }) {
    const { prompt, num_images: count } = job.request;
    this.#stages = stages;
    this.#onShare = onShare;
    this.#tiles = Array.from({ length: count }, () => this.#tile(job.request, source));
    const cancel = () => ((this.cancel.disabled = true), onCancel());
    this.cancel = button("Cancel", { className: "button", id: "cancel", onclick: cancel }, "clear");
    const tell =
      canNotify() &&
      button(
        "Tell me",
        {
          className: "button",
          title: "Notify me when it is done and I look elsewhere",
          onclick: () => askToNotify().then(() => tell.remove()),
        },
        "bell",
      );
    const numbers = h("div", { className: "numbers" }, this.#steps, this.#time);
    const status = h("div", { className: "status" }, this.#line, numbers, this.#bar);
    this.node = h(
      "figure",
      { className: "frame running" },
      h(
        "div",
        { className: "place tiles", "data-count": count },
        this.#tiles.map(({ box }) => box),
      ),
      h("figcaption", { className: "clamped" }, prompt && h("q", { dir: "auto" }, prompt)),
      h("div", { className: "progress" }, status, tell, this.cancel),
      this.#connection,
    );
    this.node.style.setProperty("--columns", Math.ceil(Math.sqrt(count)));
    this.node.style.setProperty("--rows", Math.ceil(count / Math.ceil(Math.sqrt(count))));
    this.update(job);
    const timer = setInterval(() => (this.node.isConnected ? this.#showTime() : clearInterval(timer)), TICK_MS);
  }

  /** Forgets what it holds; the view is shown no more. */
  close() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
  }

  // A repainted picture is there already: noise and previews are seen inside the mask alone.
  #tile(request, source) {
    const preview = h("img", { className: "preview", alt: "", hidden: true });
    const cover = h("div", { className: "cover" }, noise(), preview);
    const under = source?.file && h("img", { src: this.#urlOf(source.file), alt: "", className: "base" });
    if (under && source.mask) cover.style.maskImage = `url("${this.#urlOf(source.mask)}")`;
    else if (under && request.kind !== "upscale") cover.style.opacity = String(Math.max(0.35, request.strength ?? 1));
    return { box: pictureBox(request, under, cover), preview };
  }

  #urlOf(file) {
    const url = URL.createObjectURL(file);
    this.#urls.push(url);
    return url;
  }

  /** Takes the job as the service last described it; `served` says whether a worker for its model is alive. */
  update(job, served = true) {
    this.#expect(job);
    if (job.status === "queued") this.#queued(job, served);
    else this.step(job.progress);
  }

  // The service's prediction, decoding and storing included. It moves with the steps alone, so that after the last
  // of them it is counted down from, not begun anew with every look.
  #expect({ status, progress, eta_s: eta }) {
    const reached = `${status} ${progress.step}`;
    if (eta === null) this.#ends = null;
    else if (this.#ends === null || reached !== this.#reached) this.#ends = performance.now() + 1000 * eta;
    this.#reached = reached;
  }

  #queued({ position, eta_s: eta }, served) {
    this.#painting = false;
    this.#bar.removeAttribute("value");
    this.#steps.textContent = "";
    const before = position ? `Waiting behind ${plural(position, "job")}` : "Next in the queue";
    this.#say(served ? before : "Waiting for a worker: none serves this model now. The job stays in the queue.");
    this.#time.textContent = served && eta ? `about ${seconds(eta)}` : "";
    this.#onShare(0);
  }

  /** One step event: totals over all pictures of the job, perhaps with previews (base64 WebP) of some of them. */
  step({ step, steps, preview, preview_step, previews }) {
    this.#painting = true;
    if (step < this.#step.step) return;
    this.#step = { step, steps };
    this.#steps.textContent = `Step ${step} of ${steps}`;
    this.#line.textContent = step === 0 ? "Starting" : step < steps ? "Painting" : "Finishing";
    if (Math.floor((SPOKEN * step) / steps) !== Math.floor((SPOKEN * (step - 1)) / steps))
      announce(`Step ${step} of ${steps}`);
    const first = preview ? [{ index: 0, step: preview_step, image: preview }] : [];
    for (const each of previews ?? first) this.#show(this.#tiles[each.index], each.image, each.step / steps);
    this.#showTime();
  }

  /** One picture is stored before the job has ended: its tile shows it. */
  image({ id, url }) {
    const tile = this.#tiles[Number(id.split("-").pop())];
    if (!tile) return;
    const { preview } = tile;
    tile.stored = true;
    this.#images.add(id);
    preview.src = url;
    preview.hidden = false;
    preview.style.filter = preview.style.transform = "";
    preview.parentElement.style.opacity = "";
    this.#showTime();
  }

  connection(open) {
    this.#connection.hidden = open;
    if (!open) this.#ends = null;
    this.#showTime();
  }

  // A preview that comes late doesn't cover the picture itself.
  #show({ preview: image, stored }, preview, share) {
    if (stored) return;
    image.src = `data:image/webp;base64,${preview}`;
    image.hidden = false;
    const blur = BLUR * (1 - share) ** 2;
    const side = Math.min(image.clientWidth, image.clientHeight);
    image.style.filter = `blur(${(blur * side).toFixed(1)}px)`;
    image.style.transform = `scale(${1 + EDGE * blur})`;
  }

  #say(text) {
    this.#line.textContent = text;
    announce(text);
  }

  #showTime() {
    if (!this.#painting) return;
    const left = this.#ends === null ? 0 : (this.#ends - performance.now()) / 1000;
    this.#time.textContent = left > 0 ? `${seconds(Math.max(left, 1))} left` : "";
    const share = this.#share(left);
    this.#bar.value = Math.round(100 * share);
    this.#onShare(share);
  }

  /** How much is done: steps count for the part of the time that painting took in earlier jobs, pictures for the rest. */
  #share(left) {
    const { step, steps } = this.#step;
    if (step < steps) return (this.#stages.paint * step) / steps;
    this.#tail ??= { from: performance.now(), s: Math.max(left, 1) };
    const elapsed = (performance.now() - this.#tail.from) / 1000 / this.#tail.s;
    const after = Math.max(this.#images.size / this.#tiles.length, Math.min(elapsed, 1)) * NEVER_FULL;
    return this.#stages.paint + (1 - this.#stages.paint) * after;
  }
}
