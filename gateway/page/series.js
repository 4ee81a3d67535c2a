// All photographs of the session as a grid: labels, filters, and a person's corrections.

import { $, element } from "./dom.js";
import { changed, look, session } from "./session.js";
import { cells, percent, words } from "./words.js";

const GLYPHS = { EOSINOPHIL: "E", LYMPHOCYTE: "L", MONOCYTE: "M", NEUTROPHIL: "N", OTHER: "O", NOT_COUNTED: "×" };
const KNOWN = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"];
const tiles = new Map(); // of photographs
const certainties = {
  any: () => true,
  unsure: ({ answer }) => answer?.abstain === true,
  below: ({ answer }) => answer && !answer.abstain && answer.confidence < 0.9,
  above: ({ answer }) => answer && !answer.abstain && answer.confidence >= 0.9,
  corrected: ({ reader }) => reader !== null,
  failed: ({ status }) => status === "failed",
};

export function listen() {
  $("by-class").append(...[...KNOWN, ""].map((key) => {
    const label = element("label");
    const box = Object.assign(element("input"), { type: "checkbox", name: "class", value: key, checked: true });
    label.append(box, element("span", key ? cells[key] : words.verdict.unsure));
    return label;
  }));
  $("filters").addEventListener("input", sift);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}

/** Bring the grid up to what the session holds. */
export function show() {
  const there = new Set(session.photographs);
  for (const [photograph, tile] of tiles) {
    if (!there.has(photograph)) {
      tile.remove();
      tiles.delete(photograph);
    }
  }
  for (const photograph of session.photographs) {
    if (!tiles.has(photograph)) tiles.set(photograph, make(photograph));
  }
  $("grid").append(...[...tiles.values()].filter((tile) => !tile.isConnected));
  for (const photograph of tiles.keys()) refresh(photograph);
  sift();
}

/** Go to the tile of a photograph. */
export function focus(photograph) {
  tiles.get(photograph)?.querySelector(".picture").focus();
}

/** Bring one tile up to date. */
export function update(photograph) {
  refresh(photograph);
  sift();
}

function make(photograph) {
  const tile = element("li", "", "tile");
  const opener = Object.assign(element("button", "", "picture"), { type: "button" });
  const picture = Object.assign(element("img"), { src: photograph.url, alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith(element("span", photograph.name, "blind")));
  opener.append(picture, element("b", "", "badge"));
  opener.addEventListener("click", () => {
    look(photograph);
    $("stage").focus({ preventScroll: true });
  });
  const choice = element("select");
  choice.ariaLabel = `${words.reader.label}: ${photograph.name}`;
  choice.append(new Option(words.reader.agree, ""), ...Object.keys(GLYPHS).map((key) => new Option(cells[key], key)));
  choice.addEventListener("change", () => {
    photograph.reader = choice.value || null;
    changed(photograph);
  });
  tile.append(opener, element("p", "", "label"), element("p", photograph.name, "name quiet"), choice);
  return tile;
}

function refresh(photograph) {
  const tile = tiles.get(photograph);
  if (!tile) return;
  const { label, reader, status } = photograph;
  tile.className = `tile ${status}${reader ? " read" : ""}${photograph.answer?.abstain && !reader ? " unsure" : ""}`;
  tile.dataset.label = label ?? "";
  tile.querySelector(".badge").textContent = badge(photograph);
  tile.querySelector(".label").textContent = describe(photograph);
  tile.querySelector(".picture").ariaLabel = `${words.series.open(photograph.name)}: ${describe(photograph)}`;
  const choice = tile.querySelector("select");
  choice.value = reader ?? "";
  choice.options[0].text = words.reader[photograph.answer && !photograph.answer.abstain ? "agree" : "unsaid"];
  choice.hidden = photograph.open || status === "failed";
}

function badge({ label, open, status, answer }) {
  if (open) return "…";
  if (status === "failed") return "!";
  return label ? GLYPHS[label] : answer ? "?" : "!";
}

function describe(photograph) {
  const { answer, label, problem, reader, same, status } = photograph;
  if (photograph.open) return words.progress.short[status];
  if (status === "failed") return problem?.title ?? words.series.failedLabel;
  if (same) return words.series.duplicate(same.name);
  if (reader) return `${cells[reader]}, ${words.reader.mark.toLowerCase()}`;
  return label ? `${cells[label]}, ${percent(answer.confidence)}` : words.verdict.unsure;
}

let sifting = null;

/** Show the tiles that the filters let through; once a frame, however much has changed. */
function sift() {
  sifting ??= requestAnimationFrame(siftNow);
}

function siftNow() {
  sifting = null;
  const { certainty } = $("filters").elements;
  const wanted = new Set([...$("by-class").querySelectorAll(":checked")].map(({ value }) => value));
  let shown = 0;
  for (const [photograph, tile] of tiles) {
    const label = KNOWN.includes(photograph.label) ? photograph.label : "";
    const passes = photograph.open || (wanted.has(label) && certainties[certainty.value](photograph));
    tile.hidden = !passes;
    shown += passes;
  }
  const open = session.photographs.filter((photograph) => photograph.open).length;
  $("series-says").textContent = words.series.says(shown, session.photographs.length, open);
}
