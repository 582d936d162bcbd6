/**
 * The page: joins the request form, the stage and the gallery. The address says which task and which job are open.
 */

import { Cost } from "./form/cost.js";
import { Desk } from "./form/desk.js";
import { hasUsualEta, lossOf, unsaidOf, withUnsaid } from "./form/fields.js";
import { Form } from "./form/form.js";
import { Order } from "./form/order.js";
import { chooseFile, openPicture, pictureRow } from "./form/picture.js";
import { markTab, showTabs } from "./form/tabs.js";
import { Gallery } from "./gallery/gallery.js";
import { address, goTo, stays } from "./lib/address.js";
import * as api from "./lib/api.js";
import { announce, byId, debounced, icon, keepFocus, onReturn, reveal, tell } from "./lib/dom.js";
import * as keep from "./lib/keep.js";
import { takeDropsAndPastes } from "./shell/drops.js";
import { listenToRail, showRail } from "./shell/rail.js";
import { renewPictures } from "./shell/renewal.js";
import { Service } from "./shell/service.js";
import { listenToShortcuts } from "./shell/shortcuts.js";
import { listenToTheme } from "./shell/theme.js";
import { Showing } from "./stage/showing.js";
import { notice, stage, unusable } from "./stage/stage.js";

const service = new Service(modelsChanged, () => cost.changed());
const form = new Form(byId("form"), {
  onSubmit: submit,
  onModel: (id) => (desk.chooseModel(id), showForm()),
  onChange: changed,
  lastSeed: () => showing.lastSeed,
});
const desk = new Desk(form, service);
const order = new Order(form, desk, service);
const cost = new Cost(
  form.cost,
  () => order.trial(),
  (answer) => form.tokens.tell(answer?.tokens, desk.card?.token_window),
);
const gallery = new Gallery(byId("history"), { onCompare: compare });
const showing = new Showing(service, gallery, actionsOf);
const draw = { onChange: () => desk.keepPicture(), feather: () => form.values().feather ?? 0 };

async function start() {
  byId("open-picture").append(icon("picture"));
  listenToTheme();
  listenToRail();
  renewPictures();
  listenToKeys();
  addEventListener("unhandledrejection", sayFailure);
  try {
    await service.start();
  } catch (problem) {
    stage(unusable(problem));
    return;
  }
  if (!service.kinds.length) {
    stage(notice("No model is installed", "Put a checkpoint into the models folder; the README says how."));
    return;
  }
  const drafted = await desk.restore();
  showTabs(service.kinds, openTask);
  gallery.filters.tasks(service.kinds);
  listen();
  const asked = address();
  selectKind(service.kinds.includes(asked.task) ? asked.task : drafted);
  gallery.refresh();
  const untouched = stays(() => address().job + form.state);
  const job = await openAddress();
  if (!job || asked.task) return;
  // A link that somebody gave: the form is as its job had it, unless somebody writes already.
  if (await fillFrom(job, { wanted: untouched, kept: false })) tellLoss(job.request);
}

/** Says what nothing else on the page says: why an action came to nothing, or that a part of the page didn't come. */
function sayFailure(event) {
  const { reason } = event;
  const meant = reason instanceof api.Problem; // what isn't stays an error in the console, too
  if (meant) event.preventDefault();
  tell(meant ? reason.message : `That didn't work: ${reason.message}`);
}

const RETURN_MS = 100;

function listen() {
  takeDropsAndPastes(dropped);
  byId("open-picture").addEventListener("click", () => chooseFile((file) => dropped(file, false)));
  byId("open-picture").disabled = false;
  byId("form").addEventListener("board", leaveJob);
  byId("form").addEventListener("focusin", () => showing.ready().catch(() => undefined), { once: true }); // asked again
  addEventListener("hashchange", () => openAddress());
  onReturn(debounced(RETURN_MS, () => gallery.refresh())); // two events tell of one return
  addEventListener("pagehide", () => desk.keepValues());
}

/** What works before the service has answered, too. */
function listenToKeys() {
  byId("skip-form").addEventListener("click", () => form.focus());
  byId("skip-stage").addEventListener("click", toPicture);
  listenToShortcuts({
    prompt: () => (showRail(true), form.focus()),
    picture: toPicture,
    search: () => gallery.filters.focus(),
    send: () => byId("form").requestSubmit(),
    tab: (index) => service.kinds[index] && openTask(service.kinds[index]),
  });
}

/** Gives the stage the focus: the keys of a result are its own. */
function toPicture() {
  (byId("stage").querySelector(".result") ?? byId("stage")).focus();
  reveal(byId("stage"));
}

