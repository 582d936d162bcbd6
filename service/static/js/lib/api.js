/**
 * Every call to the gateway goes through here, so that headers have one place. What isn't 2xx is thrown as a `Problem`.
 */

import { askForKey, authorization, timesAsked } from "./key.js";

export const UNAUTHORIZED = 401;
export const TOO_MANY = 429;

/** Whether the same call may be answered later: no answer is status 0; without Redis the gateway answers 503. */
export const passes = ({ status }) => status === 0 || status === TOO_MANY || status >= 500;

/** RFC 9457 problem of an answer, or of no answer at all (status 0). */
export class Problem extends Error {
  constructor({ status = 0, title = "", detail = "", field = null, retryAfter = null }) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.field = field;
    this.retryAfter = retryAfter;
  }
}

/** What `work()` receives; a connection that breaks off, or a part of an answer, is a Problem of status 0. */
async function received(work, signal) {
  try {
    return await work();
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new Problem({ title: "No answer", detail: "The gateway doesn't answer. Is latentd running?" });
  }
}

/**
 * fetch that resolves for 2xx only, and asks for an API key where one is missing. Throws Problem, or AbortError.
 * `quiet`: nobody has asked for this call just now, so that nobody is asked for a key; the page's head says that one is
 * needed.
 */
export async function request(path, { quiet = false, ...options } = {}) {
  const sentAfter = timesAsked();
  const headers = { ...options.headers, ...authorization() };
  const sent = { credentials: "same-origin", ...options, headers };
  const answer = await received(() => fetch(path, sent), options.signal);
  if (answer.ok) return answer;
  const problem = await received(() => problemOf(answer), options.signal);
  if (problem.status === UNAUTHORIZED && !quiet && (await askForKey(sentAfter))) return request(path, options);
  throw problem;
}

async function problemOf(answer) {
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  const known = { status: answer.status, retryAfter };
  if (!answer.headers.get("Content-Type")?.includes("json")) return new Problem({ title: answer.statusText, ...known });
  return new Problem({ ...(await answer.json()), ...known });
}

async function json(path, options) {
  const answer = await request(path, options);
  return received(() => answer.json(), options?.signal);
}

let unclear = null; // {kind, fields, files, key} of the newest request whose job may have been made

/**
 * Posts a request of `kind`; `files` are the pictures (image, mask, depth) that travel as multipart parts.
 * Returns the accepted job. A request keeps its idempotency key until it is known what came of it: after an answer that
 * was lost, or says that nobody knows, neither the retry nor the next press makes a second job.
 */
export async function submit(kind, fields, files) {
  const sent = { kind, fields, files };
  const again = unclear && (await isSame(unclear, sent).catch(() => false)); // a file may have gone since
  if (!again) unclear = { ...sent, key: newKey() };
  const options = post(fields, files);
  options.headers["Idempotency-Key"] = unclear.key;
  const send = () => json(`v1/${kind}`, options);
  try {
    const job = await send().catch((problem) => (problem.status === 0 ? send() : Promise.reject(problem)));
    unclear = null;
    return job;
  } catch (problem) {
    if (!passes(problem)) unclear = null;
    throw problem;
  }
}

/** Whether two requests are the same to the service: a mask is another file at each press. */
async function isSame(one, other) {
  const told = ({ kind, fields, files }) => JSON.stringify([kind, fields, Object.keys(files)]);
  if (told(one) !== told(other)) return false;
  const names = Object.keys(one.files);
  const same = await Promise.all(names.map((name) => hasSameBytes(one.files[name], other.files[name])));
  return same.every(Boolean);
}

export async function hasSameBytes(...files) {
  const [one, other] = await Promise.all(files.map(async (file) => new Uint8Array(await file.arrayBuffer())));
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

/** What a request would do: `{request, tokens, estimate, position, warnings}`; nothing is made, no key asked for. */
export const dryRun = (kind, fields, files, signal) =>
  json(`v1/${kind}?dry_run=true`, { ...post(fields, files), signal, quiet: true });

function post(fields, files) {
  const headers = { Accept: "application/json" };
  if (Object.keys(files).length) return { method: "POST", headers, body: multipart(fields, files) };
  headers["Content-Type"] = "application/json";
  return { method: "POST", headers, body: JSON.stringify(fields) };
}

// crypto.randomUUID exists on secure origins only; the page must also work on http://machine:8000.
function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function multipart(fields, files) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, inForm(value));
  for (const [name, file] of Object.entries(files)) body.append(name, file, file.name ?? `${name}.png`);
  return body;
}

/** How a form writes a value: a list of numbers as `0.2,0.8`, an object or a list of them as JSON. */
export const inForm = (value) =>
  typeof (Array.isArray(value) ? value[0] : value) === "object" ? JSON.stringify(value) : String(value);

const jobPath = (id) => `v1/jobs/${encodeURIComponent(id)}`;

export const job = (id, options) => json(jobPath(id), options);
export const cancel = (id) => json(jobPath(id), { method: "DELETE" });
/** Removes an ended job for good, its pictures with it. */
export const purge = (id) => request(`${jobPath(id)}?purge=true`, { method: "DELETE" });
export const openapi = () => json("openapi.json");
export const models = (options) => json("v1/models", options);
export const loras = (options) => json("v1/loras", options);
export const embeddings = (options) => json("v1/embeddings", options);
export const controlnets = (options) => json("v1/controlnets", options);

/** One page of the newest jobs: `{items, next_cursor}`; `query` has limit, cursor, kind, status and q, where set. */
export function jobs(query, options) {
  const set = Object.entries(query).filter(([, value]) => value);
  return json(`v1/jobs?${new URLSearchParams(set)}`, options);
}

/** The job's event stream from after `lastId`; status 204 means that it has ended before. No key is asked for. */
export function events(id, lastId, signal) {
  const headers = { Accept: "text/event-stream" };
  if (lastId) headers["Last-Event-ID"] = lastId;
  return request(`${jobPath(id)}/events`, { headers, signal, cache: "no-store", quiet: true });
}

/** A stored picture as a File, to be posted again; a download always comes from our own origin. */
export async function imageFile(image) {
  const url = hasRunOut(image.url) ? await renewed(image.url) : image.url;
  const answer = await request(downloadUrl({ url }));
  const blob = await received(() => answer.blob());
  return new File([blob], `${image.id}.${image.format}`, { type: blob.type });
}

/** Whether a picture's address can't be asked any more: where keys are on, each is good for an hour or two. */
export const hasRunOut = (url) => Date.now() > 1000 * (url.match(/[?&]expires=(\d+)/)?.[1] ?? Infinity);

/** A picture's address as its job has it now. */
export async function renewed(url) {
  const id = url.match(/v1\/images\/([\w-]+)/)[1];
  const { images } = await json(jobPath(id.slice(0, id.lastIndexOf("-"))), { quiet: true });
  return images.find((image) => image.id === id).url;
}

export const downloadUrl = (image) => `${image.url}${image.url.includes("?") ? "&" : "?"}download`;
