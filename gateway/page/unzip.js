// The photographs in a zip, as blobs; the browser inflates them one after another.
// The layout is that of PKWARE's APPNOTE 6.3, without encryption and zip64.

const END = 0x06054b50, ENTRY = 0x02014b50, TAIL = 22, MOST_COMMENT = 65535;
const MOST_BYTES = 64 * 1024 * 1024; // of one entry: no photograph is larger, but a bomb is

/** List the entries of a zip: [{ name, blob() }]. Throws where it is none that can be read. */
export async function unzip(file) {
  const tail = await view(file.slice(-TAIL - MOST_COMMENT));
  let at = tail.byteLength - TAIL;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  if (at < 0) throw new Error("no end of central directory");
  const [count, size, offset] = [tail.getUint16(at + 10, true), tail.getUint32(at + 12, true), tail.getUint32(at + 16, true)];
  const directory = await view(file.slice(offset, offset + size));
  const entries = [];
  for (let read = 0, here = 0; read < count; read += 1) {
    if (directory.getUint32(here, true) !== ENTRY) throw new Error("a broken central directory");
    const field = (place) => directory.getUint16(here + place, true);
    const word = (place) => directory.getUint32(here + place, true);
    const name = new TextDecoder().decode(new Uint8Array(directory.buffer, here + 46, field(28)));
    const entry = { flags: field(8), method: field(10), packed: word(20), size: word(24), start: word(42) };
    entries.push({ name, blob: () => inflate(file, entry) });
    here += 46 + field(28) + field(30) + field(32);
  }
  return entries;
}

async function inflate(file, { flags, method, packed, size, start }) {
  if (flags & 1 || ![0, 8].includes(method) || size > MOST_BYTES) throw new Error("cannot be unpacked");
  const head = await view(file.slice(start, start + 30));
  const from = start + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const data = file.slice(from, from + packed);
  if (method === 0) return data;
  const chunks = [];
  let left = size;
  for await (const chunk of data.stream().pipeThrough(new DecompressionStream("deflate-raw"))) {
    left -= chunk.length;
    if (left < 0) throw new Error("larger than it says");
    chunks.push(chunk);
  }
  return new Blob(chunks);
}

async function view(blob) {
  return new DataView(await blob.arrayBuffer());
}
