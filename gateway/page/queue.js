// What is asked, and when: every photograph once, a few at a time; nothing while the server is
// away or wants a key, and all of the rest once it is back.

import { Failure, classify, readable, ready } from "./server.js";
import { changed, session } from "./session.js";
import { words } from "./words.js";

const AT_ONCE = 3;
const MOST_TRIES = 3; // of one that a server breaks off at
const PROBE = 1500; // between two questions whether the server is back, in milliseconds
const asking = new Map(); // photographs, with what stops them
let heard = { answered() {}, held() {}, back() {} };

export const queue = {
  /** Why nothing is asked at present; null where all is well. */
  held: null,
};

/** What a photograph is asked first; `key` names a question. */
export const FIRST = { heatmap: "grid", resolution: "fine" };
export const key = (query) => new URLSearchParams(query).toString();

/** `answered(photograph)`, `held()` and `back()` are called when that happens. */
export function listen(told) {
  heard = told;
}

/** Ask about what waits. */
export function pump() {
  for (const photograph of session.photographs) {
    if (queue.held || asking.size >= AT_ONCE) return;
    if (photograph.status === "waiting") ask(photograph);
  }
}

async function ask(photograph) {
  const stop = new AbortController();
  asking.set(photograph, stop);
  const on = (status, more = {}) => {
    Object.assign(photograph, { status, ...more });
    changed(photograph);
  };
  on("sending", { sent: 0, problem: null });
  const sent = (share) => on(share < 1 ? "sending" : "reading", { sent: share });
  try {
    const found = await classify(photograph.blob, FIRST, { sent, signal: stop.signal });
    photograph.explained.set(key(FIRST), found);
    on("answered", { answer: found.reading });
    heard.answered(photograph);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.kind === "stopped") return;
    const problem = await final(photograph, failure);
    if (problem) on("failed", { problem });
    else {
      on("waiting");
      hold(failure);
    }
  } finally {
    asking.delete(photograph);
  }
  pump();
}

/** What it fails for, if asking again is of no use. */
async function final(photograph, failure) {
  if (failure.kind === "problem") return failure;
  if (!(await readable(photograph.blob))) {
    return new Failure("problem", words.failure.gone(photograph.name), words.failure.goneDetail);
  }
  photograph.tries += failure.status === 502;
  return photograph.tries >= MOST_TRIES ? failure : null;
}

/** Ask nothing more until the server is back, or has its key. Nothing on screen is lost. */
export function hold(failure) {
  if (queue.held) return;
  queue.held = failure;
  heard.held();
  if (failure.kind === "key") return;
  const probe = async () => {
    if (queue.held !== failure) return;
    if (navigator.onLine && await ready()) return go();
    setTimeout(probe, PROBE);
  };
  setTimeout(probe, Math.max(PROBE, 1000 * (failure.after ?? 0)));
}

/** Go on. */
export function go() {
  queue.held = null;
  heard.back();
  pump();
}

/** Ask about nothing any more. */
export function stop() {
  for (const stop of asking.values()) stop.abort();
  queue.held = null;
}
