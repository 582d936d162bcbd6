/**
 * What the request would cost, from a dry run a moment after the last change: pictures, seconds, jobs before it; and
 * whether it would wait for a worker.
 */

import * as api from "../lib/api.js";
import { debounced, plural, seconds } from "../lib/dom.js";

const PAUSE_MS = 450;

export class Cost {
  #asking = new AbortController();

  /** `request()` gives `{kind, fields, files}`, or null where something is missing; `onAnswer(dryRun|null)` is told. */
  constructor(line, request, onAnswer) {
    Object.assign(this, { line, request, onAnswer });
    this.changed = debounced(PAUSE_MS, () => this.#ask());
  }

  /** Another request is shown: what was told isn't its cost. */
  forget() {
    this.#asking.abort();
    this.#tell(null);
  }

  async #ask() {
    this.#asking.abort();
    this.#asking = new AbortController();
    const { signal } = this.#asking;
    const asked = await this.request();
    try {
      const answer = asked && (await api.dryRun(asked.kind, asked.fields, asked.files, signal));
      if (!signal.aborted) this.#tell(answer);
    } catch (problem) {
      // What is wrong is said beside its field once the request is sent; who types isn't interrupted.
      if (problem.status === api.UNAUTHORIZED) addEventListener("key", this.changed, { once: true });
      if (!signal.aborted) this.#tell(null);
    }
  }

  #tell(answer) {
    this.line.textContent = answer ? words(answer) : "";
    this.onAnswer(answer);
  }
}

function words({ request, estimate, position, warnings }) {
  const own = estimate.gpu_s === null ? "time not known yet" : `about ${rounded(estimate.gpu_s)}`;
  const before = position && `behind ${plural(position, "job")}`;
  const unserved = warnings.filter(({ field }) => field === "model").map(({ message }) => message);
  return [plural(request.num_images, "picture"), own, before, ...unserved].filter(Boolean).join(" · ");
}

// Two digits are all that a prediction is worth.
const rounded = (value) => (value < 60 ? `${Number(value.toPrecision(value < 1 ? 1 : 2))} s` : seconds(value));

/** All but flat pictures of a size stand for one's own: the prediction is the same, and nothing large travels as one types. */
const standIns = new Map();

export async function standIn({ width, height }, colour) {
  const name = `${width} ${height} ${colour}`;
  if (!standIns.has(name)) {
    const canvas = new OffscreenCanvas(width, height);
    const paint = canvas.getContext("2d");
    paint.fillStyle = colour;
    paint.fillRect(0, 0, width, height);
    paint.fillStyle = "#000";
    if (width > 1) paint.fillRect(0, 0, 1, 1); // depths must differ
    const blob = await canvas.convertToBlob({ type: "image/png" });
    standIns.set(name, new File([blob], "size.png", { type: blob.type }));
  }
  return standIns.get(name);
}