/** A model or an add-on was installed or removed; who was writing goes on. */
function modelsChanged() {
  if (!service.able(desk.kind).length) location.reload(); // there was nothing to do, or what is done has no model now
  showTabs(service.kinds, openTask);
  markTab(desk.kind);
  gallery.filters.tasks(service.kinds);
  desk.keepValues();
  keepFocus(byId("form"), showForm);
}

// The form

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
  cost.forget();
  desk.show();
  showPictureRow();
}

const PICTURES = { semantic2img: "Label map" };

function showPictureRow() {
  const needed = order.starts();
  const label = needed.includes("mask") ? "Picture and mask" : (PICTURES[desk.kind] ?? "Picture");
  const showLabel = needed.includes("mask") ? "Mask" : "Show";
  const row = () => pictureRow(desk.picture, { label, showLabel, onFile: takePicture, onShow: leaveJob });
  const near = { name: "depth", label: "Depth map", hint: "grey, the nearer the brighter" };
  const depth = () => pictureRow(desk.depth, { ...near, onFile: takeDepth });
  form.slot.replaceChildren(...(needed.length ? [row()] : []), ...(needed.includes("depth") ? [depth()] : []));
}

const SEEN = { feather: "feather", width: "size", height: "size" }; // fields that the stage shows, and what it listens to

function changed({ target }) {
  desk.keepSoon();
  cost.changed();
  if (target.name in SEEN) document.dispatchEvent(new Event(SEEN[target.name]));
}

/** Sends what the form says; `unsaid` are fields that it has no control for. */
async function submit(unsaid = {}) {
  if (form.submit.disabled || !desk.card) return;
  form.busy(true);
  form.showProblem(null);
  try {
    const [{ kind, fields, files, source }] = await Promise.all([order.ready(), showing.ready()]);
    await accepted(await api.submit(kind, withUnsaid(fields, unsaid), files), source);
  } catch (problem) {
    showRail(true);
    form.showProblem(problem);
  }
  form.busy(false);
}

async function accepted(job, source) {
  keep.rememberMine(job.id);
  keep.rememberPrompt(job.request.prompt);
  desk.keepValues();
  const any = Object.keys(source).length > 0;
  const lost = any && (await keep.keepSource(job.id, source).then(() => null, String));
  open(job);
  gallery.refresh();
  reveal(byId("stage"));
  if (lost) form.showProblem({ message: `The job runs, but this browser can't keep its picture: ${lost}` });
}

/**
 * Fills the form as the job had it, its picture and mask too where this browser still has them, all of it `kept` for
 * the next visit; resolves with whether it did: only while it is `wanted()`.
 */
async function fillFrom(job, { image, wanted = stays(), kept = true } = {}) {
  if (!service.able(job.kind).length)
    throw new api.Problem({ detail: "No installed model can do this task any more." });
  const source = await keep.sourceOf(job.id);
  const values = await formValues(job.request, service.card(job.kind, job.request.model));
  if (wanted()) await desk.takeSource(source, draw, kept);
  if (!wanted()) return false;
  const controls = job.request.controls?.map((control, i) => ({ ...control, picture: source?.controls?.[i] }));
  const fill = () => showAs(job, { ...values, controls, seed: image?.seed ?? job.request.seed });
  if (kept) fill();
  else desk.give(fill);
  goTo({ task: job.kind, job: job.id }, true);
  return true;
}

function showAs({ kind, request }, values) {
  desk.chooseModel(request.model, kind);
  selectKind(kind);
  const label = desk.card.class_names?.[request.class_id]; // chosen by its name
  form.reset({ ...values, ...(label && { label }) });
}

/** A resolved request as the form of the model of `card` has it; boxes became numbers in it. */
async function formValues({ tokens, ...values }, card) {
  if (tokens && card.layout) {
    const { boxesOf, isCropped } = await import("./boxes/boxes.js");
    values.boxes = boxesOf(tokens, card);
    if (isCropped(tokens, card)) tell("That picture was a part of its scene; the form makes all of it.");
  }
  if (hasUsualEta(values, card)) delete values.eta; // whoever chooses another sampler has that one's
  return values;
}

function filled(request) {
  showRail(true);
  form.focus();
  announce("Settings filled in");
  tellLoss(request);
}

/** Says what of a request the form has no control for. */
function tellLoss(request) {
  const loss = lossOf(request);
  if (loss) tell(loss);
}

// Pictures that come from elsewhere

