// HemaVision's page: photographs in, the server's readings out. The wiring of its parts.

import * as camera from "./camera.js";
import * as count from "./count.js";
import { $, announce, save, say } from "./dom.js";
import * as intake from "./intake.js";
import * as particles from "./particles.js";
import { FIRST, go, hold, key, listen, pump, queue, stop } from "./queue.js";
import * as reading from "./reading.js";
import * as series from "./series.js";
import { Failure, classify, overlay, useKey } from "./server.js";
import { add, changed, forget, look, session } from "./session.js";
import * as viewer from "./viewer.js";
import { speak, words } from "./words.js";

// ---- what was given

function take(photographs, remarks = []) {
  remark = remarks.length ? new Failure("remark", remarks.map(([title]) => title).join(" "), remarks[0][1]) : null;
  add(photographs);
  if (photographs.length === 1) look(photographs[0]);
  else if (photographs.length) gallery();
  else changed();
  pump();
}

// ---- the views

function gallery() {
  session.current = null;
  changed();
}

/** Leave a photograph for its place among the others; the browser's Back does the same. */
function toGrid() {
  if (history.state?.one) history.back();
  else leave();
}

function leave() {
  const left = session.current;
  gallery();
  if (left) series.focus(left);
}

function render({ detail: photograph }) {
  const { current, photographs } = session;
  const view = !photographs.length ? "empty" : current ? "one" : "series";
  if (document.body.dataset.view !== view) {
    if (view === "one" && photographs.length > 1 && !history.state?.one) history.pushState({ one: true }, "");
    document.body.dataset.view = view;
    scrollTo({ top: 0 });
  }
  for (const id of ["one", "series"]) $(id).hidden = view !== id;
  showTabs(view, photographs.length);
  showNotice();
  if (photograph) series.update(photograph);
  else series.show();
  if (view === "one" && (!photograph || photograph === current)) one(current);
}

function showTabs(view, photographs) {
  $("tabs").hidden = view === "empty";
  $("to-series").textContent = words.tabs.series(photographs);
  $("to-series").hidden = photographs < 2;
  for (const [id, shows] of [["to-series", "series"], ["to-one", "one"]]) {
    if (view === shows) $(id).setAttribute("aria-current", "true");
    else $(id).removeAttribute("aria-current");
  }
  for (const id of ["previous", "next"]) $(id).hidden = view !== "one" || photographs < 2;
}

let looked = null; // the photograph whose picture is on screen
let shown = null; // the answer that is drawn over it
let questions = 0; // so that only the newest is answered on screen

/** Show one photograph, as far as it has come. */
function one(photograph) {
  if (looked !== photograph) {
    looked = photograph;
    shown = null;
    questions += 1;
    viewer.show(photograph);
  }
  $("verdict").hidden = photograph.status === "failed";
  if (photograph.status === "failed") $("context").hidden = $("receipt").hidden = true;
  else if (photograph.open) reading.progress(photograph, queue.held);
  else if (shown) reading.showReader(photograph);
  else explain(FIRST);
}

/** Show the answer to the photograph that is looked at, with the heat map asked for. */
async function explain(wanted) {
  const photograph = session.current, mine = ++questions;
  const newest = () => mine === questions && photograph === session.current;
  try {
    const found = photograph.explained.get(key(wanted)) ?? await classify(photograph.blob, wanted);
    photograph.explained.set(key(wanted), found);
    const visible = await viewer.visible();
    if (!visible && newest()) await picture(photograph);
    if (newest()) draw(photograph, found);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (newest()) trouble(failure);
  }
}

/** Have the server make a picture of what the browser cannot show. */
async function picture(photograph) {
  if (!photograph.picture) {
    const made = await overlay(photograph.blob, { alpha: 0, format: "jpeg" });
    photograph.picture = URL.createObjectURL(made);
  }
  if (photograph === session.current) viewer.showPicture(photograph.picture);
}

function draw(photograph, found) {
  shown = found;
  reading.show(found.reading);
  reading.receipt(found.reading, found.times, viewer.lay(found.reading));
  reading.showReader(photograph);
}

// ---- failures, told kindly

let remark = null; // what was said last, until it is closed

