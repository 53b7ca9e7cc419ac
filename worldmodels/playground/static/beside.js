// @ts-check
// A recorded drive beside V's reconstruction of it and M's dream with the same actions: how long is the dream faithful?

import { RATE } from "playground/drive.js";
import { Dream } from "playground/dream.js";
import { SIDE } from "playground/vision.js";

const AHEAD = 100; // steps that are dreamed after M lets go
const BEFORE = 25; // steps of watching that are shown
const FROM = 50, EVERY = 75; // moments of letting go, over which the figures are averaged
const SHOWN = [5, 10, 25, 50];

export class Beside {
  /**
   * @param {import("playground/dream.js").World} world
   * @param {import("playground/vision.js").Encoder} encoder
   * @param {Uint8ClampedArray[]} frames pixels of the real frames
   * @param {Float32Array} actions (T · A,)
   * @param {number} size A
   */
  constructor(world, encoder, frames, actions, size) {
    this.world = world;
    this.encoder = encoder;
    this.frames = frames;
    this.actions = Array.from({ length: actions.length / size }, (_, t) => actions.slice(t * size, (t + 1) * size));
    /** @type {Float32Array[]} */
    this.z = [];
    this.noise = world.noise();
    this.ahead = Math.min(AHEAD, this.actions.length - 2);
    this.latest = Math.max(1, this.actions.length - this.ahead);
    this.scratch = new Uint8ClampedArray(SIDE * SIDE * 4);
  }

  /**
   * z of a real frame.
   * @param {number} t
   */
  seen(t) {
    return (this.z[t] ??= this.encoder.encode(this.frames[t]));
  }

  /**
   * M after it watched the steps before `t`.
   * @param {number} t
   */
  watch(t) {
    const dream = new Dream(this.world, { z: this.seen(0) });
    for (let i = 0; i < t; i++) {
      this.world.memory.step(this.seen(i), this.actions[i], dream.state);
    }
    dream.z.set(this.seen(t));
    return dream;
  }

  /**
   * The dream after M lets go at `start`: z of every step, the first of them real.
   * @param {number} start @param {number} steps @param {number} temperature
   */
  dreamed(start, steps, temperature) {
    const dream = this.watch(start), path = [dream.z.slice()];
    for (let i = 0; i < steps; i++) {
      dream.step(this.actions[start + i], temperature, this.noise.draw(1, start + i));
      path.push(dream.z.slice());
    }
    return path;
  }

  /**
   * Root mean square difference in grey levels between what V paints from z and a real frame.
   * @param {Float32Array} z @param {number} t
   */
  error(z, t) {
    this.world.decoder.paint(z, this.scratch);
    return difference(this.scratch, this.frames[t]);
  }

  /**
   * Errors in grey levels after 1, 2, … steps of dreaming, averaged over many moments of letting go.
   * @param {number} temperature
   */
  async faithfulness(temperature) {
    const steps = Math.min(75, this.ahead);
    const sums = { dreamed: new Float64Array(steps + 1), still: new Float64Array(steps + 1), seen: new Float64Array(steps + 1) };
    let count = 0;
    for (let start = Math.min(FROM, this.latest - 1); start < this.latest; start += EVERY) {
      const path = this.dreamed(start, steps, temperature);
      for (let i = 0; i <= steps; i++) {
        sums.dreamed[i] += this.error(path[i], start + i);
        sums.still[i] += difference(this.frames[start], this.frames[start + i]);
        sums.seen[i] += this.error(this.seen(start + i), start + i);
      }
      count += 1;
      await new Promise((resolve) => setTimeout(resolve)); // the page stays alive
    }
    for (const curve of Object.values(sums)) for (let i = 0; i <= steps; i++) curve[i] /= count;
    return sums;
  }
}

/** @param {Uint8ClampedArray} a @param {Uint8ClampedArray} b pixels, of which the opacity is left out */
function difference(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 4) {
    sum += (a[i] - b[i]) ** 2 + (a[i + 1] - b[i + 1]) ** 2 + (a[i + 2] - b[i + 2]) ** 2;
  }
  return Math.sqrt(sum / (3 * SIDE * SIDE));
}

/**
 * Puts the section to work.
 * @param {Beside} beside
 * @param {() => number} temperature
 */
