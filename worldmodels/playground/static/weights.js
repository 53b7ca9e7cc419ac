// @ts-check
// Files: where the page's files come from, and safetensors of 16-bit floats read into tensors.

/** @typedef {import("playground/kernel.js").Tensor} Tensor */

/** A file that cannot be used; its message is for people. */
export class BadFile extends Error {}

/**
 * A file of the page: from inside the page where it holds everything, from beside it otherwise.
 * @param {string} name
 * @returns {Promise<ArrayBuffer>}
 */
export async function file(name) {
  const inside = document.querySelector(`script[data-file="${name}"]`);
  if (inside) return Uint8Array.from(atob(inside.textContent ?? ""), (letter) => letter.charCodeAt(0)).buffer;
  let answer;
  try {
    answer = await fetch(name);
  } catch {
    throw new BadFile(
      location.protocol === "file:"
        ? "A browser does not open this folder from a disk: serve it, or export one HTML file instead."
        : `${name} cannot be reached: is the server still running?`,
    );
  }
  if (!answer.ok) throw new BadFile(`${name} is missing on the server (${answer.status}): export the page again.`);
  return answer.arrayBuffer();
}

/**
 * A file whose size and checksum playground.json knows.
 * @param {string} name
 * @param {{bytes: number, adler32: number}} expected
 */
export async function checked(name, expected) {
  const content = await file(name);
  if (content.byteLength !== expected.bytes || adler32(new Uint8Array(content)) !== expected.adler32) {
    throw new BadFile(`${name} is damaged: export the page again.`);
  }
  return content;
}

/** @param {Uint8Array} bytes */
function adler32(bytes) {
  let a = 1, b = 0;
  for (let i = 0; i < bytes.length; ) {
    for (const end = Math.min(i + 3800, bytes.length); i < end; i++) { // as many as fit 31 bits
      a += bytes[i];
      b += a;
    }
    a %= 65521;
    b %= 65521;
  }
  return ((b << 16) | a) >>> 0;
}

/**
 * The tensors of a safetensors file.
 * @param {ArrayBuffer} content
 * @returns {Record<string, Tensor>}
 */
export function tensors(content) {
  const length = Number(new DataView(content).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 8, length)));
  /** @type {Record<string, Tensor>} */
  const found = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (dtype !== "F16") throw new BadFile(`${name} is ${dtype} where 16-bit floats were expected.`);
    found[name] = { shape, values: floats(content, 8 + length + from, (to - from) / 2) };
  }
  return found;
}

/**
 * 16-bit floats as 32-bit ones; browsers of 2025 and later convert by themselves, in a tenth of the time.
 * @param {ArrayBuffer} content
 * @param {number} from in bytes, even
 * @param {number} count
 */
function floats(content, from, count) {
  const values = new Float32Array(count), Half = /** @type {any} */ (globalThis).Float16Array;
  if (Half) values.set(new Half(content, from, count));
  else {
    const bits = new Uint16Array(content, from, count), table = halves();
    for (let i = 0; i < count; i++) values[i] = table[bits[i]];
  }
  return values;
}

/** @type {Float32Array | undefined} */
let table;

/** Every 16-bit float as a 32-bit one. */
function halves() {
  if (table) return table;
  table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -size : size;
  }
  return table;
}
