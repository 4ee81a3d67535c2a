// Asking the server. Every failure is a Failure, with words for the person in front of the page.

import { words } from "./words.js";

const PATIENCE = 60_000;

export class Failure extends Error {
  /** kind: away (worth asking again by itself), key, stopped, or problem. */
  constructor(kind, title, detail, { request, status, after, said } = {}) {
    super(detail);
    Object.assign(this, { kind, title, detail, request, status, after, said });
  }
}

/** Send a photograph, and return the reading with what was measured of it, in milliseconds. */
export async function classify(blob, query, { sent, signal } = {}) {
  const started = performance.now();
  const reply = await send("POST", `/v1/classify?${new URLSearchParams(query)}`, blob, {
    type: kind(blob), sent, signal,
  });
  const whole = performance.now() - started;
  const reading = read(reply);
  if (!reading?.probabilities) throw unknown();
  return { reading, times: { ...timing(reply.getResponseHeader("Server-Timing")), whole } };
}

// what is no picture by its name may be one by its content, which the server judges
const kind = ({ type }) => (type.startsWith("image/") ? type : "application/octet-stream");

/** The overlay as the server draws it. */
export async function overlay(blob, query) {
  return (await send("POST", `/v1/heatmap?${new URLSearchParams(query)}`, blob, { type: kind(blob), reply: "blob" })).response;
}

/** Have a series counted anew from its answers, in the given media type. */
export async function recount(body, query = {}, accept = "application/json") {
  const reply = await send("POST", `/v1/differential?${new URLSearchParams(query)}`, JSON.stringify(body), { type: "application/json", accept });
  return accept === "application/json" ? read(reply) : reply.responseText;
}

/** Whether a file can still be read: it may have gone from the disk since it was chosen. */
export async function readable(blob) {
  try {
    await blob.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

/** Whether the server would answer a photograph now. */
export async function ready() {
  try {
    return (await fetch("/readyz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

export function useKey(key) {
  sessionStorage.setItem("key", key);
}

// fetch tells nothing of how much has been sent
function send(method, address, body, { type, accept, reply = "text", sent = () => {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const gone = () => reject(navigator.onLine
      ? new Failure("away", words.failure.away, words.failure.awayDetail)
      : new Failure("away", words.failure.offline, words.failure.offlineDetail));
    request.open(method, address);
    request.responseType = reply;
    request.timeout = PATIENCE;
    const key = sessionStorage.getItem("key");
    const headers = { ...(type && { "Content-Type": type }), ...(accept && { Accept: accept }), ...(key && { Authorization: `Bearer ${key}` }) };
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 1);
    request.upload.onload = () => sent(1);
    request.onerror = gone;
    request.ontimeout = () => reject(new Failure("problem", words.failure.slow, words.failure.slowDetail));
    request.onabort = () => reject(new Failure("stopped", "", ""));
    request.onload = async () => {
      if (request.status < 300) resolve(request);
      else reject(refused(request, reply === "blob" ? await request.response.text() : request.responseText, key));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** What an error reply says: RFC 9457 problem details, or else its status. */
function refused(request, body, key) {
  let said = {};
  try {
    said = JSON.parse(body) ?? {};
  } catch { /* a proxy's page, say */ }
  const { status } = request;
  const detail = said.detail || words.failure.unexplained(status);
  const more = { status, said, request: said.request_id, after: Number(request.getResponseHeader("Retry-After")) || 0 };
  if (status === 401) {
    if (sessionStorage.getItem("key") === key) sessionStorage.removeItem("key"); // another may be newer
    return new Failure("key", words.key.title, key ? words.key.refused : words.key.needed, more);
  }
  if (status === 429) return new Failure("away", words.failure.busy, detail, more);
  if ([502, 503, 504].includes(status)) {
    return new Failure("away", said.title || words.failure.unready, words.failure.unreadyDetail(detail), more);
  }
  return new Failure("problem", said.title || words.failure.unread, detail, more);
}

function read(reply) {
  try {
    return JSON.parse(reply.responseText);
  } catch {
    throw unknown();
  }
}

function unknown() {
  return new Failure("problem", words.failure.broken, words.failure.brokenDetail);
}

/** `read;dur=1.2, wait;dur=0` -> {read: 1.2, wait: 0} */
function timing(header) {
  const parts = (header ?? "").split(",").map((part) => part.trim().split(";dur="));
  return Object.fromEntries(parts.filter(([, value]) => value).map(([name, value]) => [name, Number(value)]));
}
