// A photograph from the computer's camera, such as one on a microscope.

import { $ } from "./dom.js";
import { Photograph } from "./session.js";
import { words } from "./words.js";

let stream = null;
let taken = 0;

export function listen(take) {
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("camera").addEventListener("click", open);
  $("camera-close").addEventListener("click", () => $("camera-dialog").close());
  $("camera-dialog").addEventListener("close", stop);
  $("shoot").addEventListener("click", async () => {
    const blob = await shoot($("camera-video"));
    $("camera-dialog").close();
    take([new Photograph(blob, words.camera.name(++taken))]);
  });
}

async function open() {
  $("camera-says").textContent = words.camera.starting;
  $("shoot").disabled = true;
  $("camera-dialog").showModal();
  try {
    const wanted = { video: { facingMode: "environment", width: { ideal: 1920 } } };
    stream = await navigator.mediaDevices.getUserMedia(wanted);
    if (!$("camera-dialog").open) return stop(); // closed while it was waking
    $("camera-video").srcObject = stream;
    await $("camera-video").play();
    $("camera-says").textContent = "";
    $("shoot").disabled = false;
  } catch {
    $("camera-says").textContent = words.camera.refused;
  }
}

function stop() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = $("camera-video").srcObject = null;
}

function shoot(video) {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png")); // lossless: it is evidence
}
