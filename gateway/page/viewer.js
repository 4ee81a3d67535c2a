// The photograph with its heat map: over it, beside it, wiped; zoomed and moved.

import { $, style } from "./dom.js";
import * as heat from "./heat.js";
import { cells, words } from "./words.js";

const MOST_ZOOM = 12;
const MOST_PIXELS = 900; // of the longer side: the map is smooth, more shows nothing
const tools = $("tools").elements;
const place = { zoom: 1, x: 0, y: 0 };
let shown = null; // the heat map on screen, as the server sent it
let asked = () => {};
let saved = () => {};

/** `ask(query)` is called where another map is wanted, `savers` where it is to be saved. */
export function listen(ask, savers) {
  [asked, saved] = [ask, savers];
  $("tools").addEventListener("input", ({ target }) => {
    if (["resolution", "explain"].includes(target.name)) asked(query());
    else arrange();
  });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("save-overlay").addEventListener("click", () => saved.overlay({ ...query(), colormap: tools.colormap.value, alpha: tools.opacity.value / 100 }));
  $("save-json").addEventListener("click", () => saved.json());
  $("photo").addEventListener("load", sized);
  $("photo").addEventListener("error", () => preview(false));
  listenToZoom();
}

export function query() {
  const explain = tools.explain.value;
  return { resolution: tools.resolution.value, ...(explain && { explain }) };
}

/** Show a photograph, without any map yet. */
export function show(photograph) {
  shown = null;
  $("heat").hidden = $("tools").hidden = true;
  preview(true);
  $("photo").src = $("under").src = photograph.picture ?? photograph.url;
  $("photo").alt = words.viewer.photoAlt(photograph.name);
  $("photo-name").textContent = photograph.name;
  $("photo-facts").textContent = "";
  zoomTo(1);
  arrange();
}

/** Show what the server made of a photograph that the browser cannot show. */
export function showPicture(address) {
  preview(true);
  $("photo").src = $("under").src = address;
}

/** Whether the browser can show the photograph; what the maps are drawn with is there then, too. */
export async function visible() {
  await heat.load();
  return $("photo").decode().then(() => true, () => false);
}

/** Lay the heat map of a reading over the photograph, and return how long that took, in ms. */
export function lay({ heatmap, prediction, probabilities, quality }) {
  const started = performance.now();
  shown = heatmap;
  const name = cells[heatmap.explained_class];
  offer(Object.keys(probabilities), prediction, heatmap);
  $("photo-facts").textContent = words.viewer.facts(quality);
  $("stage").dataset.resolution = heatmap.resolution;
  $("heat").ariaLabel = words.viewer.alt(name);
  $("heat-says").textContent = heatmap.flat
    ? words.viewer.flat(name)
    : words.viewer[heatmap.explained_class === prediction ? "speaks" : "speaksNot"](name, heatmap.method);
  $("tools").hidden = false;
  arrange(quality);
  return performance.now() - started;
}

function offer(classes, prediction, { explained_class: explained, resolution }) {
  tools.explain.replaceChildren(
    new Option(words.viewer.prediction(cells[prediction]), ""),
    ...classes.filter((key) => key !== prediction).map((key) => new Option(words.viewer.whyNot(cells[key]), key)),
  );
  tools.explain.value = explained === prediction ? "" : explained;
  tools.resolution.value = resolution;
}

let drawn = null;

/** Draw what the tools say. */
function arrange(size = null) {
  const { mode, opacity, wipe, colormap } = tools;
  $("stage").dataset.mode = shown ? mode.value : "over";
  $("wipe-label").hidden = mode.value !== "wipe";
  style($("stage"), { "--opacity": opacity.value / 100, "--wipe": wipe.value / 100 });
  $("opacity-value").textContent = words.viewer.percent(opacity.value);
  $("wipe-value").textContent = words.viewer.percent(wipe.value);
  $("heat").hidden = !shown || mode.value === "plain";
  if (!shown) return;
  if (drawn?.map !== shown || drawn.colormap !== colormap.value) {
    const { width, height } = size ?? { width: drawn.width, height: drawn.height };
    const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
    heat.draw($("heat"), shown, colormap.value, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    heat.legend($("legend"), colormap.value);
    drawn = { map: shown, colormap: colormap.value, width, height };
  }
}

function preview(works) {
  $("no-preview").hidden = works;
  for (const id of ["photo", "under"]) $(id).hidden = !works;
}

function sized() {
  style($("stage"), { "--ratio": $("photo").naturalWidth / $("photo").naturalHeight });
}

// ---- zoom and pan, the same for both panes

function listenToZoom() {
  const stage = $("stage");
  $("zoom-in").addEventListener("click", () => zoomTo(place.zoom * 1.5));
  $("zoom-out").addEventListener("click", () => zoomTo(place.zoom / 1.5));
  $("zoom-fit").addEventListener("click", () => zoomTo(1));
  const keys = {
    "+": () => zoomTo(place.zoom * 1.5), "=": () => zoomTo(place.zoom * 1.5), "-": () => zoomTo(place.zoom / 1.5),
    0: () => zoomTo(1), ArrowLeft: () => move(0.1, 0), ArrowRight: () => move(-0.1, 0),
    ArrowUp: () => move(0, 0.1), ArrowDown: () => move(0, -0.1),
  };
  stage.addEventListener("keydown", (event) => {
    if (event.target !== stage || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && place.zoom === 1) return; // the page scrolls; a pinch comes as ctrl
    event.preventDefault();
    zoomTo(place.zoom * Math.exp(-event.deltaY / 300), at(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => zoomTo(place.zoom > 1 ? 1 : 3, at(event)));
  drag(stage);
}

/** Where a pointer is, in shares of the pane, from its middle. */
function at({ target, clientX, clientY }) {
  const box = (target.closest(".pane") ?? $("heated")).getBoundingClientRect();
  return [(clientX - box.x) / box.width - 0.5, (clientY - box.y) / box.height - 0.5];
}

/** Zoom, keeping the given point where it is. */
function zoomTo(zoom, [x, y] = [0, 0]) {
  const next = Math.min(MOST_ZOOM, Math.max(1, zoom));
  place.x = x - (x - place.x) * (next / place.zoom);
  place.y = y - (y - place.y) * (next / place.zoom);
  place.zoom = next;
  move(0, 0);
}

function move(x, y) {
  const far = (place.zoom - 1) / 2; // the picture's edge stays outside the pane
  place.x = Math.min(far, Math.max(-far, place.x + x));
  place.y = Math.min(far, Math.max(-far, place.y + y));
  style($("stage"), { "--zoom": place.zoom, "--x": place.x, "--y": place.y });
  $("stage").classList.toggle("near", place.zoom > 1);
  $("zoom-level").textContent = words.viewer.level(place.zoom);
}

function drag(stage) {
  const fingers = new Map();
  const spread = () => {
    const [one, other] = [...fingers.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  };
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    if (place.zoom > 1 || fingers.size > 1) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const apart = fingers.size === 2 && spread();
    fingers.set(event.pointerId, event);
    if (apart) return zoomTo(place.zoom * (spread() / apart));
    const box = $("heated").getBoundingClientRect();
    if (place.zoom > 1) move((event.clientX - before.clientX) / box.width, (event.clientY - before.clientY) / box.height);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    stage.addEventListener(end, ({ pointerId }) => fingers.delete(pointerId));
  }
}
