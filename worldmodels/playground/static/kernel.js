// @ts-check
// The arithmetic: one product of matrices and one rectifier, in WebAssembly, or in plain JavaScript where a browser has
// none (iOS's Lockdown Mode). Both round after every operation in the same order, so they agree to the last bit.

/** Columns in a panel: w lies as [columns / 8][depth][8]; columns that a layer does not have are 0. */
export const PANEL = 8;

/** @typedef {{at: number, depth: number, columns: number}} Matrix  at: where it begins, in floats */
/** @typedef {{shape: number[], values: Float32Array}} Tensor */

export class Kernel {
  /**
   * @param {number} floats how much memory the networks need, weights and activations
   * @param {ArrayBuffer | null} code kernel.wasm; null computes in JavaScript
   */
  static async open(floats, code) {
    const pages = Math.ceil((4 * floats) / 65536) + 1;
    if (!code || typeof WebAssembly !== "object") return new Kernel(new ArrayBuffer(pages * 65536), null);
    const memory = new WebAssembly.Memory({ initial: pages });
    try {
      const { instance } = await WebAssembly.instantiate(code, { env: { memory } });
      return new Kernel(memory.buffer, /** @type {any} */ (instance.exports));
    } catch {
      return new Kernel(memory.buffer, null); // WebAssembly without vectors
    }
  }

  /**
   * @param {ArrayBuffer} buffer
   * @param {{product: (...args: number[]) => void, rectify: (at: number, count: number) => void} | null} compiled
   */
  constructor(buffer, compiled) {
    this.heap = new Float32Array(buffer);
    this.compiled = compiled;
    this.used = 16; // floats; nothing lies at address 0
  }

  /** Which arithmetic this is. */
  get name() {
    return this.compiled ? "WebAssembly" : "JavaScript";
  }

  /**
   * Room for `count` floats; where it begins.
   * @param {number} count
   */
  room(count) {
    const at = this.used;
    this.used += (count + 15) & ~15;
    if (this.used > this.heap.length) throw new Error("The networks need more memory than their files say.");
    return at;
  }

  /**
   * The K matrices of a layer, whose file has them in panels: (K, columns / 8, depth, 8).
   * @param {Tensor} tensor
   * @returns {Matrix[]}
   */
  matrices({ shape: [count, panels, depth], values }) {
    const size = panels * depth * PANEL, at = this.room(count * size);
    this.heap.set(values, at);
    return Array.from({ length: count }, (_, line) => ({ at: at + line * size, depth, columns: panels * PANEL }));
  }

  /**
   * Adds x · w to out. Row (g, i) of x begins at x + g · xGroup + i · xStep, that of out alike; all in floats.
   * @param {number} x @param {number} xGroup @param {number} xStep
   * @param {number} groups @param {number} rows
   * @param {Matrix} w
   * @param {number} out @param {number} outGroup @param {number} outStep
   */
  product(x, xGroup, xStep, groups, rows, w, out, outGroup, outStep) {
    if (this.compiled) {
      this.compiled.product(
        4 * x, xGroup, xStep, groups, rows, 4 * w.at, w.depth, w.columns, 4 * out, outGroup, outStep,
      );
    } else {
      plainProduct(this.heap, x, xGroup, xStep, groups, rows, w, out, outGroup, outStep);
    }
  }

  /**
   * Sets what is below 0 to 0.
   * @param {number} at @param {number} count a multiple of four
   */
  rectify(at, count) {
    if (this.compiled) this.compiled.rectify(4 * at, count);
    else for (let i = at; i < at + count; i++) if (this.heap[i] < 0) this.heap[i] = 0;
  }
}

/**
 * The number of columns as the kernel wants it: a multiple of eight.
 * @param {number} columns
 */
export const padding = (columns) => Math.ceil(columns / PANEL) * PANEL;

/**
 * @param {Float32Array} heap
 * @param {number} x @param {number} xGroup @param {number} xStep @param {number} groups @param {number} rows
 * @param {Matrix} matrix
 * @param {number} out @param {number} outGroup @param {number} outStep
 */
function plainProduct(heap, x, xGroup, xStep, groups, rows, { at, depth, columns }, out, outGroup, outStep) {
  const round = Math.fround, total = groups * rows, byFour = total - (total % 4);
  for (let n = 0; n < columns; n += PANEL) {
    const panel = at + n * depth;
    for (let r = 0; r < total; r++) {
      const g = Math.floor(r / rows), i = r - g * rows;
      const from = x + g * xGroup + i * xStep, to = out + g * outGroup + i * outStep + n;
      if (r >= byFour) {
        for (let k = 0; k < depth; k += BLOCK) {
          plainRow(heap, from + k, panel + k * PANEL, Math.min(BLOCK, depth - k), to);
        }
        continue;
      }
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
      for (let k = 0, w = panel; k < depth; k++, w += PANEL) {
        const value = heap[from + k];
        if (value === 0) continue; // half of what a rectifier leaves
        s0 = round(s0 + round(value * heap[w]));
        s1 = round(s1 + round(value * heap[w + 1]));
        s2 = round(s2 + round(value * heap[w + 2]));
        s3 = round(s3 + round(value * heap[w + 3]));
        s4 = round(s4 + round(value * heap[w + 4]));
        s5 = round(s5 + round(value * heap[w + 5]));
        s6 = round(s6 + round(value * heap[w + 6]));
        s7 = round(s7 + round(value * heap[w + 7]));
      }
      heap[to] += s0;
      heap[to + 1] += s1;
      heap[to + 2] += s2;
      heap[to + 3] += s3;
      heap[to + 4] += s4;
      heap[to + 5] += s5;
      heap[to + 6] += s6;
      heap[to + 7] += s7;
    }
  }
}

const BLOCK = 64; // as in kernel.ts
const partial = new Float32Array(4 * PANEL); // sums of k modulo 4

/** @param {Float32Array} heap @param {number} from @param {number} w @param {number} depth @param {number} to */
function plainRow(heap, from, w, depth, to) {
  partial.fill(0);
  for (let k = 0; k < depth; k++, w += PANEL) {
    const value = heap[from + k], sums = (k & 3) * PANEL;
    for (let i = 0; i < PANEL; i++) partial[sums + i] += Math.fround(value * heap[w + i]);
  }
  for (let i = 0; i < PANEL; i++) {
    const [a, b, c, d] = [partial[i], partial[i + 8], partial[i + 16], partial[i + 24]];
    heap[to + i] += Math.fround(Math.fround(a + b) + Math.fround(c + d));
  }
}
