/**
 * What came back: status, headers, and the body as what it is: pictures, JSON with the pictures in it, events as they come.
 */

import { downloadUrl } from "../lib/api.js";
import { bytes, h } from "../lib/dom.js";
import { parse } from "../lib/events.js";
import { authorization } from "../lib/key.js";
import { learn } from "./call.js";
import { code, table } from "./schemas.js";

const LONG = 400; // of a text in JSON
const STARTS = { iVBORw0KGgo: "png", "/9j/": "jpeg", UklGR: "webp" }; // of pictures as base64

/** Draws an answer into `place` as it arrives; `began` is when it was asked for. */
export async function show(answer, place, began) {
  const took = `${Math.round(performance.now() - began)} ms`;
  place.append(
    h("p", { className: answer.ok ? "status" : "status bad" }, h("strong", {}, `${answer.status} ${answer.statusText}`), ` in ${took}`),
    h("details", {}, h("summary", {}, "Headers"), table(["Header", "Value"], [...answer.headers].map(([name, value]) => [code(name), value]))),
  );
  const id = /\/v1\/jobs\/([^/]+)$/.exec(answer.headers.get("Location") ?? "")?.[1];
  if (id) learn({ job: id, image: `${id}-0` });
  const type = answer.headers.get("Content-Type") ?? "";
  if (type.startsWith("image/")) return place.append(picture(await answer.blob()));
  if (type.startsWith("text/event-stream")) return stream(answer, place);
  const text = await answer.text();
  if (!type.includes("json")) return text && place.append(block(text));
  const value = JSON.parse(text);
  await pictures(value, place);
  return place.append(block(JSON.stringify(value, shortened, 2)));
}

const block = (text) => h("pre", { tabIndex: 0 }, text);

const shortened = (_, value) =>
  typeof value === "string" && value.length > LONG ? `${value.slice(0, 60)}… (${value.length} characters)` : value;

function picture(blob) {
  const image = h("img", { src: URL.createObjectURL(blob), alt: "The picture of the answer" });
  return h("figure", {}, image, h("figcaption", {}, `${blob.type}, ${bytes(blob.size)}`));
}

async function stream(answer, place) {
  const list = h("ol", { className: "events", "aria-live": "polite" });
  place.append(list);
  for await (const { type, data } of parse(answer.body)) {
    const item = h("li", {}, h("strong", {}, type), " ", code(JSON.stringify(data, shortened)));
    list.append(item);
    await pictures(data, item);
  }
}

/** Shows the pictures that JSON holds as base64, or names by their URLs here. */
async function pictures(value, place) {
  for (const found of held(value)) {
    if (found instanceof Blob) {
      place.append(picture(found));
      continue;
    }
    const answer = await fetch(found, { headers: authorization() });
    if (answer.ok) place.append(picture(await answer.blob()));
    else place.append(h("p", { className: "help" }, `${found} isn't there: ${answer.status}`));
  }
}

const decoded = (text, format) =>
  new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });

function held(value) {
  if (typeof value === "string") {
    const start = Object.keys(STARTS).find((each) => value.startsWith(each));
    return start ? [decoded(value, STARTS[start])] : [];
  }
  if (value === null || typeof value !== "object") return [];
  const own = typeof value.url === "string" && /\/v1\/images\//.test(value.url) ? [downloadUrl(value)] : [];
  return [...own, ...Object.values(value).flatMap(held)];
}
