// @ts-check
// V: a picture → z, and z → a picture. Pictures lie as (line, pixel, channel).

/** @typedef {import("playground/kernel.js").Kernel} Kernel */
/** @typedef {import("playground/kernel.js").Matrix} Matrix */
/** @typedef {import("playground/kernel.js").Tensor} Tensor */

import { padding } from "playground/kernel.js";

export const SIDE = 64; // pixels of a frame
const STRIDE = 2;

const REACH = 12, FINE = 682; // of the table below: −12 … 12 in steps of 1/682, right to a twentieth of a grey level
const LEVELS = Uint8ClampedArray.from({ length: 2 * REACH * FINE + 1 }, (_, i) => 255 / (1 + Math.exp(REACH - i / FINE)));

/** @param {number} logit its sigmoid as a grey level 0 … 255 */
const level = (logit) => LEVELS[logit < -REACH ? 0 : logit > REACH ? 2 * REACH * FINE : ((logit + REACH) * FINE + 0.5) | 0];

/** z → picture: a linear map to 5 × 5 × 128, then three transposed convolutions. */
export class Decoder {
  /**
   * @param {Kernel} kernel
   * @param {Record<string, Tensor>} tensors
   */
  constructor(kernel, tensors) {
    this.kernel = kernel;
    this.size = tensors["decoder.0.weight"].shape[2];
    this.z = kernel.room(padding(this.size));
    let from = this.z, side = 1, channels = this.size;
    this.layers = [0, 1, 2, 3].map((index) => {
      const weight = tensors[`decoder.${index}.weight`], bias = tensors[`decoder.${index}.bias`].values;
      const lines = kernel.matrices(weight);
      const first = index === 0;
      const outSide = first ? 5 : STRIDE * (side - 1) + lines.length;
      const outChannels = first ? bias.length / 25 : bias.length;
      const ground = new Float32Array(outSide * outSide * outChannels); // the bias at every pixel
      for (let i = 0; i < ground.length; i += bias.length) ground.set(bias, i);
      const layer = { lines, ground, from, side, channels, to: kernel.room(ground.length), outSide, outChannels };
      [from, side, channels] = [layer.to, outSide, outChannels];
      return layer;
    });
  }

  /**
   * z (Z,) → where the picture's 64 · 64 · 4 numbers lie in the heap, before the sigmoid.
   * @param {ArrayLike<number>} z
   */
  logits(z) {
    const { kernel } = this, { heap } = kernel;
    heap.set(z, this.z);
    this.layers.forEach(({ lines, ground, from, side, channels, to, outSide, outChannels }, index) => {
      if (index) kernel.rectify(from, side * side * channels);
      heap.set(ground, to);
      if (!index) return kernel.product(from, 0, 0, 1, 1, lines[0], to, 0, 0);
      const line = outSide * outChannels;
      lines.forEach((w, k) => // line k of every pixel's stamp
        kernel.product(from, side * channels, channels, side, side, w, to + k * line, STRIDE * line, STRIDE * outChannels),
      );
    });
    return this.layers[3].to;
  }

  /**
   * z (Z,) → opaque pixels 0 … 255.
   * @param {ArrayLike<number>} z
   * @param {Uint8ClampedArray} pixels (64 · 64 · 4)
   */
  paint(z, pixels) {
    const at = this.logits(z), { heap } = this.kernel;
    for (let i = 0; i < pixels.length; i += 4) {
      pixels[i] = level(heap[at + i]);
      pixels[i + 1] = level(heap[at + i + 1]);
      pixels[i + 2] = level(heap[at + i + 2]);
      pixels[i + 3] = 255;
    }
  }
}

/** Picture → the mean of z: four convolutions and a linear map. */
export class Encoder {
  /**
   * @param {Kernel} kernel
   * @param {Record<string, Tensor>} tensors
   */
  constructor(kernel, tensors) {
    this.kernel = kernel;
    this.picture = kernel.room(SIDE * SIDE * 3);
    this.size = tensors["encoder.4.bias"].values.length;
    let from = this.picture, side = SIDE, channels = 3;
    this.layers = [0, 1, 2, 3, 4].map((index) => {
      const bias = tensors[`encoder.${index}.bias`].values;
      const lines = kernel.matrices(tensors[`encoder.${index}.weight`]);
      const outSide = index < 4 ? (side - lines.length) / STRIDE + 1 | 0 : 1;
      const outChannels = padding(bias.length);
      const ground = new Float32Array(outSide * outSide * outChannels);
      for (let i = 0; i < ground.length; i += outChannels) ground.set(bias, i);
      const layer = { lines, ground, from, side, channels, to: kernel.room(ground.length), outSide, outChannels };
      [from, side, channels] = [layer.to, outSide, outChannels];
      return layer;
    });
  }

  /**
   * Pixels (64 · 64 · 4) → z (Z,).
   * @param {Uint8ClampedArray} pixels
   */
  encode(pixels) {
    const { kernel } = this, { heap } = kernel;
    for (let i = 0, at = this.picture; i < pixels.length; i += 4, at += 3) {
      heap[at] = pixels[i] / 255;
      heap[at + 1] = pixels[i + 1] / 255;
      heap[at + 2] = pixels[i + 2] / 255;
    }
    this.layers.forEach(({ lines, ground, from, side, channels, to, outSide, outChannels }, index) => {
      heap.set(ground, to);
      if (index === 4) return kernel.product(from, 0, 0, 1, 1, lines[0], to, 0, 0);
      const line = side * channels;
      lines.forEach((w, k) => // line k of every patch
        kernel.product(
          from + k * line, STRIDE * line, STRIDE * channels, outSide, outSide, w, to, outSide * outChannels, outChannels,
        ),
      );
      kernel.rectify(to, ground.length);
    });
    const at = this.layers[4].to;
    return heap.slice(at, at + this.size);
  }
}
