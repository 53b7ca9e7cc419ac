// @ts-check
// M: the LSTM and the mixture of Gaussians for the next z.

/** @typedef {import("playground/kernel.js").Kernel} Kernel */
/** @typedef {import("playground/kernel.js").Tensor} Tensor */
/** @typedef {{h: Float32Array, c: Float32Array}} State  each (H,) */
/** @typedef {{gaussians: number, mixtures: number, reward: boolean, terminal: boolean}} Heads */

import { padding } from "playground/kernel.js";
import { exp, log, sigmoid, tanh } from "playground/numbers.js";

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
    const weight = tensors[`${name}.weight`];
    this.kernel = kernel;
    this.depth = weight.shape[1];
    this.size = weight.shape[2];
    this.bias = new Float32Array(padding(this.size));
    this.bias.set(tensors[`${name}.bias`].values);
    this.matrix = kernel.matrices(weight)[0];
    this.from = from ?? kernel.room(this.depth);
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
    const { heap } = this.kernel, { from, depth } = this.gates, H = this.hidden;
    heap.fill(0, from + z.length, from + depth - H); // inputs between z and h: the action, and what a dream never sets
    heap.set(z, from);
    heap.set(action, from + z.length);
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
   * @param {ArrayLike<number>} uniform (mixtures · gaussians,)
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
      if (i < mixtures) chosen = this.choose(logits + i * K, temperature, uniform, i * K); // else one is shared by all
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
   * The Gaussian that a draw takes: Gumbel's trick.
   * @param {number} at @param {number} temperature @param {ArrayLike<number>} uniform @param {number} first
   */
  choose(at, temperature, uniform, first) {
    const { heap } = this.kernel;
    let best = 0, most = -Infinity;
    for (let k = 0; k < this.heads.gaussians; k++) {
      let value = heap[at + k];
      if (temperature > 0) {
        const u = Math.min(Math.max(uniform[first + k], 1e-9), 1 - 1e-7);
        value = value / temperature - log(-log(u));
      }
      if (value > most) [best, most] = [k, value];
    }
    return best;
  }
}
