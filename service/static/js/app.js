/**
 * The page: joins the request form, the stage and the gallery. The address says which task and which job are open.
 */

import { Cost, standIn } from "./form/cost.js";
import { filesOfSchema } from "./form/fields.js";
import { Form } from "./form/form.js";
import { openPicture, pictureRow } from "./form/picture.js";
import { markTab, showTabs } from "./form/tabs.js";
import { Desk } from "./form/desk.js";
import { Gallery } from "./gallery/gallery.js";
import { address, goTo } from "./lib/address.js";
import * as api from "./lib/api.js";
import { announce, button, byId, reveal } from "./lib/dom.js";
import * as keep from "./lib/keep.js";
import { takeDropsAndPastes } from "./shell/drops.js";
import { listenToRail, showRail } from "./shell/rail.js";
import { Service } from "./shell/service.js";
import { listenToShortcuts } from "./shell/shortcuts.js";
import { notifyEnd, showShare } from "./shell/signals.js";
import { listenToTheme } from "./shell/theme.js";
import { notice, sourceView, stage } from "./stage/stage.js";

const NOTHING_SHOWN = "";

const app = { shown: null, watching: new AbortController(), lastSeed: Math.floor(Math.random() * 2 ** 32), before: "" };
const service = new Service(modelsChanged);
const form = new Form(byId("form"), {
  onSubmit: submit,
  onModel: (id) => (desk.chooseModel(id), showForm()),
  onChange: changed,
  lastSeed: () => app.lastSeed,
});
const desk = new Desk(form, service);
const cost = new Cost(form.cost, costRequest, (answer) => form.tokens.tell(answer?.tokens, desk.card?.token_window));
const gallery = new Gallery(byId("history"), { onCompare: showPair });
const draw = { onChange: () => desk.keepPicture(), feather: () => form.values().feather ?? 0 };

/**
 * What shows jobs: asked for as soon as somebody turns to the form, and there before a job is, so that it can be shown
 * whatever becomes of the connection meanwhile.
 */
async function jobViews() {
  try {
    return await Promise.all([import("./stage/watch.js"), import("./stage/result.js")]);
  } catch (cause) {
    throw new api.Problem({ title: "No answer", detail: "The gateway doesn't answer. Is latentd running?" });
  }
}

const files = (kind = desk.kind) => filesOfSchema(service.schemas[kind]);

async function start() {
  listenToTheme();
  listenToRail();
  try {
    await service.start();
  } catch (problem) {
    const again = button("Try again", { onclick: () => location.reload() });
    stage(notice("The service doesn't answer", problem.message, again));
    return;
  }
  if (!service.kinds.length) {
    stage(notice("No model is installed", "Put a checkpoint into the models folder; the README says how."));
    return;
  }
  const drafted = await desk.restore();
  showTabs(service.kinds, openTask);
  gallery.filters.tasks(service.kinds);
  takeDropsAndPastes(dropped);
  byId("form").addEventListener("focusin", () => jobViews().catch(() => undefined), { once: true }); // asked for again
  listenToShortcuts({
    prompt: () => (showRail(true), form.focus()),
    search: () => gallery.filters.focus(),
    send: () => byId("form").requestSubmit(),
    tab: (index) => service.kinds[index] && openTask(service.kinds[index]),
  });
  addEventListener("hashchange", () => openAddress());
  addEventListener("pagehide", () => desk.keepValues());
  const asked = address();
  selectKind(service.kinds.includes(asked.task) ? asked.task : drafted);
  gallery.refresh();
  const job = await openAddress();
  if (job && !asked.task) await fillFrom(job); // a link that somebody gave: the form is as its job had it
}

/** A model was installed or removed. */
function modelsChanged() {
  if (!service.able(desk.kind).length) location.reload(); // there was nothing to do, or what is done has no model now
  showTabs(service.kinds, openTask);
  markTab(desk.kind);
  gallery.filters.tasks(service.kinds);
}

function selectKind(kind) {
  desk.select(kind);
  markTab(kind);
  showForm();
}

/** A tab was chosen: the stage shows what its request starts from. */
function openTask(kind) {
  selectKind(kind);
  leaveJob();
}

function showForm() {
  byId("form").hidden = !desk.card;
  if (!desk.card) return;
  desk.show();
  showPictureRow();
}

