// A grid of cells as a picture over the photograph, just as the server draws its overlays:
// placed where the cells looked, interpolated as Pillow's BICUBIC does, fading where it is cold.

const FADE = 0.5; // as in the server's heatmap.py

let tables = null;

/** Load the colour tables that the server itself uses: 256 RGBA quadruples for each map. */
export async function load() {
  if (tables) return;
  const reply = await fetch("/page/colormaps.png");
  const picture = await createImageBitmap(await reply.blob(), { colorSpaceConversion: "none" });
  const { width, height } = picture;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const row = (index) => data.subarray(4 * width * index, 4 * width * (index + 1));
  tables = { jet: row(0), turbo: row(1), viridis: row(2) };
}

export function draw(target, { cells, placement }, colormap, width, height) {
  const levels = place(cells, placement, width, height);
  Object.assign(target, { width, height });
  target.getContext("2d").putImageData(colour(levels, tables[colormap], width, height), 0, 0);
}

export function legend(target, colormap) {
  const levels = Float32Array.from({ length: 256 }, (_, level) => level);
  target.getContext("2d").putImageData(colour(levels, tables[colormap], 256, 1, false), 0, 0);
}

function colour(levels, table, width, height, fading = true) {
  const picture = new ImageData(width, height);
  levels.forEach((level, index) => {
    picture.data.set(table.subarray(4 * level, 4 * level + 3), 4 * index);
    picture.data[4 * index + 3] = fading ? Math.round(Math.min(level / 255 / FADE, 1) * 255) : 255;
  });
  return picture;
}

/** Interpolate rows of cells (0 to 1) over width x height pixels: levels from 0 to 255. */
export function place(cells, { input_size: size, origin, pitch }, width, height) {
  const edge = (rows) => [rows[0], ...rows, rows.at(-1)]; // beyond the grid its outermost cells go on
  const padded = edge(cells.map((row) => edge(row.map((cell) => Math.round(cell * 255)))));
  const start = 1 - origin / pitch, span = size / pitch;
  const across = weights(padded.length, start, span, width);
  const down = weights(padded.length, start, span, height);
  const narrow = padded.map((row) => across.map(([first, shares]) => level(shares, (index) => row[first + index])));
  const levels = new Uint8ClampedArray(width * height);
  down.forEach(([first, shares], y) => {
    for (let x = 0; x < width; x += 1) {
      levels[y * width + x] = level(shares, (index) => narrow[first + index][x]);
    }
  });
  return levels;
}

function level(shares, value) {
  const sum = shares.reduce((total, share, index) => total + share * value(index), 0);
  return Math.min(255, Math.max(0, Math.round(sum)));
}

/** For each of `count` pixels, the first cell that it draws on, and the share of each from there. */
function weights(cells, start, span, count) {
  const step = span / count;
  const wide = Math.max(step, 1); // a picture smaller than the grid averages over more cells
  return Array.from({ length: count }, (_, pixel) => {
    const centre = start + (pixel + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5));
    const last = Math.min(cells, Math.trunc(centre + 2 * wide + 0.5));
    const shares = Array.from({ length: last - first }, (_, index) => cubic((first + index - centre + 0.5) / wide));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return [first, shares.map((share) => share / total)];
  });
}

/** Keys' cubic convolution with a = -0.5 (IEEE Trans. ASSP 29, 1981). */
function cubic(x) {
  const far = Math.abs(x);
  if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
  return far < 2 ? ((-0.5 * far + 2.5) * far - 4) * far + 2 : 0;
}
