// @ts-check
// M: the LSTM and the mixture of Gaussians for the next z.

/** @typedef {import("playground/kernel.js").Kernel} Kernel */
/** @typedef {import("playground/kernel.js").Tensor} Tensor */
/** @typedef {{h: Float32Array, c: Float32Array}} State  each (H,) */
/** @typedef {{gaussians: number, mixtures: number, reward: boolean, terminal: boolean}} Heads */

import { padding } from "playground/kernel.js";
import { exp, sigmoid, tanh } from "playground/numbers.js";

const LOG_SIGMA_RANGE = [-6, 4];

/** One fully connected layer: x (depth,) in the heap → its output in the heap. */
export class Dense {
  /**
   * @param {Kernel} kernel
   * @param {Record<string, Tensor>} tensors
   * @param {string} name
   * @param {number} [from] where x lies; room of its own otherwise
   */
  constructor(kernel, tensors, name, from) {
    const bias = tensors[`${name}.bias`].values;
    this.kernel = kernel;
    this.size = bias.length;
    this.bias = new Float32Array(padding(this.size));
    this.bias.set(bias);
    this.matrix = kernel.matrices(tensors[`${name}.weight`])[0];
    this.from = from ?? kernel.room(this.matrix.depth);
    this.to = kernel.room(this.bias.length);
  }

  run() {
    this.kernel.heap.set(this.bias, this.to);
    this.kernel.product(this.from, 0, 0, 1, 1, this.matrix, this.to, 0, 0);
    return this.to;
  }
}

export class Memory {
  /**
   * @param {Kernel} kernel
   * @param {Record<string, Tensor>} tensors
   * @param {number} zSize Z
   * @param {Heads} heads
   */
  constructor(kernel, tensors, zSize, heads) {
    this.kernel = kernel;
    this.zSize = zSize;
    this.heads = heads;
    this.gates = new Dense(kernel, tensors, "memory.0"); // of [z, action, h]
    this.hidden = this.gates.size / 4;
    this.weights = new Float64Array(heads.gaussians);
    this.head = new Dense(kernel, tensors, "memory.1");
  }

  /** @returns {State} */
  rest() {
    return { h: new Float32Array(this.hidden), c: new Float32Array(this.hidden) };
  }

  /**
   * One step of the LSTM; `state` moves on in place.
   * @param {ArrayLike<number>} z
   * @param {ArrayLike<number>} action
   * @param {State} state
   */
  step(z, action, { h, c }) {
    const { heap } = this.kernel, { from, matrix: { depth } } = this.gates, H = this.hidden;
    heap.set(z, from);
    heap.set(action, from + z.length);
    const restart = from + z.length + action.length; // where M reads a number more: 1 where an episode begins
    if (restart < from + depth - H) heap[restart] = +(h.every((value) => value === 0) && c.every((value) => value === 0));
    heap.set(h, from + depth - H);
    const at = this.gates.run();
    for (let i = 0; i < H; i++) { // PyTorch's order: input, forget, cell, output
      c[i] = sigmoid(heap[at + H + i]) * c[i] + sigmoid(heap[at + i]) * tanh(heap[at + 2 * H + i]);
      h[i] = sigmoid(heap[at + 3 * H + i]) * tanh(c[i]);
    }
  }

  /**
   * Draws the next z from the mixture that h foresees: logits divided by the temperature, sigma times its square root
   * (the paper). Temperature 0 takes the mean of the likeliest Gaussian.
   * @param {Float32Array} h
   * @param {number} temperature
   * @param {ArrayLike<number>} uniform (mixtures,) in [0, 1)
   * @param {ArrayLike<number>} normal (Z,)
   * @param {Float32Array} z (Z,) filled with the sample
   * @returns {{reward: number | null, end: number | null}} what the other heads say; end is a probability
   */
  sample(h, temperature, uniform, normal, z) {
    const { heap } = this.kernel, { gaussians: K, mixtures, reward, terminal } = this.heads, Z = this.zSize;
    heap.set(h, this.head.from);
    const logits = this.head.run(), mean = logits + mixtures * K, logSigma = mean + Z * K;
    let chosen = 0;
    for (let i = 0; i < Z; i++) {
      if (i < mixtures) chosen = this.choose(logits + i * K, temperature, uniform[i]); // else one is shared by all
      const at = i * K + chosen;
      z[i] = heap[mean + at];
      if (temperature > 0) {
        const clamped = Math.min(Math.max(heap[logSigma + at], LOG_SIGMA_RANGE[0]), LOG_SIGMA_RANGE[1]);
        z[i] = heap[mean + at] + Math.sqrt(temperature) * exp(clamped) * normal[i];
      }
    }
    const rest = logSigma + Z * K;
    return {
      reward: reward ? heap[rest] : null,
      end: terminal ? sigmoid(heap[rest + (reward ? 1 : 0)]) : null,
    };
  }

  /**
   * The Gaussian that a draw takes: the inverse of the weights' distribution function.
   * @param {number} at where its K logits lie
   * @param {number} temperature 0: the likeliest
   * @param {number} uniform in [0, 1)
   */
  choose(at, temperature, uniform) {
    const { heap } = this.kernel, K = this.heads.gaussians;
    let likeliest = 0, total = 0;
    for (let k = 1; k < K; k++) if (heap[at + k] > heap[at + likeliest]) likeliest = k;
    if (temperature === 0) return likeliest;
    const { weights } = this;
    for (let k = 0; k < K; k++) total += weights[k] = exp((heap[at + k] - heap[at + likeliest]) / temperature);
    let k = 0;
    for (let below = weights[0]; k < K - 1 && uniform * total >= below; k++) below += weights[k + 1];
    return k;
  }
}