const chosen = {}; // the file that was taken last, by field

/** Opens a file for a field; undefined where that can't be, or another was taken meanwhile. */
async function opened(field, file) {
  chosen[field] = file;
  const late = () => chosen[field] !== file;
  try {
    const picture = await openPicture(file);
    return late() ? undefined : picture;
  } catch (error) {
    if (!late()) form.showProblem({ message: error.message, field });
    return undefined;
  }
}

async function takePicture(file) {
  const picture = await opened("image", file);
  if (!picture) return;
  desk.picture = picture;
  desk.keepPicture();
  cost.changed();
  showPictureRow();
  await leaveJob();
}

async function takeDepth(file) {
  const picture = await opened("depth", file);
  if (!picture) return;
  desk.depth = picture;
  cost.changed();
  showPictureRow();
}

const useFor = (kind) => async (file) => (selectKind(kind), await takePicture(file));

/** What a picture can be used for, by the tasks of the installed models. */
function uses() {
  const labels = {
    inpaint: ["Repaint a part", "brush"],
    img2img: ["Start from it", "picture"],
    depth2img: ["Start from it, led by its depth", "picture"],
    upscale: [`Upscale ×${service.card("upscale")?.scale}`, "upscale"],
    semantic2img: ["Use it as a label map", "picture"],
  };
  return service.kinds
    .filter((kind) => order.starts(kind).length && kind in labels)
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
  form.reset(await formValues(values, desk.card));
  form.showProblem(missing.length ? { message: missing.join(" ") } : null);
  filled(values);
}

// The stage

/** Leaves the job on the stage for what the next request starts from. */
async function leaveJob() {
  showing.leave();
  goTo({ task: desk.kind });
  await showSource();
  reveal(byId("stage"));
}

function showSource() {
  const { kind, picture, card } = desk;
  const onIdea = (values) => (form.fill(values), byId("form").requestSubmit());
  const size = () => order.size();
  return showing.source(kind, { picture, card, files: order.starts(), draw, size, onIdea, onFile: takePicture });
}

/** Shows a job on the stage and in the address; once it has ended, the next one costs something else. */
async function open(job) {
  goTo({ task: desk.kind, job: job.id });
  await showing.open(job);
  cost.changed();
}

function compare(first, second) {
  goTo({ task: desk.kind });
  return showing.pair(first, second, leaveJob);
}

/** What can be done with the pictures of a job. */
function actionsOf(job, source) {
  const senseless = ["semantic2img", job.kind === "upscale" && "upscale"];
  const able = uses().filter(({ kind }) => !senseless.includes(kind));
  const withFile = ({ use, ...others }) => ({ ...others, use: (image) => takeImage(image, use) });
  const needed = order.starts(job.kind).length;
  const again = job.kind !== "upscale" && service.able(job.kind).length && (!needed || source?.file);
  const card = service.cards.find(({ id }) => id === job.request.model);
  return { uses: able.map(withFile), card, onReuse: reuse, onVariations: again ? variations : undefined };
}

/** Gives a stored picture to `use`; nothing is sent meanwhile, which would still be the request before. */
async function takeImage(image, use) {
  form.busy(true);
  const here = stays();
  try {
    const file = await api.imageFile(image);
    if (here()) await use(file);
  } catch (problem) {
    form.showProblem(problem);
  }
  form.busy(false);
}

async function reuse(job, image) {
  if (await fillFrom(job, { image })) filled(job.request);
}

/** Four more of the same request, each from noise of its own. */
async function variations(job) {
  if (!(await fillFrom(job))) return;
  form.fill({ seed: "", num_images: 4 });
  await submit(unsaidOf(job.request));
}

/** Shows what the address says; resolves with its job, if it names one that was not shown. */
async function openAddress() {
  const { task, job: id } = address();
  if (task && task !== desk.kind && service.kinds.includes(task)) selectKind(task);
  if (!id) {
    if (showing.job !== "") showing.leave();
    goTo({ task: desk.kind }, true);
    await showSource();
    return undefined;
  }
  if (id === showing.job) return undefined;
  const late = () => id !== address().job || id === showing.job; // something else was opened meanwhile, or this already
  try {
    const job = await api.job(id);
    if (late()) return undefined;
    open(job);
    reveal(byId("stage"));
    return job;
  } catch (problem) {
    if (late()) return undefined;
    showing.leave(null);
    stage(notice(problem.status === 410 ? "This job has expired" : "This job can't be shown", problem.message));
    return undefined;
  }
}

start();
