/**
 * The stage while a job waits or runs: noise, then previews that grow sharper, a bar, the place in the queue, cancel.
 */

import { announce, button, h, pictureBox, plural, seconds } from "./dom.js";
import { noise } from "./noise.js";

const TICK_MS = 500;
const BLUR_PX = 14; // of the first preview; the last has none
const BLURRED_EDGE_PX = 160; // grows the picture so that its blurred edge lies outside the frame
const SPOKEN = 4; // how often a run's progress is read out

export class ProgressView {
  #job;
  #reached = [];
  #steps = h("span", { className: "count" });
  #line = h("p", { className: "now" });
  #time = h("span", { className: "time" });
  #bar = h("progress", { max: 1, "aria-label": "Progress" });
  #preview = h("img", { className: "preview", alt: "Preview", hidden: true });
  #connection = h("p", { className: "notice", hidden: true }, "Connection lost. Trying again; the job goes on.");

  constructor(job, { onCancel }) {
    const { prompt } = job.request;
    const canvas = pictureBox(job.request, noise(), this.#preview);
    this.cancel = button(
      "Cancel",
      { className: "button", id: "cancel", onclick: () => ((this.cancel.disabled = true), onCancel()) },
      "clear",
    );
    const status = h(
      "div",
      { className: "status" },
      this.#line,
      h("div", { className: "numbers" }, this.#steps, this.#time),
      this.#bar,
    );
    this.node = h(
      "figure",
      { className: "frame running" },
      canvas,
      h("figcaption", {}, prompt && h("q", {}, prompt)),
      h("div", { className: "progress" }, status, this.cancel),
      this.#connection,
    );
    this.update(job);
    const timer = setInterval(() => (this.node.isConnected ? this.#showTime() : clearInterval(timer)), TICK_MS);
  }

  /** Takes the job as the service last described it; `served` says whether a worker for its model is alive. */
  update(job, served = true) {
    this.#job = job;
    if (job.status === "queued") this.#queued(job, served);
    else this.step(job.progress);
  }

  #queued({ position, eta_s: eta }, served) {
    this.#bar.removeAttribute("value");
    this.#steps.textContent = "";
    const before = position ? `Waiting behind ${plural(position, "job")}` : "Next in the queue";
    this.#say(served ? before : "Waiting for a worker: none serves this model now. The job stays in the queue.");
    this.#time.textContent = served && eta ? `about ${seconds(eta)}` : "";
  }

  /** One step event: totals over all pictures of the job, perhaps with a preview (base64 WebP). */
  step({ step, steps, preview }) {
    this.#bar.max = steps;
    this.#bar.value = step;
    this.#steps.textContent = `Step ${step} of ${steps}`;
    this.#line.textContent = step === 0 ? "Starting" : step < steps ? "Painting" : "Finishing";
    if (Math.floor((SPOKEN * step) / steps) !== Math.floor((SPOKEN * (step - 1)) / steps))
      announce(`Step ${step} of ${steps}`);
    if (this.#reached.at(-1)?.step !== step) this.#reached.push({ step, at: performance.now() });
    if (preview) this.#show(preview, step / steps);
    this.#showTime();
  }

  connection(open) {
    this.#connection.hidden = open;
  }

  #show(preview, share) {
    this.#preview.src = `data:image/webp;base64,${preview}`;
    this.#preview.hidden = false;
    const blur = BLUR_PX * (1 - share) ** 2;
    this.#preview.style.filter = `blur(${blur.toFixed(1)}px)`;
    this.#preview.style.transform = `scale(${1 + blur / BLURRED_EDGE_PX})`;
  }

  #say(text) {
    this.#line.textContent = text;
    announce(text);
  }

  // The rate since the first step seen here: a replay of many steps at once says nothing about time.
  #showTime() {
    const [first, last] = [this.#reached[0], this.#reached.at(-1)];
    if (this.#bar.position < 0 || !last) return;
    const rate = (last.step - first.step) / ((last.at - first.at) / 1000);
    const left = (this.#bar.max - last.step) / rate - (performance.now() - last.at) / 1000;
    const known = Number.isFinite(left) && this.#reached.length > 2;
    const eta = known ? left : this.#job.eta_s;
    this.#time.textContent = eta > 0 ? `${seconds(Math.max(eta, 1))} left` : "";
  }
}
