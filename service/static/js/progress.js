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
  #painting = false;
  #ends = null; // by performance.now(); null where nobody knows
  #reached = ""; // where the job was when its end was last predicted
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
  }

  /** One step event: totals over all pictures of the job, perhaps with a preview (base64 WebP). */
  step({ step, steps, preview }) {
    this.#painting = true;
    this.#bar.max = steps;
    if (step < steps) this.#bar.value = step;
    else this.#bar.removeAttribute("value"); // a full bar would say that it is done
    this.#steps.textContent = `Step ${step} of ${steps}`;
    this.#line.textContent = step === 0 ? "Starting" : step < steps ? "Painting" : "Finishing";
    if (Math.floor((SPOKEN * step) / steps) !== Math.floor((SPOKEN * (step - 1)) / steps))
      announce(`Step ${step} of ${steps}`);
    if (preview) this.#show(preview, step / steps);
    this.#showTime();
  }

  connection(open) {
    this.#connection.hidden = open;
    if (!open) this.#ends = null;
    this.#showTime();
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

  #showTime() {
    if (!this.#painting) return;
    const left = this.#ends === null ? 0 : (this.#ends - performance.now()) / 1000;
    this.#time.textContent = left > 0 ? `${seconds(Math.max(left, 1))} left` : "";
  }
}
