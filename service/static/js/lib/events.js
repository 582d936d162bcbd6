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

// A broken body is a TypeError; no answer is status 0; without Redis the gateway answers 503.
const isConnectionLoss = (error) =>
  error instanceof TypeError || (error instanceof api.Problem && (error.status === 0 || error.status >= 500));

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * Follows a job until its terminal event, across lost connections, and resolves then (or when `signal` aborts).
 *
 * @param onEvent called with each event once, in order
 * @param onConnection called with true and false as the stream opens and breaks
 * Throws the Problem of an answer that a retry can't change (404, 410).
 */
export async function follow(id, { onEvent, onConnection, signal }) {
  let lastId = "";
  let delay = FIRST_DELAY_MS;
  while (!signal.aborted) {
    try {
      const answer = await api.events(id, lastId, signal);
      if (answer.status === 204) return;
      onConnection(true);
      for await (const event of parse(answer.body)) {
        lastId = event.id || lastId;
        delay = FIRST_DELAY_MS;
        onEvent(event);
        if (TERMINAL.has(event.type)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!isConnectionLoss(error)) throw error;
    }
    onConnection(false);
    await pause(delay, signal);
    delay = Math.min(delay * 2, LONGEST_DELAY_MS);
  }
}
