// @ts-check
// Who drives, and everything that happened: the part of the page that a link can repeat.
//
// A drive is (start, seed, temperature) and a list of events, each at a step: what the person asked for, a new
// temperature, a number of z held, a rescue. The same list gives the same drive, step for step.

/** @typedef {import("playground/controller.js").Wish} Wish */
/** @typedef {import("playground/dream.js").Start} Start */
/** @typedef {{at: number, what: string, values: number[]}} Event */

import { Dream } from "playground/dream.js";

export const RATE = 50; // steps a second
export const HOTTEST = 1.5; // temperature
const GRACE = 25; // steps from letting go until the agent drives again
const KEEP_EVERY = 10, KEPT = 100; // steps between states kept for a rescue, and how many

export class Drive {
  /**
   * @param {import("playground/dream.js").World} world
   * @param {Start} start
   * @param {number} seed
   * @param {number} temperature
   * @param {Event[]} [script] what will happen, from a link
   */
  constructor(world, start, seed, temperature, script = []) {
    this.world = world;
    this.seed = seed;
    this.temperature = temperature;
    this.script = script.slice();
    /** @type {Event[]} */
    this.events = [];
    this.dream = new Dream(world, start);
    this.before = this.dream.z.slice(); // z one step earlier: pictures in between
    this.alone = new Dream(world, start); // the agent by itself, in the same noise: its score beside yours
    this.scored = world.manifest.reward || world.manifest.terminal;
    this.noise = world.noise();
    this.time = 0;
    this.action = new Float32Array(world.manifest.action.size);
    /** @type {Wish | null} */
    this.wish = null;
    this.idle = GRACE; // steps since the person let go
    this.agentReturns = true;
    /** @type {Map<number, number>} */
    this.held = new Map(); // numbers of z that a person holds
    /** @type {{time: number, saved: ReturnType<Dream["save"]>}[]} */
    this.kept = [];
  }

  /** Who drives the next step. */
  get driver() {
    return this.wish || this.idle < GRACE || !this.agentReturns ? "you" : "agent";
  }

  /** Whether a script still runs. */
  get replaying() {
    return this.script.length > 0;
  }

  /**
   * Something happens now. What a person does ends a script.
   * @param {string} what
   * @param {...number} values
   */
  happen(what, ...values) {
    this.script.length = 0;
    this.apply({ at: this.time, what, values });
  }

  /** @param {Event} event */
  apply(event) {
    const { what, values } = event;
    this.events.push(event);
    if (what === "w") {
      const [wheel, gas, brake] = values.map((value) => Math.min(Math.max(value / 10, -1), 1));
      this.wish = { wheel, gas, brake, choice: values[3] };
    }
    if (what === "f") [this.wish, this.idle] = [null, 0]; // free: the person lets go
    if (what === "t") this.temperature = Math.min(Math.max(values[0] / 100, 0), HOTTEST);
    if (what === "a") this.agentReturns = values[0] === 1;
    if (what === "h") this.held.set(values[0], this.dream.z[values[0]] = values[1] / 100);
    if (what === "l") values.length ? this.held.delete(values[0]) : this.held.clear();
    if (what === "r") this.rescue(values[0]);
  }

  /** One step of the dream. */
  step() {
    while (this.script.length && this.script[0].at <= this.time) this.apply(/** @type {Event} */ (this.script.shift()));
    const { dream, world } = this;
    if (dream.over) return;
    if (this.time % KEEP_EVERY === 0) {
      this.kept.push({ time: this.time, saved: dream.save() });
      if (this.kept.length > KEPT) this.kept.shift();
    }
    const you = this.driver === "you";
    this.action = you ? world.actions.ask(this.wish ?? IDLE, this.action) : dream.act();
    if (!this.wish) this.idle += 1;
    this.before.set(dream.z);
    const noise = this.noise.draw(this.seed, this.time);
    dream.step(this.action, this.temperature, noise);
    for (const [index, value] of this.held) dream.z[index] = value;
    if (this.scored && !this.alone.over) this.alone.step(this.alone.act(), this.temperature, noise);
    this.time += 1;
  }

  /**
   * Back to the last state kept at or before a step, with the agent at the wheel.
   * @param {number} time
   */
  rescue(time) {
    const found = this.kept.findLast((kept) => kept.time <= time) ?? this.kept[0];
    if (!found) return;
    this.dream.restore(found.saved);
    this.before.set(this.dream.z);
    this.wish = null;
    this.idle = GRACE;
    this.agentReturns = true;
  }
}

/** @type {Wish} */
const IDLE = { wheel: 0, gas: 0, brake: 0, choice: -1 };

/**
 * Events as text for a link: 12w-10.0.0.-1_40f
 * @param {Event[]} events
 */
export const written = (events) => events.map(({ at, what, values }) => `${at}${what}${values.join(".")}`).join("_");

/** How many values each kind of event has. */
const VALUES = { w: [4], f: [0], t: [1], a: [1], h: [2], l: [0, 1], r: [1] };

/**
 * The events in a link's text; what is none is left out.
 * @param {string} text
 * @returns {Event[]}
 */
export function read(text) {
  return text.split("_").flatMap((part) => {
    const match = /^(\d{1,7})([wftahlr])((?:-?\d{1,6})(?:\.-?\d{1,6})*)?$/.exec(part);
    if (!match) return [];
    const what = /** @type {keyof typeof VALUES} */ (match[2]), values = match[3]?.split(".").map(Number) ?? [];
    return VALUES[what].includes(values.length) ? [{ at: Number(match[1]), what, values }] : [];
  });
}
