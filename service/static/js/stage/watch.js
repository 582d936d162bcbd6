/**
 * Follows one job on the stage: its events while it is under way, its result when it has ended.
 */

import * as api from "../lib/api.js";
import { announce, tell } from "../lib/dom.js";
import { follow } from "../lib/events.js";
import { ProgressView } from "./progress.js";

const POLL_MS = 4000;
const EACH = 3; // of the looks that are due is taken while events come
const TERMINAL = new Set(["succeeded", "failed", "canceled"]);

export const ended = (job) => TERMINAL.has(job.status);

/**
 * Shows `job` by `show(node)` until it has ended or `signal` aborts; resolves with the ended job, or undefined.
 *
 * @param source `{file, mask}` that it started from, if this browser has it
 * @param stages shares of painting, decoding and storing in a job of this kind, as measured
 * @param serves serves(model) says whether a worker holds the model
 * @param onShare called with how much of the job is done, 0 to 1
 */
export async function watch(job, { show, serves, signal, source, stages, onShare }) {
  const view = new ProgressView(job, { source, stages, onShare, onCancel: () => stop(job.id, view) });
  show(view.node);
  const over = new AbortController();
  signal.addEventListener("abort", () => over.abort(), { signal: over.signal });
  const looks = new Looks(() => poll(job.id, view, serves, over));
  try {
    const last = await follow(job.id, {
      signal: over.signal,
      onConnection: (open) => view.connection(open),
      onEvent: (event) => {
        looks.spare();
        apply(event, view);
        if (event.type === "started") looks.take();
      },
    });
    return signal.aborted ? undefined : told(last ?? over.signal.reason);
  } finally {
    looks.end();
    over.abort();
    view.close();
  }
}

/** Looks at the job at once, then again and again, but seldom while events come: they say all but the predicted end. */
class Looks {
  #looking = false; // the last one may be without an answer yet
  #rest = 0; // until when the service asked to be left alone
  #heard = false;
  #spared = 0;

  /** `look()` resolves with the seconds to wait before the next one, where it was told. */
  constructor(look) {
    this.look = look;
    this.timer = setInterval(() => this.#due(), POLL_MS);
    this.take();
  }

  async take() {
    if (this.#looking || Date.now() < this.#rest) return;
    this.#looking = true;
    this.#rest = Date.now() + 1000 * ((await this.look()) ?? 0);
    this.#looking = false;
  }

  /** An event came. */
  spare() {
    this.#heard = true;
  }

  #due() {
    this.#spared = this.#heard ? (this.#spared + 1) % EACH : 0;
    this.#heard = false;
    if (this.#spared === 0) this.take();
  }

  end() {
    clearInterval(this.timer);
  }
}

// Events say nothing of the place in the queue, and a stream can be dead without a word; the job itself knows.
async function poll(id, view, serves, over) {
  try {
    const job = await api.job(id, { quiet: true });
    if (over.signal.aborted) return null;
    view.connection(true);
    if (ended(job)) over.abort(job);
    else view.update(job, serves(job.request.model));
    return null;
  } catch (problem) {
    if (over.signal.aborted) return null;
    if (![api.UNAUTHORIZED, api.TOO_MANY].includes(problem.status))
      view.connection(problem.status >= 400 && problem.status < 500);
    return problem.retryAfter;
  }
}

function apply({ type, data }, view) {
  if (type === "step") view.step(data);
  else if (type === "image") view.image(data);
  else if (type === "started") announce("Started");
}

function told(job) {
  announce({ succeeded: "Done", failed: "Failed", canceled: "Canceled" }[job.status] ?? job.status);
  return job;
}

async function stop(id, view) {
  try {
    await api.cancel(id);
  } catch (problem) {
    view.cancel.disabled = false;
    tell(problem.message);
  }
}