export function present(beside, temperature) {
  const picture = (/** @type {string} */ id) =>
    /** @type {CanvasRenderingContext2D} */ (/** @type {HTMLCanvasElement} */ (element(id)).getContext("2d"));
  const real = picture("beside-real"), seen = picture("beside-seen"), dreamed = picture("beside-dreamed");
  const slider = /** @type {HTMLInputElement} */ (element("let-go-at")), play = element("beside-play");
  const earliest = Math.min(5, beside.latest - 1);
  slider.max = String(beside.frames.length); // the timeline's scale: what is outside comes back
  slider.value = "150";
  const pixels = new ImageData(SIDE, SIDE);
  let path = /** @type {Float32Array[]} */ ([]), start = 0, now = 0, playing = false, visible = true, last = 0;

  /** @param {CanvasRenderingContext2D} canvas @param {Float32Array} z */
  const paint = (canvas, z) => {
    beside.world.decoder.paint(z, pixels.data);
    canvas.putImageData(pixels, 0, 0);
  };
  const show = () => {
    const t = Math.floor(now), alone = t - start;
    pixels.data.set(beside.frames[t]);
    real.putImageData(pixels, 0, 0);
    paint(seen, beside.seen(t));
    paint(dreamed, alone < 0 ? beside.seen(t) : path[alone]);
    const total = beside.frames.length;
    element("beside-state").textContent = alone <= 0 ? "M watches" : `M dreams ${(alone / RATE).toFixed(1)}\u00a0s`;
    element("beside-watched").style.width = `${(100 * start) / total}%`;
    element("beside-now").style.left = `${(100 * t) / total}%`;
  };
  const choose = () => {
    start = Math.min(Math.max(Number(slider.value), earliest), beside.latest - 1);
    slider.value = String(start);
    element("let-go-value").textContent = `${(start / RATE).toFixed(1)} s`;
    path = beside.dreamed(start, beside.ahead, temperature());
    now = Math.max(0, start - BEFORE);
    show();
  };
  /** @param {number} time */
  const frame = (time) => {
    if (!playing || !visible) return;
    now += (Math.min(time - last, 100) / 1000) * RATE;
    last = time;
    if (now >= Math.min(start + path.length, beside.frames.length)) now = Math.max(0, start - BEFORE);
    show();
    requestAnimationFrame(frame);
  };
  const run = () => {
    last = performance.now();
    requestAnimationFrame(frame);
  };
  const toggle = () => {
    playing = !playing;
    play.textContent = playing ? "Pause" : "Play";
    if (playing) run();
  };
  slider.addEventListener("input", choose);
  play.addEventListener("click", toggle);
  new IntersectionObserver(([entry]) => {
    const appears = entry.isIntersecting && !visible;
    visible = entry.isIntersecting;
    if (appears && playing) run();
  }).observe(element("beside"));
  choose();
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) toggle();
  beside.faithfulness(temperature()).then((curves) => {
    element("faithful").innerHTML = chart(curves);
    element("faithful-says").textContent = sentence(curves);
  });
}

/** @typedef {{dreamed: Float64Array, still: Float64Array, seen: Float64Array}} Curves */

/** @param {Curves} curves */
export function sentence({ dreamed, still, seen }) {
  const parts = SHOWN.filter((step) => step < dreamed.length);
  const list = (/** @type {Float64Array} */ curve) => parts.map((step) => curve[step].toFixed(0)).join(" / ");
  const better = dreamed.findIndex((error, step) => error < still[step]); // after a step or two a still picture is best
  const worse = dreamed.findIndex((error, step) => step > better && error > still[step]);
  const lasts = better < 0 ? 0 : worse < 0 ? dreamed.length - 1 : worse;
  return `${parts.join(" / ")} steps after M lets go the dream is ${list(dreamed)} grey levels off; a picture that stands still `
    + `is ${list(still)}, and V alone ${seen[0].toFixed(0)}. So the dream follows the real drive for about `
    + `${(lasts / RATE).toFixed(1)} s, then it is a drive of its own. (Root mean square of 0–255, averaged over the recording.)`;
}

/** @param {Curves} curves */
function chart(curves) {
  const width = Math.min(element("faithful").clientWidth, 820), height = 170, left = 34, bottom = 24, top = 12;
  const steps = curves.dreamed.length - 1, most = Math.max(...curves.dreamed, ...curves.still) * 1.1;
  const x = (/** @type {number} */ step) => left + (step / steps) * (width - left - 90);
  const y = (/** @type {number} */ error) => height - bottom - (error / most) * (height - bottom - top);
  const line = (/** @type {Float64Array} */ curve, /** @type {string} */ name) =>
    `<path class="${name}" d="M${Array.from(curve, (error, i) => `${x(i).toFixed(1)} ${y(error).toFixed(1)}`).join("L")}"/>`;
  const names = [["dreamed", "the dream", "m"], ["still", "standing still", ""], ["seen", "V alone", "v"]]
    .map(([name, says, letter]) => ({ says, letter, at: y(curves[/** @type {keyof Curves} */ (name)][steps]) }))
    .sort((a, b) => a.at - b.at);
  names.forEach((name, i) => i && (name.at = Math.max(name.at, names[i - 1].at + 15)));
  const ticks = [0, 10, 20, 30, 40].filter((value) => value < most);
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Error in grey levels after M lets go">`
    + ticks.map((value) => `<line class="rule" x1="${left}" x2="${x(steps)}" y1="${y(value)}" y2="${y(value)}"/>`
      + `<text x="${left - 8}" y="${y(value) + 4}" text-anchor="end">${value}</text>`).join("")
    + [0, 0.5, 1, 1.5].filter((value) => value * RATE <= steps).map((value) =>
      `<text x="${x(value * RATE)}" y="${height - 6}" text-anchor="middle">${value} s</text>`).join("")
    + line(curves.seen, "seen") + line(curves.still, "still") + line(curves.dreamed, "dreamed")
    + names.map(({ says, letter, at }) => `<text class="${letter}" x="${x(steps) + 8}" y="${at + 4}">${says}</text>`).join("")
    + "</svg>";
}

/** @param {string} id */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
