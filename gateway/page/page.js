// HemaVision's page: one photograph in, the server's reading out.
// Whatever the server sends is set as text; every figure of the reading is the server's own.

const $ = (id) => document.getElementById(id);
const options = $("options").elements;
let photo = null; // { blob, name, url } of the photograph on screen
let query = {}; // what the server was last asked for
let shown = null; // the query that the reading on screen answers
let asking = null; // AbortController of the request under way
let overlayUrl = null;

const number = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: 1 });
const title = (key) => key.charAt(0).toUpperCase() + key.slice(1).toLowerCase().replaceAll("_", " ");

/** A share as a percentage that never rounds up to certainty or down to nothing. */
function percent(share) {
  if (share < 1 && share >= 0.9995) return "> 99.9%";
  if (share > 0 && share < 0.0005) return "< 0.1%";
  return `${(share * 100).toFixed(1)}%`;
}

function element(tag, textContent = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent, className });
}

// CSSOM, not a style attribute: the content security policy allows only this.
function bar(tag, share, classes = "") {
  const made = element(tag, "", classes);
  made.style.setProperty("--share", Math.min(Math.max(share, 0), 1));
  return made;
}

/** Sets an element's text, and hides it (or the given parent) where there is none. */
function say(id, text, parent = id) {
  $(id).textContent = text ?? "";
  $(parent).hidden = text == null || text === "";
}

// ---- taking a photograph

async function take(files) {
  const file = files[0];
  if (!file) return;
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    say("file-name", `“${file.name}” could not be read. Choose the photograph itself, not a folder.`);
    $("live").textContent = $("file-name").textContent;
    return;
  }
  if (photo) URL.revokeObjectURL(photo.url);
  const blob = new Blob([bytes], { type: file.type });
  photo = { blob, name: file.name || "photograph", url: URL.createObjectURL(blob) };
  query = { resolution: query.resolution, colormap: query.colormap };
  clearReading();
  $("original").hidden = false;
  $("no-preview").hidden = true;
  $("original").src = photo.url;
  say("file-name", files.length > 1 ? `${photo.name} (one at a time: the first was taken)` : photo.name);
  $("choose").textContent = "Choose another";
  ask();
}

$("original").addEventListener("load", ({ target }) => {
  for (const frame of document.querySelectorAll(".frame")) {
    frame.style.aspectRatio = target.naturalWidth / target.naturalHeight;
  }
});
$("original").addEventListener("error", () => {
  $("original").hidden = true;
  $("no-preview").hidden = false;
});

$("file").addEventListener("change", async ({ target }) => {
  await take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
$("intake").addEventListener("click", ({ target }) => {
  if (!target.closest("label, input")) $("file").click();
});
addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("intake").classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) $("intake").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault(); // a missed drop must not replace the page
  $("intake").classList.remove("over");
  take([...event.dataTransfer.files]);
});

// ---- asking the server

async function ask() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const timer = setTimeout(() => mine.abort(), 30_000);
  let answered = false;

  $("error").hidden = $("key-form").hidden = true;
  $("reading").setAttribute("aria-busy", "true");
  if (!shown) document.body.dataset.state = "asking";
  $("live").textContent = "Reading the photograph…";

  let failure;
  const failed = (title, detail) => { failure = { title, detail, retry: true }; };
  try {
    const wanted = Object.entries({ ...query, heatmap: "overlay" }).filter(([, value]) => value);
    const response = await fetch(`/v1/classify?${new URLSearchParams(wanted)}`, {
      method: "POST",
      headers: { "Content-Type": photo.blob.type || "application/octet-stream", ...keyHeader() },
      body: photo.blob,
      signal: mine.signal,
    });
    const body = await response.text();
    if (mine !== asking) return;
    answered = true;
    if (response.ok) showReading(JSON.parse(body));
    else if (response.status === 401) askForKey();
    else failure = problem(response, body);
  } catch (error) {
    if (mine !== asking) return; // a newer question has replaced this one
    console.error(error);
    if (answered) {
      clearReading(); // half of it may be on screen
      failed("The answer could not be read", "The server sent something this page does not know. Reload the page, then try again.");
    } else if (mine.signal.aborted) {
      failed("The server took too long", "No answer came within 30 seconds. Try again in a moment.");
    } else {
      failed("The server cannot be reached", "Check that you are online and that the server is running, then try again.");
    }
  } finally {
    clearTimeout(timer);
    if (mine === asking) $("reading").removeAttribute("aria-busy");
  }
  if (failure) showFailure(failure);
}