function showPictureRow() {
  const needed = files();
  const label = needed.includes("mask") ? "Picture and mask" : "Picture";
  const showLabel = needed.includes("mask") ? "Mask" : "Show";
  const row = () => pictureRow(desk.picture, { label, showLabel, onFile: takePicture, onShow: leaveJob });
  const depth = () => pictureRow(desk.depth, { name: "depth", label: "Depth map", onFile: takeDepth });
  form.slot.replaceChildren(...(needed.length ? [row()] : []), ...(needed.includes("depth") ? [depth()] : []));
}

function changed(event) {
  desk.keepSoon();
  cost.changed();
  if (event.target.name === "feather") document.dispatchEvent(new Event("feather"));
}

async function costRequest() {
  const needed = files();
  if (!desk.card || (needed.length && !desk.picture)) return null;
  const pictures = await Promise.all(needed.map(async (name) => [name, await standIn(desk.picture, "#fff")]));
  return {
    kind: desk.kind,
    fields: { ...form.values(), model: form.model.value },
    files: Object.fromEntries(pictures),
  };
}

/** Leaves the job on the stage for what the next request starts from. */
async function leaveJob() {
  leave(NOTHING_SHOWN);
  goTo({ task: desk.kind });
  await showSource();
  reveal(byId("stage"));
}

async function showSource() {
  const { kind, picture, card } = desk;
  const onIdea = (values) => (form.fill(values), byId("form").requestSubmit());
  const view = await sourceView(kind, { picture, card, files: files(), draw, onIdea, onFile: takePicture });
  if (app.shown === NOTHING_SHOWN && desk.kind === kind && desk.picture === picture) stage(view);
}

function leave(shown) {
  app.watching.abort();
  app.watching = new AbortController();
  app.shown = shown;
  showShare(null);
  gallery.select(shown);
  showRail(false);
}

async function takePicture(file) {
  try {
    desk.picture = await openPicture(file);
  } catch (error) {
    form.showProblem({ message: error.message, field: "image" });
    return;
  }
  desk.keepPicture();
  cost.changed();
  showPictureRow();
  await leaveJob();
}

async function takeDepth(file) {
  try {
    desk.depth = await openPicture(file);
  } catch (error) {
    form.showProblem({ message: error.message, field: "depth" });
    return;
  }
  cost.changed();
  showPictureRow();
}

const useFor = (kind) => async (file) => (selectKind(kind), await takePicture(file));

/** What a picture can be used for, by the tasks of the installed models. */
function uses() {
  const labels = {
    inpaint: ["Repaint a part", "brush"],
    img2img: ["Start from it", "picture"],
    upscale: [`Upscale ×${service.card("upscale")?.scale}`, "upscale"],
  };
  return service.kinds
    .filter((kind) => files(kind).length && kind in labels)
    .map((kind) => ({ kind, label: labels[kind][0], icon: labels[kind][1], use: useFor(kind) }));
}

async function dropped(file, onPlace) {
  if (onPlace) return takePicture(file);
  const { askWhatFor } = await import("./shell/dropped.js");
  return askWhatFor(file, uses(), takeSettings);
}

/** Fills the form with what a picture says of itself. */
async function takeSettings(settings) {
  const { settle } = await import("./lib/settle.js");
  const { kind, values, missing } = settle(settings, service);
  desk.keepValues();
  if (values.model) desk.chooseModel(values.model, kind);
  selectKind(kind);
  await leaveJob();
  form.fill(values);
  form.showProblem(missing.length ? { message: missing.join(" ") } : null);
  showRail(true);
  form.focus();
  announce("Settings filled in");
}

async function submit() {
  if (form.submit.disabled || !desk.card) return;
  form.busy(true);
  form.showProblem(null);
  try {
    const [pictures] = await Promise.all([picturesOf(), jobViews()]);
    const fields = { ...form.values(), model: form.model.value, ...(pictures.mask && { mask_mode: "white" }) };
    await accepted(await api.submit(desk.kind, fields, pictures), pictures);
  } catch (problem) {
    showRail(true);
    form.showProblem(problem);
  }
  form.busy(false);
}

async function accepted(job, pictures) {
  keep.rememberMine(job.id);
  keep.rememberPrompt(job.request.prompt);
  desk.keepValues();
  const lost = pictures.image && (await keep.keepSource(job.id, pictures).then(() => null, String));
  open(job);
  gallery.refresh();
  reveal(byId("stage"));
  if (lost) form.showProblem({ message: `The job runs, but this browser can't keep its picture: ${lost}` });
}

