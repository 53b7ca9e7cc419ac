// @ts-check
// C: what it sees → an action; and what a person at the keys means → the same.

/** @typedef {import("playground/kernel.js").Kernel} Kernel */
/** @typedef {import("playground/kernel.js").Tensor} Tensor */
/** @typedef {{kind: string, size: number, low?: number[], high?: number[]}} ActionKind */
/** @typedef {{wheel: number, gas: number, brake: number, choice: number}} Wish  what a person asks for; choice −1: none */
/** @typedef {{name: string, low: number, high: number}} Gauge  one number of an action, as a bar shows it */

import { Dense } from "playground/memory.js";
import { tanh } from "playground/numbers.js";

export class Controller {
  /**
   * @param {Kernel} kernel
   * @param {Record<string, Tensor>} tensors
   * @param {string} inputs "z", "zh" or "zch"
   */
  constructor(kernel, tensors, inputs) {
    this.kernel = kernel;
    this.inputs = inputs;
    this.first = new Dense(kernel, tensors, "controller.0");
    this.second = tensors["controller.1.weight"] ? new Dense(kernel, tensors, "controller.1") : null;
  }

  /**
   * C's raw outputs.
   * @param {Float32Array} z
   * @param {import("playground/memory.js").State} state
   */
  outputs(z, { h, c }) {
    const { heap } = this.kernel;
    let at = this.first.from;
    for (const part of { z: [z], zh: [z, h], zch: [z, c, h] }[this.inputs] ?? []) {
      heap.set(part, at);
      at += part.length;
    }
    let out = this.first.run(), size = this.first.size;
    if (this.second) {
      for (let i = 0; i < size; i++) heap[this.second.from + i] = tanh(heap[out + i]);
      out = this.second.run();
      size = this.second.size;
    }
    return heap.slice(out, out + size);
  }
}

const TURN = 0.06, DECAY = 0.9, PRESS = 0.1; // a step: full lock takes a third of a second, a tap steers a little
const HARDEST = 0.8; // brake; at 1 the wheels lock (Gymnasium's keyboard control)

/**
 * How raw outputs, and a person, become the action vector that M sees.
 * @param {ActionKind} kind
 */
export function actions({ kind, size, low = [], high = [] }) {
  const car = kind === "car", discrete = kind === "discrete", threshold = kind === "threshold";
  const steps = Array.from({ length: size }, (_, i) => i);
  /** @type {Gauge[]} */
  const gauges = car
    ? [{ name: "wheel", low: -1, high: 1 }, { name: "gas", low: 0, high: 1 }, { name: "brake", low: 0, high: 1 }]
    : steps.map((i) => ({
        name: threshold ? "step" : `action ${i + 1}`,
        low: discrete ? 0 : low[i] ?? -1,
        high: high[i] ?? 1,
      }));
  return {
    gauges,
    /** Whether a person chooses one of so many, by number: 0 where the action is no choice. */
    choices: discrete ? size : 0,
    /** Whether there are pedals. */
    pedals: car || (!discrete && size > 1),

    /** @param {Float32Array} raw */
    squash(raw) {
      if (discrete) return Float32Array.from(raw, (value) => +(value === Math.max(...raw)));
      const t = Float32Array.from(raw, tanh);
      if (car) return Float32Array.of(t[0], (t[1] + 1) / 2, Math.min(Math.max(t[2], 0), 1));
      return threshold ? t : t.map((value, i) => low[i] + ((value + 1) / 2) * (high[i] - low[i]));
    },

    /**
     * @param {Wish} wish
     * @param {Float32Array} before the action of the step before: wheel and pedals move, they do not jump
     */
    ask({ wheel, gas, brake, choice }, before) {
      if (discrete) {
        const picked = choice >= 0 ? choice : wheel < 0 ? 0 : wheel > 0 ? size - 1 : gas > 0 ? 1 : Math.min(2, size - 1);
        return Float32Array.from(steps, (i) => +(i === Math.min(picked, size - 1)));
      }
      if (car) return Float32Array.of(turn(before[0], wheel), press(before[1], gas), press(before[2], brake * HARDEST));
      if (threshold) return Float32Array.from(steps, () => wheel);
      return Float32Array.from(steps, (i) => {
        const asked = i === 0 ? wheel : i === 1 ? gas - brake : 0;
        return low[i] + ((asked + 1) / 2) * (high[i] - low[i]);
      });
    },
  };
}

/** @param {number} at @param {number} wanted */
function turn(at, wanted) {
  if (wanted === 0) return Math.abs(at) < 0.01 ? 0 : at * DECAY;
  const from = at * wanted < 0 ? 0 : at; // the other way at once
  return from + Math.min(Math.max(wanted - from, -TURN), TURN);
}

/** @param {number} at @param {number} wanted */
const press = (at, wanted) => at + Math.min(Math.max(wanted - at, -2 * PRESS), PRESS);
