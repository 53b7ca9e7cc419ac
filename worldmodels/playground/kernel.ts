// The one product behind every layer, in AssemblyScript: WebAssembly with vectors of four floats.
//
//   out[r, n] += sum over k of x[r, k] · w[k, n]      r < groups · rows, k < depth, n < columns
//
// Row r = (g, i) of x begins at x + g · xGroup + i · xStep, that of out at out + g · outGroup + i · outStep (counted in
// floats): rows may overlap. The patches of a convolution and the stamps of a transposed one overlap in just that
// way (g: a line of the picture, i: a pixel of it), so neither is ever copied. w lies in panels of eight columns:
// [columns / 8][depth][8]; a panel stays in the processor's cache while all the rows pass.
// Rows go four at a time, each sum over k in order; what is left of them goes singly, by blocks of four partial
// sums. Every operation is rounded: static/kernel.js does the same in the same order, and agrees to the last bit.

const BLOCK: usize = 64; // terms of a sum that are added up before they are added to the rest: rounds less

/** Adds x · w to out; x, w and out are addresses in bytes, out's rows `columns` long, a multiple of eight. */
export function product(
  x: usize, xGroup: usize, xStep: usize, groups: usize, rows: usize, w: usize, depth: usize, columns: usize,
  out: usize, outGroup: usize, outStep: usize,
): void {
  const total = groups * rows, panel = depth << 5;
  for (let n: usize = 0; n < columns; n += 8) {
    let r: usize = 0;
    for (; r + 4 <= total; r += 4) {
      const g = r / rows, i = r - g * rows;
      four(x, xGroup, xStep, g, i, rows, w, depth, out, outGroup, outStep);
    }
    for (; r < total; r++) {
      const g = r / rows, i = r - g * rows;
      const from = x + ((g * xGroup + i * xStep) << 2), to = out + ((g * outGroup + i * outStep) << 2);
      for (let k: usize = 0; k < depth; k += BLOCK) one(from + (k << 2), w + (k << 5), min(BLOCK, depth - k), to);
    }
    w += panel;
    out += 32;
  }
}

/** Sets what is below 0 to 0; `count` floats, a multiple of four. */
export function rectify(at: usize, count: usize): void {
  for (const end = at + (count << 2); at < end; at += 16) v128.store(at, f32x4.max(v128.load(at), f32x4.splat(0)));
}

// @ts-ignore: decorator
@inline
function add(at: usize, low: v128, high: v128): void {
  v128.store(at, f32x4.add(v128.load(at), low));
  v128.store(at, f32x4.add(v128.load(at, 16), high), 16);
}

/** Four rows by eight columns: eight sums stay in registers. */
// @ts-ignore: decorator
@inline
function four(
  x: usize, xGroup: usize, xStep: usize, g: usize, i: usize, rows: usize, w: usize, depth: usize,
  out: usize, outGroup: usize, outStep: usize,
): void {
  let x0 = x + ((g * xGroup + i * xStep) << 2);
  const o0 = out + ((g * outGroup + i * outStep) << 2);
  if (++i == rows) { i = 0; g++; }
  let x1 = x + ((g * xGroup + i * xStep) << 2);
  const o1 = out + ((g * outGroup + i * outStep) << 2);
  if (++i == rows) { i = 0; g++; }
  let x2 = x + ((g * xGroup + i * xStep) << 2);
  const o2 = out + ((g * outGroup + i * outStep) << 2);
  if (++i == rows) { i = 0; g++; }
  let x3 = x + ((g * xGroup + i * xStep) << 2);
  const o3 = out + ((g * outGroup + i * outStep) << 2);
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  const end = w + (depth << 5);
  while (w < end) {
    const w0 = v128.load(w), w1 = v128.load(w, 16);
    let value = v128.load32_splat(x0);
    a0 = f32x4.add(a0, f32x4.mul(value, w0));
    a1 = f32x4.add(a1, f32x4.mul(value, w1));
    value = v128.load32_splat(x1);
    b0 = f32x4.add(b0, f32x4.mul(value, w0));
    b1 = f32x4.add(b1, f32x4.mul(value, w1));
    value = v128.load32_splat(x2);
    c0 = f32x4.add(c0, f32x4.mul(value, w0));
    c1 = f32x4.add(c1, f32x4.mul(value, w1));
    value = v128.load32_splat(x3);
    d0 = f32x4.add(d0, f32x4.mul(value, w0));
    d1 = f32x4.add(d1, f32x4.mul(value, w1));
    x0 += 4;
    x1 += 4;
    x2 += 4;
    x3 += 4;
    w += 32;
  }
  add(o0, a0, a1);
  add(o1, b0, b1);
  add(o2, c0, c1);
  add(o3, d0, d1);
}

/** One row by eight columns: four partial sums, of k modulo 4, which is quicker and rounds less. */
// @ts-ignore: decorator
@inline
function one(x: usize, w: usize, depth: usize, out: usize): void {
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  const last = w + (depth << 5), end = w + ((depth & ~3) << 5);
  while (w < end) {
    let value = v128.load32_splat(x);
    a0 = f32x4.add(a0, f32x4.mul(value, v128.load(w)));
    a1 = f32x4.add(a1, f32x4.mul(value, v128.load(w, 16)));
    value = v128.load32_splat(x, 4);
    b0 = f32x4.add(b0, f32x4.mul(value, v128.load(w, 32)));
    b1 = f32x4.add(b1, f32x4.mul(value, v128.load(w, 48)));
    value = v128.load32_splat(x, 8);
    c0 = f32x4.add(c0, f32x4.mul(value, v128.load(w, 64)));
    c1 = f32x4.add(c1, f32x4.mul(value, v128.load(w, 80)));
    value = v128.load32_splat(x, 12);
    d0 = f32x4.add(d0, f32x4.mul(value, v128.load(w, 96)));
    d1 = f32x4.add(d1, f32x4.mul(value, v128.load(w, 112)));
    x += 16;
    w += 128;
  }
  if (w < last) {
    const value = v128.load32_splat(x);
    a0 = f32x4.add(a0, f32x4.mul(value, v128.load(w)));
    a1 = f32x4.add(a1, f32x4.mul(value, v128.load(w, 16)));
    w += 32;
  }
  if (w < last) {
    const value = v128.load32_splat(x, 4);
    b0 = f32x4.add(b0, f32x4.mul(value, v128.load(w)));
    b1 = f32x4.add(b1, f32x4.mul(value, v128.load(w, 16)));
    w += 32;
  }
  if (w < last) {
    const value = v128.load32_splat(x, 8);
    c0 = f32x4.add(c0, f32x4.mul(value, v128.load(w)));
    c1 = f32x4.add(c1, f32x4.mul(value, v128.load(w, 16)));
  }
  add(out, f32x4.add(f32x4.add(a0, b0), f32x4.add(c0, d0)), f32x4.add(f32x4.add(a1, b1), f32x4.add(c1, d1)));
}