async function picturesOf() {
  const needed = files();
  const { picture } = desk;
  if (!needed.length) return {};
  if (!picture) throw new api.Problem({ detail: "Choose a picture first.", field: "image" });
  if (needed.includes("depth")) {
    if (!desk.depth) throw new api.Problem({ detail: "Choose a depth map first.", field: "depth" });
    return { image: picture.file, depth: desk.depth.file };
  }
  if (!needed.includes("mask")) return { image: picture.file };
  if (!picture.mask || picture.mask.empty)
    throw new api.Problem({ detail: "Draw on the picture what is to be repainted.", field: "mask" });
  return { image: picture.file, mask: await picture.mask.file() };
}

/** Shows a job on the stage and in the address, and follows it to its end. */
async function open(job) {
  leave(job.id);
  const { signal } = app.watching;
  goTo({ task: desk.kind, job: job.id });
  try {
    const [[{ ended, watch }, { resultView }], source] = await Promise.all([jobViews(), keep.sourceOf(job.id)]);
    if (signal.aborted) return;
    const last = ended(job) ? job : await follow(job, watch, source, signal);
    if (last && !signal.aborted) stage(resultView(last, ...resultParts(last, source)));
    if (!ended(job)) gallery.refresh();
  } catch (problem) {
    if (!signal.aborted) stage(notice("The job can't be shown", problem.message));
  }
}

async function follow(job, watch, source, signal) {
  const stages = gallery.stages(job);
  const serves = (model) => service.serves(model);
  const onShare = (share) => signal.aborted || showShare(share);
  const last = await watch(job, { show: stage, serves, signal, source, stages, onShare });
  if (!last || signal.aborted) return undefined;
  showShare(null);
  notifyEnd(last);
  gallery.know(last);
  return last;
}

/** URL of the picture before, and what can be done with the pictures of a job. */
function resultParts(job, source) {
  if (app.before) URL.revokeObjectURL(app.before);
  app.before = source?.file && job.images.length ? URL.createObjectURL(source.file) : "";
  app.lastSeed = job.images[0]?.seed ?? app.lastSeed;
  const able = uses().filter(({ kind }) => kind !== "upscale" || job.kind !== "upscale");
  const withFile = ({ use, ...others }) => ({ ...others, use: async (image) => use(await api.imageFile(image)) });
  const again = job.kind !== "upscale" && service.able(job.kind).length && (!files(job.kind).length || source);
  const card = service.cards.find(({ id }) => id === job.request.model);
  return [app.before, { uses: able.map(withFile), card, onReuse: reuse, onVariations: again ? variations : undefined }];
}

async function showPair(first, second) {
  const { pairView } = await import("./stage/pair.js");
  leave(NOTHING_SHOWN);
  goTo({ task: desk.kind });
  stage(pairView(first, second, leaveJob));
  reveal(byId("stage"));
}

/** Fills the form as the job had it, its picture and mask too where this browser still has them. */
async function fillFrom(job, image) {
  if (!service.able(job.kind).length) throw new Error("No installed model can do this task any more.");
  await desk.takeSource(await keep.sourceOf(job.id), draw);
  desk.chooseModel(job.request.model, job.kind);
  selectKind(job.kind);
  const label = desk.card.class_names?.[job.request.class_id]; // chosen by its name
  form.fill({ ...job.request, seed: image?.seed ?? job.request.seed, ...(label && { label }) });
  goTo({ task: job.kind, job: job.id }, true);
}

async function reuse(job, image) {
  await fillFrom(job, image);
  showRail(true);
  form.focus();
  announce("Settings filled in");
}

/** Four more of the same request, each from noise of its own. */
async function variations(job) {
  await fillFrom(job);
  form.fill({ seed: "", num_images: 4 });
  byId("form").requestSubmit();
}

/** Shows what the address says; resolves with its job, if it names one that was not shown. */
async function openAddress() {
  const { task, job: id } = address();
  if (task && task !== desk.kind && service.kinds.includes(task)) selectKind(task);
  if (!id) {
    if (app.shown !== NOTHING_SHOWN) leave(NOTHING_SHOWN);
    goTo({ task: desk.kind }, true);
    await showSource();
    return undefined;
  }
  if (id === app.shown) return undefined;
  try {
    const job = await api.job(id);
    open(job);
    reveal(byId("stage"));
    return job;
  } catch (problem) {
    leave(id);
    stage(notice(problem.status === 410 ? "This job has expired" : "This job can't be shown", problem.message));
    return undefined;
  }
}

start();