/** What failed for the moment is tried again when the server is back; the rest is said. */
function trouble(failure) {
  if (failure.kind !== "problem") return hold(failure);
  remark = failure;
  showNotice();
}

/** Something could not be saved: nothing does that again by itself. */
function unsaved(failure) {
  if (failure.kind === "key") return hold(failure);
  remark = new Failure("remark", words.failure.unsaved, failure.said?.detail ?? failure.title);
  showNotice();
}

/** One notice: that the server is away, or why this photograph failed, or what else is to be said. */
function showNotice() {
  const away = queue.held && queue.held.kind !== "key" ? queue.held : null;
  const failed = session.current?.status === "failed" ? session.current.problem : null;
  const told = away ?? failed ?? remark;
  $("notice").hidden = !told;
  if (!told) return;
  const { kind, title, detail, request, status } = told;
  if ($("notice-title").textContent !== title) $("notice-title").textContent = title;
  say("notice-detail", detail);
  say("notice-request", request && words.failure.request(request));
  $("notice").className = `note ${{ away: "warn", problem: "bad" }[kind] ?? ""}`;
  $("retry").hidden = told !== failed || (status < 500 && status !== 408);
  $("dismiss").hidden = told !== remark;
}

function held() {
  showNotice();
  if (queue.held.kind !== "key") return;
  $("key-detail").textContent = queue.held.detail;
  $("key").value = "";
  $("key-form").hidden = false;
  announce(`${words.key.title}. ${queue.held.detail}`);
  $("key").focus();
}

function back() {
  $("key-form").hidden = true;
  showNotice();
  announce(words.failure.back);
  count.update();
  if (session.current?.status === "answered") explain({ heatmap: "grid", ...viewer.query() });
}

function answered() {
  count.update();
  const { photographs } = session;
  if (photographs.length > 1 && !photographs.some(({ open }) => open)) announce(words.series.done(photographs.length));
}

// ---- wiring

const stem = () => session.current.name.replace(/\.\w+$/, "");

speak();
listen({ answered, held, back });
intake.listen(take);
camera.listen(take);
series.listen();
count.listen(unsaved);
particles.start();
viewer.listen((query) => explain({ heatmap: "grid", ...query }), {
  json: () => save(new Blob([JSON.stringify(shown.reading, null, 2)], { type: "application/json" }), `${stem()}.json`),
  overlay: async (query) => {
    const name = `${stem()}-heatmap.png`;
    try {
      save(await overlay(session.current.blob, { ...query, format: "png" }), name);
    } catch (failure) {
      unsaved(failure);
    }
  },
});

session.addEventListener("change", render);
$("to-series").addEventListener("click", toGrid);
addEventListener("keydown", ({ key: pressed, target }) => {
  if (pressed === "Escape" && !$("to-series").hidden && session.current && !target.closest("dialog, select, input")) toGrid();
});
$("to-one").addEventListener("click", () => look(session.photographs.includes(looked) ? looked : session.photographs[0]));
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  $(id).addEventListener("click", () => {
    const { current, photographs } = session;
    look(photographs.at((photographs.indexOf(current) + step) % photographs.length));
  });
}
$("clear").addEventListener("click", () => {
  if (!confirm(words.tabs.sure)) return;
  stop();
  looked = shown = remark = null;
  questions += 1;
  $("key-form").hidden = true;
  $("model").textContent = "";
  for (const id of ["filters", "blood"]) $(id).reset();
  forget();
  count.forget();
});
$("reader").addEventListener("change", ({ target }) => {
  session.current.reader = target.value || null;
  changed(session.current);
  count.update();
});
$("grid").addEventListener("change", count.update);
$("retry").addEventListener("click", () => {
  Object.assign(session.current, { status: "waiting", problem: null, tries: 0 });
  changed(session.current);
  pump();
});
$("dismiss").addEventListener("click", () => {
  remark = null;
  showNotice();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  go();
});
const theme = () => { $("theme").textContent = words.theme[document.documentElement.dataset.theme]; };
$("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  theme();
});
theme();
addEventListener("popstate", () => {
  if (session.current && session.photographs.length > 1) leave();
});
addEventListener("beforeunload", (event) => {
  if (session.photographs.length > 1) event.preventDefault(); // a series is hours of somebody's work
});
