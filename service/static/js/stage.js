/**
 * What the stage shows before there is a job: ideas, a place for a picture, or the picture itself; and plain notices.
 */

import { button, byId, h } from "./dom.js";
import { maskEditor, pictureView } from "./editor.js";
import { dropPlace } from "./picture.js";

const IDEAS = ["penguin", "a dog, 3d style", "smiling face with sunglasses", "red heart on a navy background"];
const DROP_TITLES = { inpaint: "A picture to repaint", upscale: "A picture to enlarge" };

export function stage(...nodes) {
  byId("stage").replaceChildren(...nodes);
}

export const notice = (title, text, ...more) =>
  h("div", { className: "ending" }, h("h2", {}, title), h("p", {}, text), ...more);

/** What a request of `kind` starts from; `card` is undefined where no model can do the task. */
export function sourceView(kind, picture, card, { onIdea, onFile }) {
  if (!card)
    return notice("No model for this", "No installed checkpoint can do this task. The README says how to install one.");
  if (kind === "txt2img") return ideas(onIdea);
  if (!picture) return dropPlace(DROP_TITLES[kind], "Drop it here, paste it, or", onFile);
  return kind === "inpaint" ? maskEditor(picture) : pictureView(picture, enlarged(picture, card.scale));
}

const enlarged = ({ width, height }, scale) => `${width} × ${height} becomes ${width * scale} × ${height * scale}`;

function ideas(onIdea) {
  const list = IDEAS.map((idea) => button(idea, { className: "button idea", onclick: () => onIdea(idea) }));
  return notice(
    "What should it show?",
    "Write a prompt, or begin with one of these.",
    h("div", { className: "choices" }, list),
  );
}
