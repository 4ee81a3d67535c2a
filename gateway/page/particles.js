// Red cells drifting through the plasma, behind the empty page. They rest where nobody sees them,
// and where motion is not wanted.

import { $ } from "./dom.js";

const CELLS = 26;
const SLOWEST = 1 / 15; // seconds a frame: a machine that takes longer has no hand free for this
const JUDGED = 12; // frames
const still = matchMedia("(prefers-reduced-motion: reduce)");
let cells = [];
let frame = null;
let before = 0;
let frames = 0;
let spent = 0;
let tired = false;

export function start() {
  const canvas = $("particles");
  cells = Array.from({ length: CELLS }, born);
  new ResizeObserver(() => {
    const scale = Math.min(devicePixelRatio, 2);
    Object.assign(canvas, { width: canvas.clientWidth * scale, height: canvas.clientHeight * scale });
    draw(canvas);
  }).observe(canvas);
  const judge = () => (seen() ? run(canvas) : rest());
  document.addEventListener("visibilitychange", judge);
  still.addEventListener("change", judge);
  new MutationObserver(judge).observe(document.body, { attributeFilter: ["data-view"] });
  new MutationObserver(() => draw(canvas)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  judge();
}

const seen = () => !tired && !document.hidden && !still.matches && document.body.dataset.view === "empty";

function born() {
  const depth = Math.random(); // 0 far, 1 near
  return {
    x: Math.random(), y: Math.random(), depth,
    radius: 10 + 34 * depth * depth,
    drift: (0.004 + 0.012 * depth) * (0.6 + Math.random()),
    turn: Math.random() * Math.PI, spin: (Math.random() - 0.5) * 0.15, sway: Math.random() * 6,
  };
}

function run(canvas) {
  if (frame !== null) return;
  const step = (now) => {
    spent += (now - before) / 1000;
    frames += 1;
    tired = frames >= JUDGED && spent / frames > SLOWEST;
    if (tired) return rest();
    const seconds = Math.min(0.05, (now - before) / 1000);
    before = now;
    for (const cell of cells) {
      cell.x += cell.drift * seconds;
      if (cell.x > 1.1) cell.x = -0.1; // out on the right, in on the left
      cell.turn += cell.spin * seconds;
      cell.sway += seconds * 0.4;
    }
    draw(canvas);
    frame = requestAnimationFrame(step);
  };
  before = performance.now();
  frame = requestAnimationFrame(step);
}

function rest() {
  cancelAnimationFrame(frame);
  frame = null;
}

function draw(canvas) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const scale = width / (canvas.clientWidth || 1);
  const [rim, hollow] = ["--drift", "--drift-pale"].map((name) => getComputedStyle(document.documentElement).getPropertyValue(name));
  context.clearRect(0, 0, width, height);
  for (const { x, y, depth, radius, turn, sway } of cells) {
    context.save();
    context.translate(x * width, (y + 0.012 * Math.sin(sway)) * height);
    context.rotate(turn);
    context.scale(scale, scale * (0.62 + 0.38 * Math.abs(Math.cos(turn + sway / 3)))); // a disc, seen from the side
    context.globalAlpha = 0.1 + 0.3 * depth;
    context.filter = depth < 0.4 ? "blur(2px)" : "none";
    disc(context, radius, rim);
    disc(context, radius * 0.48, hollow);
    context.restore();
  }
}

function disc(context, radius, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(0, 0, radius, 0, 2 * Math.PI);
  context.fill();
}
