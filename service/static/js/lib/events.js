/**
 * A job's server-sent events over fetch (EventSource can't send headers): parsing, and reconnecting with Last-Event-ID.
 */

import * as api from "./api.js";

const TERMINAL = new Set(["succeeded", "failed", "canceled"]);
const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 8000;

/** Events of one answer, `{id, type, data}`; comment lines are skipped. */
export async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (buffer + value.replaceAll("\r", "")).split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const event = parseBlock(block);
      if (event) yield event;
    }
  }
}

function parseBlock(block) {
  const event = { id: "", type: "message", data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
    if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
    else if (name === "data") event.data += value;
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}

// A broken body is a TypeError; whose key has expired can enter another.
const passes = (problem) => problem.status === api.UNAUTHORIZED || api.passes(problem);
const isConnectionLoss = (error) => error instanceof TypeError || (error instanceof api.Problem && passes(error));

export const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * Follows a job until its terminal event, across lost connections, and resolves with it as it has ended; with undefined
 * when `signal` aborts.
 *
 * @param onEvent called with each event once, in order
 * @param onConnection called with true and false as the stream opens and breaks
 * Throws the Problem of an answer that a retry can't change (404, 410).
 */
export async function follow(id, { onEvent, onConnection, signal }) {
  let lastId = "";
  let delay = FIRST_DELAY_MS;
  while (!signal.aborted) {
    let asked = 0; // to wait
    try {
      const answer = await api.events(id, lastId, signal);
      if (answer.status === 204) return await api.job(id, { quiet: true });
      onConnection(true);
      for await (const event of parse(answer.body)) {
        lastId = event.id || lastId;
        delay = FIRST_DELAY_MS;
        onEvent(event);
        if (TERMINAL.has(event.type)) return await api.job(id, { quiet: true });
      }
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!isConnectionLoss(error)) throw error;
      asked = 1000 * (error.retryAfter ?? 0);
    }
    onConnection(false);
    await pause(Math.max(delay, asked), signal);
    delay = Math.min(delay * 2, LONGEST_DELAY_MS);
  }
  return undefined;
}
