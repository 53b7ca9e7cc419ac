// @ts-check
// One dream: C sees z and h, an action is chosen, M steps, and the next z is drawn. No picture, no page, no clock.

/** @typedef {import("playground/memory.js").State} State */
/** @typedef {{z: ArrayLike<number>, h?: ArrayLike<number>, c?: ArrayLike<number>}} Start */
/** @typedef {{
 *   version: string, name: string, env: string, inputs: string, starts: number, drive: number, columns: number,
 *   action: import("playground/controller.js").ActionKind, parameters: {V: number, M: number, C: number},
 *   gaussians: number, mixtures: number, reward: boolean, terminal: boolean,
 *   files: Record<string, {bytes: number, adler32: number}>,
 * }} Manifest */

import { actions, Controller } from "playground/controller.js";
import { Kernel } from "playground/kernel.js";
import { Memory } from "playground/memory.js";
import { Noise } from "playground/numbers.js";
import { Decoder } from "playground/vision.js";

const SLACK = 1 << 20; // floats: activations, and columns that padding adds

/** M, C and V's decoder of one run, and the starts. */
export class World {
  /**
   * @param {Manifest} manifest
   * @param {Record<string, import("playground/kernel.js").Tensor>} tensors of model.safetensors
   * @param {ArrayBuffer | null} code the kernel
   */
  static async open(manifest, tensors, code) {
    const floats = Object.values(tensors).reduce((sum, tensor) => sum + tensor.values.length, SLACK);
    return new World(manifest, tensors, await Kernel.open(floats, code));
  }

  /**
   * @param {Manifest} manifest
   * @param {Record<string, import("playground/kernel.js").Tensor>} tensors
   * @param {Kernel} kernel
   */
  constructor(manifest, tensors, kernel) {
    this.manifest = manifest;
    this.kernel = kernel;
    this.decoder = new Decoder(kernel, tensors);
    this.zSize = this.decoder.size;
    this.memory = new Memory(kernel, tensors, this.zSize, manifest);
    this.controller = new Controller(kernel, tensors, manifest.inputs);
    this.actions = actions(manifest.action);
    this.mean = tensors["latent.mean"].values;
    this.std = tensors["latent.std"].values;
    const { "start.z": z, "start.h": h, "start.c": c } = tensors;
    /** @type {Start[]} */
    this.starts = Array.from({ length: manifest.starts }, (_, i) => ({
      z: rows(z, i), h: rows(h, i), c: rows(c, i),
    }));
  }

  noise() {
    return new Noise(this.manifest.mixtures, this.zSize);
  }
}

/** @param {import("playground/kernel.js").Tensor} tensor @param {number} row */
const rows = ({ shape, values }, row) => values.slice(row * shape[1], (row + 1) * shape[1]);

export class Dream {
  /**
   * @param {World} world
   * @param {Start} start
   */
  constructor(world, start) {
    this.world = world;
    this.z = Float32Array.from(start.z);
    /** @type {State} */
    this.state = world.memory.rest();
    if (start.h) this.state.h.set(start.h);
    if (start.c) this.state.c.set(start.c);
    this.score = 0;
    this.over = false;
  }

  /** What the agent would do here. */
  act() {
    return this.world.actions.squash(this.world.controller.outputs(this.z, this.state));
  }

  /**
   * One step on.
   * @param {Float32Array} action
   * @param {number} temperature
   * @param {{uniform: ArrayLike<number>, normal: ArrayLike<number>}} noise
   */
  step(action, temperature, { uniform, normal }) {
    const { memory } = this.world;
    memory.step(this.z, action, this.state);
    const { reward, end } = memory.sample(this.state.h, temperature, uniform, normal, this.z);
    this.score += reward ?? 1; // where M foresees the end alone, staying alive is the score
    this.over = (end ?? 0) > 0.5;
  }

  /** @returns {{z: Float32Array, h: Float32Array, c: Float32Array, score: number}} */
  save() {
    return { z: this.z.slice(), h: this.state.h.slice(), c: this.state.c.slice(), score: this.score };
  }

  /** @param {{z: Float32Array, h: Float32Array, c: Float32Array, score: number}} saved */
  restore({ z, h, c, score }) {
    this.z.set(z);
    this.state.h.set(h);
    this.state.c.set(c);
    this.score = score;
    this.over = false;
  }
}
