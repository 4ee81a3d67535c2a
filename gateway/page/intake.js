// The ways in: drop, paste, pick, a folder, a zip, a drawing. All end in a list of photographs.

import { $ } from "./dom.js";
import { Failure } from "./server.js";
import { Photograph } from "./session.js";
import { unzip } from "./unzip.js";
import { words } from "./words.js";

const PICTURES = /\.(jpe?g|png|webp|tiff?|bmp|gif)$/i;
const ZIPS = /\.zip$/i;
const DRAWINGS = ["neutrophil", "eosinophil", "lymphocyte", "monocyte"];
let drawn = 0;

/** Call `take(photographs, remarks)` with whatever a person gives, and what is to be said of it. */
export function listen(take) {
  const taken = async (files) => {
    const zip = files.find(({ name }) => ZIPS.test(name));
    if (zip) take([], [[words.intake.opening(zip.name), ""]]);
    const { photographs, skipped, broken } = await sort(files);
    const remarks = broken.map((name) => [words.intake.broken(name), words.intake.brokenDetail]);
    if (skipped && photographs.length) remarks.push([words.intake.skipped(skipped), ""]);
    else if (skipped) remarks.push([words.intake.nothing, words.intake.nothingDetail(skipped)]);
    if (zip && !photographs.length && !remarks.length) remarks.push([words.intake.nothing, words.intake.nothingDetail(0)]);
    if (photographs.length || remarks.length) take(photographs, remarks);
  };
  for (const id of ["files", "folder"]) {
    $(id).addEventListener("change", async ({ target }) => {
      await taken([...target.files]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  $("choose").addEventListener("click", () => $("files").click());
  $("add").addEventListener("click", () => $("files").click());
  $("choose-folder").addEventListener("click", () => $("folder").click());
  $("sample").addEventListener("click", async () => taken([await drawing()]));
  addEventListener("paste", ({ clipboardData }) => taken([...clipboardData.files]));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", async (event) => {
    event.preventDefault(); // a missed drop must not replace the page
    document.body.classList.remove("over");
    taken(await dropped(event.dataTransfer));
  });
}

async function drawing() {
  const kind = DRAWINGS[drawn++ % DRAWINGS.length];
  const reply = await fetch(`/page/${kind}.jpg`);
  return new File([await reply.blob()], words.intake.sampleName(kind), { type: "image/jpeg" });
}

/** Keep the photographs, open the zips, count the rest. */
async function sort(files) {
  const photographs = [], broken = [];
  let skipped = 0;
  for (const file of files) {
    if (ZIPS.test(file.name)) {
      try {
        for (const entry of await unzip(file)) {
          if (!pictured(entry.name) || hidden(entry.name)) skipped += !entry.name.endsWith("/");
          else photographs.push(await unpacked(entry));
        }
      } catch {
        broken.push(file.name);
      }
    } else if (hidden(file.webkitRelativePath || file.name)) {
      skipped += 1;
    } else if (file.type.startsWith("image/") || PICTURES.test(file.name) || files.length === 1) {
      photographs.push(new Photograph(file, file.name || words.intake.pasted));
    } else {
      skipped += 1;
    }
  }
  return { photographs, skipped, broken };
}

async function unpacked(entry) {
  const name = base(entry.name);
  try {
    return new Photograph(await entry.blob(), name);
  } catch {
    return Photograph.lost(name, new Failure("problem", words.intake.damaged, words.intake.brokenDetail));
  }
}

const base = (path) => path.split("/").at(-1);
const hidden = (path) => path.split("/").some((part) => /^\.[^.]/.test(part) || part === "__MACOSX");
const pictured = (path) => PICTURES.test(path) || (/[^/]$/.test(path) && !base(path).includes(".")); // some have no ending

/** The files of a drop, folders opened. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader hands out a folder in pieces
    const piece = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!piece.length) break;
    found.push(...piece);
  }
  found.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  return (await Promise.all(found.map(walk))).flat();
}
