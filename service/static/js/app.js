/**
 * The playground: joins the request form, the stage and the history. The address (#job=id) says what the stage shows.
 */

import * as api from "./api.js";
import { announce, button, byId } from "./dom.js";
import { fieldsOf } from "./fields.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { openPicture, pictureRow, takeDropsAndPastes } from "./picture.js";
import { resultView } from "./result.js";
import { Service } from "./service.js";
import * as sources from "./sources.js";
import { notice, sourceView, stage } from "./stage.js";
import { listenToTabs, markTab } from "./tabs.js";
import { ended, watch } from "./watch.js";

const PICTURE_KINDS = { inpaint: "Picture and mask", upscale: "Picture" };

const app = { kind: "txt2img", models: {}, picture: null, shown: "", watching: new AbortController() };
const service = new Service();
const form = new Form(byId("form"), { onSubmit: submit, onModel: (id) => ((app.models[app.kind] = id), showForm()) });
const history = new History(byId("history"));

const currentCard = () => service.card(app.kind, app.models[app.kind]);

async function start() {
  try {
    await service.start();
  } catch (problem) {
    stage(
      notice("The service doesn't answer", problem.message, button("Try again", { onclick: () => location.reload() })),
    );
    return;
  }
  listenToTabs((kind) => (selectKind(kind), leaveJob()));
  takeDropsAndPastes({ accepts: () => app.kind in PICTURE_KINDS, onFile: takePicture });
  addEventListener("hashchange", () => openAddress());
  addEventListener("popstate", () => openAddress());
  selectKind(app.kind);
  history.refresh();
  const job = await openAddress();
  if (job) await fillFrom(job);
}

function selectKind(kind) {
  app.kind = kind;
  markTab(kind);
  showForm();
}

function showForm() {
  const card = currentCard();
  byId("form").hidden = !card;
  if (!card) return;
  const action = { txt2img: "Create", inpaint: "Repaint", upscale: `Upscale ×${card.scale}` }[app.kind];
  form.show(fieldsOf(app.kind, card, service.schemas, service.openapi), {
    cards: service.able(app.kind),
    card,
    action,
  });
  showPictureRow();
}

function showPictureRow() {
  const label = PICTURE_KINDS[app.kind];
  const showLabel = app.kind === "inpaint" ? "Mask" : "Show";
  form.slot.replaceChildren(
    ...(label ? [pictureRow(app.picture, { label, showLabel, onFile: takePicture, onShow: leaveJob })] : []),
  );
}

/** Leaves the job on the stage for what the next request starts from. */
function leaveJob() {
  app.watching.abort();
  app.shown = "";
  history.select("");
  if (location.hash) window.history.pushState(null, "", location.pathname);
  const onIdea = (prompt) => (form.fill({ prompt }), form.focus());
  stage(sourceView(app.kind, app.picture, currentCard(), { onIdea, onFile: takePicture }));
}

async function takePicture(file) {
  try {
    app.picture = await openPicture(file);
  } catch (error) {
    form.showProblem({ message: error.message, field: "image" });
    return;
  }
  showPictureRow();
  leaveJob();
}

async function submit() {
  if (form.submit.disabled) return;
  form.busy(true);
  form.showProblem(null);
  try {
    const files = await filesOf(app.kind);
    const fields = { ...form.values(), model: form.model.value, ...(files.mask && { mask_mode: "white" }) };
    await accepted(await api.submit(app.kind, fields, files), files.image);
  } catch (problem) {
    form.showProblem(problem);
  }
  form.busy(false);
}

async function accepted(job, file) {
  sources.rememberMine(job.id);
  const lost = file && (await sources.keepSource(job.id, file).then(() => null, String));
  open(job);
  history.refresh();
  if (byId("stage").getBoundingClientRect().top < 0 || innerWidth <= 900)
    byId("stage").scrollIntoView({ block: "start", behavior: "smooth" });
  if (lost) form.showProblem({ message: `The job runs, but this browser can't keep its picture: ${lost}` });
}

async function filesOf(kind) {
  const { picture } = app;
  if (!(kind in PICTURE_KINDS)) return {};
  if (!picture) throw new api.Problem({ detail: "Choose a picture first.", field: "image" });
  if (kind === "upscale") return { image: picture.file };
  if (!picture.mask || picture.mask.empty)
    throw new api.Problem({ detail: "Draw on the picture what is to be repainted.", field: "mask" });
  return { image: picture.file, mask: await picture.mask.file() };
}

/** Shows a job on the stage and in the address, and follows it to its end. */
async function open(job) {
  app.watching.abort();
  app.watching = new AbortController();
  const { signal } = app.watching;
  app.shown = job.id;
  if (location.hash !== `#job=${job.id}`) window.history.pushState(null, "", `#job=${job.id}`);
  history.select(job.id);
  try {
    const last = ended(job) ? job : await watch(job, { show: stage, serves: (model) => service.serves(model), signal });
    const source = last && (await sources.sourceOf(job.id));
    if (last && !signal.aborted) showResult(last, source);
  } catch (problem) {
    if (!signal.aborted) stage(notice("The job can't be shown", problem.message));
  }
  if (!ended(job)) history.refresh();
}

function showResult(job, source) {
  const use = (kind) => async (image) => (selectKind(kind), takePicture(await api.imageFile(image)));
  stage(
    resultView(job, job.kind !== "txt2img" && source, {
      scale: service.card("upscale")?.scale,
      onRepaint: service.card("inpaint") && use("inpaint"),
      onUpscale: job.kind === "upscale" ? undefined : use("upscale"),
      onReuse: reuse,
      onAgain: job.kind === "txt2img" ? again : undefined,
    }),
  );
}

/** Fills the form as the job had it, its picture too where this browser still has it. */
async function fillFrom(job, image) {
  const { request } = job;
  const source = await sources.sourceOf(job.id);
  if (source && !isSame(source, app.picture?.file)) app.picture = await openPicture(source);
  app.models[job.kind] = request.model;
  selectKind(job.kind);
  form.fill({ ...request, seed: image?.seed ?? request.seed });
}

// The picture in the editor keeps its mask if it is the one that the job started from.
const isSame = (file, other) => other && file.size === other.size && file.name === other.name;

async function reuse(job, image) {
  await fillFrom(job, image);
  form.focus();
  announce("Settings filled in");
}

async function again(job) {
  await fillFrom(job);
  form.fill({ seed: "" });
  byId("form").requestSubmit();
}

async function openAddress() {
  const id = /^#job=([\w-]+)$/.exec(location.hash)?.[1];
  if (!id) return leaveJob();
  if (id === app.shown) return undefined;
  try {
    const job = await api.job(id);
    open(job);
    return job;
  } catch (problem) {
    app.watching.abort();
    app.shown = id;
    stage(notice(problem.status === 410 ? "This job has expired" : "This job can't be shown", problem.message));
    return undefined;
  }
}

start();
