/**
 * What the stage shows: the picture that a request starts from, a job until its end and its result, or two compared.
 */

import * as api from "../lib/api.js";
import { reveal, byId } from "../lib/dom.js";
import { sourceOf } from "../lib/keep.js";
import { showRail } from "../shell/rail.js";
import { notifyEnd, showShare } from "../shell/signals.js";
import { notice, sourceView, stage } from "./stage.js";

const NO_JOB = "";

export class Showing {
  job = null; // the id of the job that is shown; NO_JOB: none; null: nothing yet
  lastSeed = Math.floor(Math.random() * 2 ** 32);
  #watching = new AbortController();
  #from = null; // what `source` was last asked to show
  #before = ""; // URL of the picture that the shown result started from

  /** `actions(job, source)` says what can be done with the pictures of a job, as `resultView` takes it. */
  constructor(service, gallery, actions) {
    Object.assign(this, { service, gallery, actions });
  }

  /**
   * What shows jobs: asked for as soon as somebody turns to the form, and there before a job is, so that it can be
   * shown whatever becomes of the connection meanwhile.
   */
  async ready() {
    try {
      return await Promise.all([import("./watch.js"), import("./result.js")]);
    } catch (cause) {
      throw new api.Problem({ title: "No answer", detail: "The gateway doesn't answer. Is latentd running?" });
    }
  }

  /** Turns from what was shown, and what was to be, to the job of this id; null: to one that can't be shown. */
  leave(job = NO_JOB) {
    this.#watching.abort();
    this.#watching = new AbortController();
    this.#from = null;
    this.job = job;
    showShare(null);
    this.gallery.select(job);
    showRail(false);
  }

  /** Shows what a request starts from, unless something else is meanwhile; `parts` as `sourceView` takes them. */
  async source(kind, parts) {
    this.#from = parts;
    const view = await sourceView(kind, parts);
    if (this.#from === parts) stage(view);
  }

  /** Follows a job to its end. */
  async open(job) {
    this.leave(job.id);
    const { signal } = this.#watching;
    try {
      const [[{ ended, watch }, { resultView }], source] = await Promise.all([this.ready(), sourceOf(job.id)]);
      if (signal.aborted) return;
      const last = ended(job) ? job : await this.#follow(job, watch, source, signal);
      if (last && !signal.aborted) this.#result(last, source, resultView);
      if (!ended(job)) this.gallery.refresh();
    } catch (problem) {
      if (signal.aborted) return;
      this.leave(null);
      stage(notice("The job can't be shown", problem.message));
    }
  }

  async #follow(job, watch, source, signal) {
    const stages = this.gallery.stages(job);
    const serves = (model) => this.service.serves(model);
    const onShare = (share) => signal.aborted || showShare(share);
    const last = await watch(job, { show: stage, serves, signal, source, stages, onShare });
    if (!last || signal.aborted) return undefined;
    showShare(null);
    notifyEnd(last);
    this.gallery.know(last);
    return last;
  }

  #result(job, source, resultView) {
    if (this.#before) URL.revokeObjectURL(this.#before);
    this.#before = source?.file && job.images.length ? URL.createObjectURL(source.file) : "";
    this.lastSeed = job.images[0]?.seed ?? this.lastSeed;
    stage(resultView(job, this.#before, this.actions(job, source)));
  }

  /** Shows the first pictures of two jobs; `onClose()` leaves. */
  async pair(first, second, onClose) {
    this.leave();
    const { signal } = this.#watching;
    const { pairView } = await import("./pair.js");
    if (signal.aborted) return;
    stage(pairView(first, second, onClose));
    reveal(byId("stage"));
  }
}
