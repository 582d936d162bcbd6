/**
 * The address: which task's tab is open and which job the stage shows, as `#task=…&job=…`. Back and reload follow it.
 */

const ID = /^[\w-]+$/;

/** `{task, job}` of the address; empty where it says nothing. */
export function address() {
  const given = new URLSearchParams(location.hash.slice(1));
  const [task, job] = ["task", "job"].map((name) => given.get(name) ?? "");
  return { task: ID.test(task) ? task : "", job: ID.test(job) ? job : "" };
}

/**
 * A question: whether `read()` says what it says now. What comes late, for a job that isn't open any more, is dropped.
 */
export function stays(read = () => address().job) {
  const before = read();
  return () => read() === before;
}

/** Writes the address; one entry of the history each, unless `replace` or nothing changed. */
export function goTo({ task, job }, replace = false) {
  const hash = `#${new URLSearchParams({ task, ...(job && { job }) })}`;
  if (hash === location.hash) return;
  if (replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
}
