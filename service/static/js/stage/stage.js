/**
 * What the stage shows before there is a job: samples and ideas, a place for a picture, or the picture itself; notices.
 */

import { dropPlace, pictureCanvas } from "../form/picture.js";
import { UNAUTHORIZED } from "../lib/api.js";
import { button, byId, h, pictureBox } from "../lib/dom.js";

const IDEAS = ["strawberry", "robot, 3d style", "rocket"];
// Made by the model that latentd brings, with its defaults; the files are in samples/.
const SAMPLES = [
  { file: "parrot", prompt: "parrot", seed: 5 },
  { file: "heart", prompt: "red heart on a navy background", seed: 3 },
  { file: "face", prompt: "smiling face with sunglasses", seed: 2 },
];
const DROP_TITLES = {
  inpaint: "A picture to repaint",
  img2img: "A picture to start from",
  upscale: "A picture to enlarge",
  semantic2img: "A label map: a PNG whose pixels are class numbers",
};
const SOME = 12; // of a model's classes

export function stage(...nodes) {
  byId("stage").replaceChildren(...nodes);
}

export const notice = (title, text, ...more) =>
  h("div", { className: "ending" }, h("h2", {}, title), h("p", {}, text), ...more);

/** What the page is without the service. */
export function unusable({ status, message }) {
  const onclick = () => location.reload();
  if (status === UNAUTHORIZED)
    return notice("A key is needed", "This service is open to people who have one.", button("Enter it", { onclick }));
  return notice("The service doesn't answer", message, button("Try again", { onclick }));
}

/**
 * What a request of `kind` starts from; `card` is undefined where no model can do the task, `files` names the pictures
 * that it needs.
 */
export async function sourceView(kind, { picture, card, files, draw, size, onIdea, onFile }) {
  if (!card)
    return notice("No model for this", "No installed checkpoint can do this task. The README says how to install one.");
  if (card.layout) return (await import("../boxes/board.js")).boardView(card, size);
  if (!files.length) return card.fields.includes("prompt") ? ideas(card, onIdea) : classes(card, onIdea);
  if (!picture) return dropPlace(DROP_TITLES[kind] ?? "A picture", "Drop it here, paste it, or", onFile);
  if (!files.includes("mask")) return pictureView(picture, kind === "upscale" ? enlarged(picture, card.scale) : "");
  const { maskEditor } = await import("../mask/editor.js");
  return maskEditor(picture, draw);
}

const enlarged = ({ width, height }, scale) => `${width} × ${height} becomes ${width * scale} × ${height * scale}`;

const pictureView = (picture, caption) =>
  h(
    "figure",
    { className: "frame" },
    h("div", { className: "place" }, pictureBox(picture, pictureCanvas(picture))),
    h("figcaption", {}, caption || `${picture.width} × ${picture.height}`),
  );

function ideas(card, onIdea) {
  const list = IDEAS.map((prompt) => button(prompt, { className: "button idea", onclick: () => onIdea({ prompt }) }));
  return h(
    "div",
    { className: "welcome" },
    h("h2", {}, "What should it show?"),
    card.id === "emoji" &&
      h(
        "ul",
        { className: "samples" },
        SAMPLES.map((sample) => h("li", {}, sampleOf(sample, onIdea))),
      ),
    h(
      "p",
      {},
      card.id === "emoji"
        ? "Begin with one of these, or write your own."
        : "Write a prompt, or begin with one of these.",
    ),
    h("div", { className: "choices" }, list),
  );
}

/** For models that are asked by a class alone. */
function classes({ class_names: names, classes: count }, onIdea) {
  const chosen = names?.filter((name, i) => names.length <= SOME || i % Math.ceil(names.length / SOME) === 0);
  const list = chosen?.map((label) => button(label, { className: "button idea", onclick: () => onIdea({ label }) }));
  return h(
    "div",
    { className: "welcome" },
    h("h2", {}, "What should it be?"),
    h("p", {}, names ? "Choose its class in the form, or begin with one of these." : `Choose its class, from 0 to ${count - 1}.`),
    list && h("div", { className: "choices" }, list),
  );
}

const sampleOf = ({ file, prompt, seed }, onIdea) =>
  h(
    "button",
    { type: "button", className: "sample", onclick: () => onIdea({ prompt, seed }) },
    h("img", { src: `samples/${file}.webp`, alt: "", width: 192, height: 192 }),
    h("span", {}, prompt),
  );
