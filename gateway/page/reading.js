// What the server said of one photograph, in words and bars. Every figure is the server's own.

import { $, announce, element, say, style } from "./dom.js";
import { cells, percent, words } from "./words.js";

const bar = (tag, share, classes = "") => style(element(tag, "", classes), { "--share": Math.min(Math.max(share, 0), 1) });

/** Show how far a photograph has come: the stage it is really in. */
export function progress({ status, sent }, held) {
  $("answer").hidden = $("quality").hidden = $("context").hidden = $("receipt").hidden = true;
  $("progress").hidden = status === "failed";
  $("verdict").ariaBusy = "true";
  const sending = status === "sending" && sent < 1;
  $("progress-says").textContent = sending ? words.progress.sending(sent) : words.progress[waiting(status, held)];
  if (sending) $("progress-bar").value = sent;
  else $("progress-bar").removeAttribute("value");
}

function waiting(status, held) {
  if (status !== "waiting") return "reading";
  return held ? (held.kind === "key" ? "key" : "held") : "waiting";
}

export function show(reading) {
  $("progress").hidden = true;
  $("verdict").ariaBusy = "false";
  $("answer").hidden = false;
  showVerdict(reading);
  showShares(reading);
  showQuality(reading.quality, reading.abstain_reasons);
  showContext(reading.abstain ? null : reading.annotation);
  $("model").textContent = words.receipt.model(reading.model.name, reading.model.version);
}

/** The answer; or that there is none, and which class would have come nearest. */
function showVerdict({ abstain, abstain_reasons: doubts, confidence, prediction, probabilities }) {
  const [, [second, chance]] = Object.entries(probabilities).sort(([, one], [, other]) => other - one);
  say("second", abstain ? "" : words.verdict.next(cells[second], chance)); // a near tie is to be seen as one
  const name = cells[prediction];
  $("answer").classList.toggle("unsure", abstain);
  $("kicker").textContent = abstain ? words.verdict.none : words.verdict.likely;
  $("name").textContent = abstain ? words.verdict.unsure : name;
  $("confidence").textContent = abstain ? words.verdict.nearest(name, confidence) : words.verdict.confidence(confidence);
  $("doubts").replaceChildren(...doubts.map(({ detail }) => element("li", detail)));
  $("doubts").hidden = !doubts.length;
  const reasons = doubts.map(({ detail }) => detail).join(" ");
  announce(abstain ? words.verdict.notSure(reasons) : words.verdict.said(name, confidence));
}

function showShares({ abstain, probabilities, prediction }) {
  const classes = Object.keys(probabilities);
  $("shares-title").textContent = abstain ? words.verdict.sharesUnsure : words.verdict.shares(classes.length);
  $("shares").replaceChildren(...classes.map((key) => {
    const row = element("li", "", key === prediction ? "top" : "");
    row.append(element("span", cells[key]), element("b", percent(probabilities[key])), bar("i", probabilities[key]));
    return row;
  }));
}

/** What is to be said against the photograph, but for what was given as a reason already. */
function showQuality(quality, doubts) {
  const given = doubts.map(({ reason }) => reason);
  const remarks = quality.flags.filter(({ flag }) => !given.includes(flag));
  $("flags").replaceChildren(...remarks.map(({ detail }) => element("li", detail)));
  $("quality").hidden = !remarks.length;
}

function showContext(annotation) {
  $("context").hidden = !annotation;
  if (!annotation) return;
  const range = annotation.normal_range;
  for (const id of ["appearance", "function", "significance", "statement"]) $(id).textContent = annotation[id];
  say("range-value", range && words.context.rangeValue(range.low, range.high), "range");
  $("range-unit").textContent = range?.unit ?? "";
  $("range-source").textContent = range ? words.context.source(range.source) : "";
  $("context-source").textContent = words.context.source(annotation.source);
}

/** The time of each real stage: the server's own figures, and what this browser measured. */
export function receipt({ target_ms: target, within_target: within, timing_ms: timing, request_id: request }, times, drawing) {
  const inside = [["read", times.read], ...Object.entries(timing).filter(([stage]) => stage !== "total")];
  const server = inside.filter(([, ms]) => ms !== undefined);
  const known = server.reduce((sum, [, ms]) => sum + ms, 0);
  const outside = [["sending", Math.max(0, times.whole - known)], ["drawing", drawing]];
  const scale = Math.max(target, timing.total);
  const row = ([stage, ms], classes) => {
    const made = element("div", "", classes);
    made.append(element("dt", words.receipt.stages[stage] ?? stage), element("dd", words.receipt.ms(ms)));
    return made;
  };
  const counted = server.filter(([stage]) => stage in timing);
  $("track").replaceChildren(...counted.map(([stage, ms]) => bar("i", ms / scale, stage)), bar("b", target / scale));
  $("timing").replaceChildren(
    ...counted.map((part) => row(part, part[0])),
    row(["total", timing.total], "total"),
    ...[...server.filter(([stage]) => !(stage in timing)), ...outside].map((part) => row(part, "outside")),
  );
  $("within").className = within ? "yes" : "no";
  $("within").textContent = words.receipt[within ? "within" : "over"](target);
  $("request").textContent = words.receipt.request(request);
  $("receipt").hidden = false;
}

/** Offer a person to say what it is: their word wins, and is marked as theirs. */
export function showReader(photograph) {
  const { answer, reader } = photograph;
  const classes = Object.keys(answer?.probabilities ?? {});
  $("reader").replaceChildren(
    new Option(words.reader[answer?.abstain ? "unsaid" : "agree"], ""),
    ...[...classes, "OTHER", "NOT_COUNTED"].map((key) => new Option(cells[key], key)),
  );
  $("reader").value = reader ?? "";
  say("reader-says", reader && words.reader.wins(cells[reader]));
}
