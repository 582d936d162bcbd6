/**
 * What this browser keeps: the pictures that its jobs started from (the service answers no uploads), drafts with their
 * picture and mask, which jobs are its own, and the prompts that it sent.
 */

import { ofBrowser, ofTab } from "./memory.js";

const DATABASE = "latentd";
const VERSION = 2;
const SOURCES = "sources";
const DRAFTS = "drafts";
const DRAFT = "draft";
const PICTURES_KEPT = 40;
const JOBS_KEPT = 400;
const PROMPTS_KEPT = 40;

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function open() {
  const request = indexedDB.open(DATABASE, VERSION);
  request.onupgradeneeded = () => {
    const { result } = request;
    const has = (name) => result.objectStoreNames.contains(name);
    if (!has(SOURCES)) result.createObjectStore(SOURCES, { keyPath: "id" }).createIndex("at", "at");
    if (!has(DRAFTS)) result.createObjectStore(DRAFTS, { keyPath: "id" });
  };
  return done(request);
}

async function within(name, mode, work) {
  const database = await open();
  try {
    return await work(database.transaction(name, mode).objectStore(name));
  } finally {
    database.close();
  }
}

/** Keeps the picture of a job, mask, depth, and under which ids those of its controls are; forgets the oldest. */
export const keepSource = (id, { image, mask, depth, controls }) =>
  within(SOURCES, "readwrite", async (store) => {
    await done(store.put({ id, file: image, mask, depth, controls, at: Date.now() }));
    const oldestFirst = await done(store.index("at").getAllKeys());
    await Promise.all(oldestFirst.slice(0, -PICTURES_KEPT).map((key) => done(store.delete(key))));
  });

/** `{file, mask, depth, controls}` of a job; undefined if this browser has none, has no more, or lets us keep nothing. */
export const sourceOf = (id) => within(SOURCES, "readonly", (store) => done(store.get(id))).catch(() => undefined);

/** Keeps the picture that is being worked on, and what was drawn over it. */
export const keepDraft = (picture) =>
  within(DRAFTS, "readwrite", (store) => done(picture ? store.put({ id: DRAFT, ...picture }) : store.delete(DRAFT)));

/** `{file, operations}` of the last visit, or undefined. */
export const draft = () => within(DRAFTS, "readonly", (store) => done(store.get(DRAFT))).catch(() => undefined);

// Small things are texts: they must be there at once, and be written while a page is left.

/** A value that was stored; one that isn't JSON of ours counts as none. */
export function stored(name, fallback, memory = ofBrowser) {
  try {
    return JSON.parse(memory.get(`latentd.${name}`)) ?? fallback;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return fallback;
  }
}

export const store = (name, value, memory = ofBrowser) => memory.set(`latentd.${name}`, JSON.stringify(value));

/** The same of this tab alone. */
export const storedInTab = (name, fallback) => stored(name, fallback, ofTab);
export const storeInTab = (name, value) => store(name, value, ofTab);

/** Ids of the jobs that this browser made, newest first. */
export const mine = () => stored("jobs", []);

export const rememberMine = (id) => store("jobs", [id, ...mine().filter((other) => other !== id)].slice(0, JOBS_KEPT));

/** Prompts that were sent, newest first. */
export const prompts = () => stored("prompts", []);

export function rememberPrompt(prompt) {
  if (prompt) store("prompts", [prompt, ...prompts().filter((other) => other !== prompt)].slice(0, PROMPTS_KEPT));
}
