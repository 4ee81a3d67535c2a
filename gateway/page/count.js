// The differential count of the session, made by the server from the answers, anew with each of them.

import { $, element, save, style } from "./dom.js";
import { recount } from "./server.js";
import { changed, session } from "./session.js";
import { cells, percent, words } from "./words.js";

const SAVES = ["save-count", "save-fhir", "open-sheet"];
const PAUSE = 400; // between two counts while answers come in, in milliseconds
let counted = null; // the last report
let waiting = null;
let running = false;
let sessions = 0; // so far: an answer about an earlier one is let go
let failed = () => {};

/** `tell` is called with what keeps a count from being made or saved. */
export function listen(tell) {
  failed = tell;
  const { sex } = $("blood").elements;
  sex.append(...Object.entries(words.count.sexes).map(([value, said]) => new Option(said, value)));
  $("blood").addEventListener("change", update);
  $("blood").addEventListener("submit", (event) => event.preventDefault());
  $("save-count").addEventListener("click", () => save(new Blob([JSON.stringify(counted, null, 2)], { type: "application/json" }), "differential.json"));
  $("save-fhir").addEventListener("click", () => download("application/fhir+json", "differential.fhir.json"));
  $("open-sheet").addEventListener("click", () => download("text/html", "differential.html"));
}

/** Let go of what was counted. */
export function forget() {
  sessions += 1;
  clearTimeout(waiting);
  waiting = null;
  show(null);
}

/** Count again, soon: answers come in faster than anybody reads. One cell is no count. */
export function update() {
  if (waiting === null && session.photographs.length > 1) waiting = setTimeout(count, PAUSE);
}

async function count() {
  waiting = null;
  if (running) return update();
  const body = answers(), mine = sessions;
  if (!body.photographs.some(({ prediction }) => prediction)) return show(null);
  running = true;
  try {
    const report = await recount(body, blood());
    if (mine === sessions) show(report);
  } catch (failure) {
    if (mine === sessions) unmade(failure);
  } finally {
    running = false;
  }
}

function unmade(failure) {
  show(null);
  $("count-says").textContent = failure.kind === "problem" ? failure.detail : words.count.away;
  if (failure.kind === "key") failed(failure);
  else if (failure.kind !== "problem") setTimeout(update, 5 * PAUSE);
}

async function download(type, name) {
  try {
    save(new Blob([await recount(answers(), blood(), type)], { type }), name);
  } catch (failure) {
    failed(failure);
  }
}

/** Whose blood it is, as far as that was said and makes sense. */
function blood() {
  const { age, sex } = $("blood").elements;
  return { ...(age.value && age.validity.valid && { age: age.value }), ...(sex.value && { sex: sex.value }) };
}

/** The session as the server takes it back. */
function answers() {
  const answered = session.photographs.filter(({ answer }) => answer);
  const refused = session.photographs.filter(({ problem }) => problem?.said?.type);
  return {
    ...(answered.length && { model: answered.at(-1).answer.model }),
    photographs: [
      ...answered.map(({ answer, name, number }) => ({
        number,
        name,
        prediction: answer.prediction,
        confidence: answer.confidence,
        probabilities: answer.probabilities,
        fingerprint: answer.fingerprint,
        abstain_reasons: answer.abstain_reasons,
      })),
      ...refused.map(({ name, number, problem }) => ({ number, name, problem: problem.said })),
    ].sort((one, other) => one.number - other.number),
    readers: answered.filter(({ reader }) => reader).map(({ number, reader }) => ({ number, reader })),
  };
}

function show(report) {
  counted = report;
  for (const id of ["count-table", "count-legend", "blood", ...SAVES]) $(id).hidden = !report;
  $("count-warnings").replaceChildren();
  if (!report) {
    $("count-says").textContent = words.count.none;
    return;
  }
  mark(report.photographs);
  const { shares, totals, unclassified, other, warnings } = report;
  const unread = session.photographs.filter(({ status }) => status === "failed").length;
  const open = session.photographs.filter((photograph) => photograph.open).length;
  for (const id of SAVES) $(id).disabled = open > 0; // half a series is no report
  $("count-says").textContent = words.count.says(totals.cells, unclassified.count, unread, open);
  const rest = [["unclassified", unclassified], ["other", other]].filter(([, part]) => part.count);
  $("count-ranges").textContent = words.count.ranges(report.ranges);
  $("count-rows").replaceChildren(
    ...shares.map((share) => row(cells[share.class], share, open ? words.count.later : finding(share))),
    ...rest.map(([key, part]) => row(words.count[key], part, "")),
  );
  $("count-warnings").replaceChildren(...warnings.map(({ detail }) => element("li", detail)));
}

/** What the server found to be the same photograph twice. */
function mark(entries) {
  const same = new Map(entries.filter((entry) => entry.duplicate_of).map((entry) => [entry.number, entry.duplicate_of]));
  const numbered = new Map(session.photographs.map((photograph) => [photograph.number, photograph]));
  for (const photograph of session.photographs) {
    const twin = numbered.get(same.get(photograph.number)) ?? null;
    if (twin === photograph.same) continue;
    photograph.same = twin;
    changed(photograph);
  }
}

function finding({ finding: found, in_words: said }) {
  return words.count.marks[found] + said;
}

function row(name, part, said) {
  const made = element("tr");
  const head = Object.assign(element("th", name), { scope: "row" });
  const drawn = element("td", "", "wide");
  drawn.append(picture(part), element("span", words.count.interval(part.limits.low, part.limits.high), "small quiet"));
  made.append(head, element("td", String(part.count)), element("td", percent(part.percent / 100)), drawn, element("td", said));
  return made;
}

/** The limits as a bar, the share as a mark on it, over the normal range. */
function picture({ limits, normal_range: range, percent: share, widest }) {
  const made = element("span", "", "interval");
  const part = (classes, low, high) => style(element("i", "", classes), { "--low": low / 100, "--high": high / 100 });
  if (range) made.append(part("range", range.low, range.high));
  if (widest) made.append(part("widest", widest.low, widest.high));
  made.append(part("limits", limits.low, limits.high), part("share", share, share));
  return made;
}