/** What an error response says: RFC 9457 problem details, or else its status. */
function problem({ status }, body) {
  let said = {};
  try {
    said = JSON.parse(body) ?? {};
  } catch { /* a proxy's page, say */ }
  return {
    title: said.title || "The photograph was not read",
    detail: said.detail || `The server answered with status ${status} and no explanation.`,
    request: said.request_id,
    retry: status >= 500 || status === 408 || status === 429,
  };
}

function showFailure({ title, detail, request, retry }) {
  if (shown) setOptions(shown); // the earlier reading stays, and so do its options
  else document.body.dataset.state = "failed";
  $("live").textContent = ""; // the alert speaks
  $("error-title").textContent = title;
  $("error-detail").textContent = detail;
  say("error-request", request && `Request ${request}`);
  $("retry").hidden = !retry;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" });
}

$("retry").addEventListener("click", () => {
  $("file").focus({ preventScroll: true }); // the button is about to go
  ask();
});

// ---- the key, where the server asks for one

function keyHeader() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function askForKey() {
  const refused = sessionStorage.getItem("key") !== null;
  sessionStorage.removeItem("key");
  if (shown) setOptions(shown);
  else document.body.dataset.state = "failed";
  $("key-detail").textContent = refused
    ? "It does not know the key it was given. Check it, or ask the operator of this server for another."
    : "The operator of this server has one for you.";
  $("live").textContent = `${$("key-form").querySelector("h2").textContent}. ${$("key-detail").textContent}`;
  $("key").value = "";
  $("key-form").hidden = false;
  $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  ask();
});

$("options").addEventListener("change", () => {
  query = Object.fromEntries(new FormData($("options")));
  ask();
});

// ---- showing the reading

function clearReading() {
  shown = null;
  for (const id of ["answer", "quality", "tools", "more", "overlay"]) $(id).hidden = true;
  for (const id of ["original-facts", "overlay-facts", "model"]) $(id).textContent = "";
  $("overlay-title").textContent = "Heat map";
  $("overlay-figure").hidden = false;
}

function showReading(reading) {
  const { annotation, heatmap, prediction } = reading;
  showVerdict(reading, annotation?.name || title(prediction));
  $("model").textContent = reading.model ? `${reading.model.name}, version ${reading.model.version}` : "";
  showShares(reading.probabilities, prediction);
  showHeatmap(heatmap, prediction);
  showQuality(reading.quality, reading.abstain_reasons);
  showContext(reading.abstain ? null : annotation);
  showReceipt(reading);

  shown = query = { resolution: heatmap?.resolution, colormap: heatmap?.colormap, explain: query.explain };
  setOptions(shown);
  $("answer").hidden = $("more").hidden = false;
  document.body.dataset.state = "done";
  $("live").textContent = ["name", "confidence", "overlay-title"].map((id) => $(id).textContent).join(", ");
}

/** The answer; or that there is none, and which class would have come nearest. */
function showVerdict({ abstain, abstain_reasons: doubts = [], confidence }, name) {
  $("answer").classList.toggle("unsure", Boolean(abstain));
  $("verdict-title").textContent = abstain ? "No answer" : "Most likely";
  $("name").textContent = abstain ? "Not sure" : name;
  $("confidence").textContent = abstain
    ? `Nearest of the four: ${name}, ${percent(confidence)}`
    : `${percent(confidence)} confidence`;
  $("doubts").replaceChildren(...doubts.map(({ detail }) => element("li", detail)));
  $("doubts").hidden = !doubts.length;
}

