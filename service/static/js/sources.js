/**
 * The pictures that this browser's jobs started from, kept in IndexedDB: the service answers no uploads, and
 * "before and after" should survive a reload. Also which jobs are this browser's.
 */

const DATABASE = "latentd";
const STORE = "sources";
const MINE = "latentd.jobs";
const PICTURES_KEPT = 40;
const JOBS_KEPT = 400;

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" }).createIndex("at", "at");
  return done(request);
}

/** Keeps the picture of a job and forgets the oldest. */
export async function keepSource(id, file) {
  const database = await open();
  const store = database.transaction(STORE, "readwrite").objectStore(STORE);
  await done(store.put({ id, file, at: Date.now() }));
  const oldestFirst = await done(store.index("at").getAllKeys());
  await Promise.all(oldestFirst.slice(0, -PICTURES_KEPT).map((key) => done(store.delete(key))));
  database.close();
}

/** The File that a job started from, or undefined if this browser has none, has no more, or lets us keep nothing. */
export async function sourceOf(id) {
  const database = await open().catch(() => undefined);
  if (!database) return undefined;
  const found = await done(database.transaction(STORE).objectStore(STORE).get(id));
  database.close();
  return found?.file;
}

/** Ids of the jobs that this browser made, newest first. */
export const mine = () => JSON.parse(localStorage.getItem(MINE) ?? "[]");

export function rememberMine(id) {
  localStorage.setItem(MINE, JSON.stringify([id, ...mine().filter((other) => other !== id)].slice(0, JOBS_KEPT)));
}
