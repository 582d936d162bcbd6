/**
 * Follows one job on the stage: its events while it is under way, its result when it has ended.
 */

import * as api from "../lib/api.js";
import { announce, tell } from "../lib/dom.js";
import { follow, TOO_MANY } from "../lib/events.js";
import { ProgressView } from "./progress.js";

const POLL_MS = 2000;
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
  let looking = false; // the last look may be without an answer yet
  const look = async () => {
    if (looking) return;
    looking = true;
    await poll(job.id, view, serves, over);
    looking = false;
  };
  const timer = setInterval(look, POLL_MS);
  look();
  try {
    const last = await follow(job.id, {
      signal: over.signal,
      onConnection: (open) => view.connection(open),
      onEvent: (event) => apply(event, view),
    });
    return signal.aborted ? undefined : told(last ?? over.signal.reason);
  } finally {
    clearInterval(timer);
    over.abort();
    view.close();
  }
}

// Events say nothing of the place in the queue, and a stream can be dead without a word; the job itself knows.
async function poll(id, view, serves, over) {
  try {
    const job = await api.job(id, { quiet: true });
    if (over.signal.aborted) return;
    view.connection(true);
    if (ended(job)) over.abort(job);
    else view.update(job, serves(job.request.model));
  } catch (problem) {
    if (over.signal.aborted) return;
    if (![api.UNAUTHORIZED, TOO_MANY].includes(problem.status)) view.connection(problem.status >= 400 && problem.status < 500);
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