function showShares(probabilities, prediction) {
  const classes = Object.keys(probabilities);
  $("shares-title").textContent = `Probability of each of the ${classes.length} types the model knows`;
  $("shares").replaceChildren(...classes.map((key) => {
    const row = element("li", "", key === prediction ? "top" : "");
    row.append(element("span", title(key)), element("b", percent(probabilities[key])), bar("i", probabilities[key]));
    return row;
  }));
  options.explain.replaceChildren(
    new Option("The prediction", ""),
    ...classes.filter((key) => key !== prediction).map((key) => new Option(title(key), key)),
  );
}

function showHeatmap(heatmap, prediction) {
  if (overlayUrl) URL.revokeObjectURL(overlayUrl);
  $("overlay-figure").hidden = $("tools").hidden = !heatmap?.data;
  if (!heatmap?.data) return;
  const bytes = Uint8Array.from(atob(heatmap.data), (character) => character.charCodeAt(0));
  overlayUrl = URL.createObjectURL(new Blob([bytes], { type: heatmap.media_type }));
  const explained = title(heatmap.explained_class);
  $("overlay").src = overlayUrl;
  $("overlay").alt = `Where the model looked for ${explained}`;
  $("overlay").hidden = false;
  $("overlay-title").textContent = `Heat map for ${explained}`;
  $("overlay-facts").textContent = heatmap.explained_class === prediction
    ? "What counted for the prediction"
    : "What speaks for it, though not predicted";
  $("scale").dataset.map = heatmap.colormap;
  $("download").href = overlayUrl;
  $("download").download = `${photo.name.replace(/\.\w+$/, "")}-${explained.toLowerCase()}.png`;
}

/** What is to be said against the photograph, but for what was given as a reason already. */
function showQuality(quality, doubts = []) {
  $("original-facts").textContent = quality ? `${quality.width} × ${quality.height} pixels, ${quality.format}` : "";
  const given = doubts.map(({ reason }) => reason);
  const remarks = (quality?.flags ?? []).filter(({ flag }) => !given.includes(flag));
  $("warnings").replaceChildren(...remarks.map(({ detail }) => element("li", detail)));
  $("quality").hidden = !remarks.length;
}

function showContext(annotation) {
  $("context").hidden = !annotation;
  if (!annotation) return;
  const range = annotation.normal_range;
  for (const id of ["function", "significance"]) $(id).textContent = annotation[id];
  say("range-value", range && `${number(range.low)}–${number(range.high)}`, "range");
  say("range-unit", range?.unit);
  say("range-source", range?.source && `Source: ${range.source}`);
  say("statement", annotation.statement);
}

function showReceipt({ timing_ms: timing, target_ms: target, within_target: within, request_id: request }) {
  $("receipt").hidden = !timing;
  if (!timing) return;
  const scale = Math.max(target ?? 0, timing.total);
  const steps = Object.keys(timing).filter((key) => key !== "total");
  const tint = (index) => `tint-${index % 4}`;
  const row = (key, classes) => {
    const made = element("div", "", classes);
    made.append(element("dt", title(key)), element("dd", `${timing[key].toFixed(1)} ms`));
    return made;
  };
  $("track").replaceChildren(...steps.map((key, index) => bar("i", timing[key] / scale, tint(index))));
  if (target) $("track").append(bar("b", target / scale));
  $("timing").replaceChildren(
    ...steps.map((key, index) => row(key, tint(index))),
    row("total", "total"),
  );
  $("within").className = within ? "yes" : "no";
  say("within", target && `${within ? "Within" : "Over"} the target of ${number(target)} ms`);
  say("request", request && `Request ${request}`);
}

function setOptions(query) {
  for (const [name, value] of Object.entries(query)) options[name].value = value ?? "";
}
