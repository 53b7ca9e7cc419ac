// @ts-check
// The page: loads the world, runs the clock, and ties the parts to what is on the screen.

/** @typedef {import("playground/dream.js").Manifest} Manifest */
/** @typedef {import("playground/dream.js").Start} Start */
/** @typedef {import("playground/drive.js").Event} Event */

import { Beside, present } from "playground/beside.js";
import { World } from "playground/dream.js";
import { Drive, HOTTEST, RATE, read, written } from "playground/drive.js";
import { Easel, IDEAS } from "playground/easel.js";
import { Input } from "playground/input.js";
import { Kernel } from "playground/kernel.js";
import { Latents } from "playground/latents.js";
import { Encoder, SIDE } from "playground/vision.js";
import { BadFile, checked, file, tensors } from "playground/weights.js";

const CALM = 0.5; // temperature of a first visit
const LOST = 2 * RATE; // steps off the road until a rescue is offered
const BACK = RATE / 2; // steps before leaving the road to which the rescue returns
const CAR_BRUSHES = [{ name: "Road", colour: "#686868" }, { name: "Grass", colour: "#66cc66" }, { name: "Eraser", colour: null }];

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
const now = () => performance.now();

class Page {
  /**
   * @param {Manifest} manifest
   * @param {World} world
   */
  constructor(manifest, world) {
    this.manifest = manifest;
    this.world = world;
    this.car = manifest.action.kind === "car";
    this.picture = $("picture").getContext("2d");
    this.image = new ImageData(SIDE, SIDE);
    this.between = new Float32Array(world.zSize); // z between two steps
    this.place = 0; // number of the start; −1: a drawing
    /** @type {Start} */
    this.start = world.starts[0];
    this.seed = 0;
    this.first = CALM; // temperature at the start
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.left = 0; // time not yet spent on steps, in steps
    this.last = now();
    this.counts = { steps: 0, pictures: 0, ms: 0, since: now() };
    this.shown = 0; // pictures so far
    this.lost = 0; // steps off the road, less twice the steps on it since
    this.onRoad = 0; // the last step that was not lost at all
    this.looked = 0; // the step of the last look
    /** @type {Encoder | null} */
    this.encoder = null;
    /** @type {Easel | null} */
    this.easel = null;
    /** @type {Drive} */
    this.drive = new Drive(world, this.start, 0, CALM);

    this.input = new Input((wish) => this.ask(wish), (key) => this.shortcut(key));
    this.latents = new Latents(world.mean, world.std, {
      hold: (index, value) => this.tell("h", index, Math.round(value * 100)),
      release: (...index) => this.tell("l", ...index),
    });
    this.furnish();
    this.open();
    addEventListener("hashchange", () => this.open());
    addEventListener("visibilitychange", () => (this.last = now()));
    requestAnimationFrame((time) => this.frame(time));
  }

  // ------------------------------------------------------------------------------------------- which dream

  /** The dream that the address names, or a new one. */
  open() {
    const asked = new URLSearchParams(location.hash.slice(1)), count = this.world.starts.length;
    const number = (/** @type {string} */ name, /** @type {number} */ other, /** @type {number} */ most) => {
      const value = Number(asked.get(name) ?? NaN);
      return Number.isFinite(value) ? Math.min(Math.max(value, 0), most) : other;
    };
    this.seed = Math.floor(number("seed", Math.random() * 1000, 999999));
    this.place = Math.floor(number("start", Math.random() * count, count - 1));
    this.start = this.world.starts[this.place];
    const drawn = asked.get("z")?.split(".").map((part) => Number(part) / 1000) ?? [];
    if (drawn.length === this.world.zSize && drawn.every(Number.isFinite)) [this.place, this.start] = [-1, { z: drawn }];
    this.begin(number("temperature", CALM, HOTTEST), read(asked.get("drive") ?? ""));
  }

  /**
   * The dream from its start.
   * @param {number} temperature
   * @param {Event[]} [script]
   */
  begin(temperature, script = []) {
    this.first = temperature;
    this.drive = new Drive(this.world, this.start, this.seed, temperature, script);
    if (!script.length && !$("returns").checked) this.drive.apply({ at: 0, what: "a", values: [0] });
    this.left = this.lost = this.onRoad = this.looked = 0;
    if (script.length) this.say("Replaying what the link holds. Touch anything and the wheel is yours.");
    $("seed").value = this.seed;
    $("link").hidden = true;
    this.showStart();
    this.showTemperature();
    this.show();
  }

  /** @param {number} place */
  go(place) {
    this.place = (place + this.world.starts.length) % this.world.starts.length;
    this.start = this.world.starts[this.place];
    this.begin(this.drive.temperature);
  }

  again() {
    this.begin(this.drive.temperature);
  }

  /** The address of exactly this dream. */
  link() {
    const parts = [`seed=${this.seed}`];
    if (this.place >= 0) parts.push(`start=${this.place}`);
    else parts.push(`z=${Array.from(this.start.z, (value) => Math.round(value * 1000)).join(".")}`);
    parts.push(`temperature=${this.first}`);
    if (this.drive.events.length) parts.push(`drive=${written(this.drive.events)}`);
    return `${location.href.split("#")[0]}#${parts.join("&")}`;
  }

  // ------------------------------------------------------------------------------------------------ the clock

  /** @param {number} time */
  frame(time) {
    requestAnimationFrame((next) => this.frame(next));
    this.input.poll();
    if (this.drawing) return void (this.last = time);
    if (!this.paused) {
      this.left = Math.min(this.left + ((time - this.last) / 1000) * RATE, RATE / 5); // after a stall: no rush
      const before = now();
      const steps = Math.floor(this.left);
      for (let i = 0; i < steps; i++) this.drive.step();
      this.left -= steps;
      this.show(this.left);
      this.counts.steps += steps;
      this.counts.pictures += 1;
      this.counts.ms += now() - before;
    }
    this.last = time;
    this.measure(time);
  }

  /** @param {number} time */
  measure(time) {
    const { steps, pictures, ms, since } = this.counts, seconds = (time - since) / 1000;
    if (seconds < 1) return;
    $("steps").textContent = (steps / seconds).toFixed(0);
    $("fps").textContent = (pictures / seconds).toFixed(0);
    $("ms").textContent = pictures ? (ms / pictures).toFixed(1) : "0";
    this.counts = { steps: 0, pictures: 0, ms: 0, since: time };
  }

  /** One step by hand. */
  single() {
    this.pause(true);
    this.drive.step();
    this.show();
  }

  /** @param {boolean} paused */
  pause(paused) {
    this.paused = paused;
    $("pause").lastElementChild.textContent = paused ? "Go on" : "Pause";
    $("pause").setAttribute("aria-pressed", String(paused));
  }

  // ---------------------------------------------------------------------------------------------- the person

  /** @param {import("playground/controller.js").Wish | null} wish */
  ask(wish) {
    if (wish) this.tell("w", wish.wheel, wish.gas, wish.brake, wish.choice);
    else if (this.drive.wish) this.tell("f");
    for (const button of $("keys").children) {
      const { side } = button.dataset, down = [...this.input.down.values()].map(String);
      button.classList.toggle("down", down.includes(side));
    }
  }

  /** @param {string} what @param {...number} values */
  tell(what, ...values) {
    this.drive.happen(what, ...values);
    if (this.paused) this.show();
  }

  /** @param {string} key */
  shortcut(key) {
    const act = {
      p: () => this.pause(!this.paused),
      ".": () => this.single(),
      r: () => this.again(),
      n: () => this.go(this.place + 1),
      m: () => $("returns").click(),
      b: () => $("rescue-offer").hidden || this.rescue(),
    }[key];
    act?.();
    return act !== undefined;
  }

  rescue() {
    this.tell("r", Math.max(0, this.onRoad - BACK));
    this.lost = 0;
    this.onRoad = this.drive.time;
    this.show();
    $("screen").focus();
  }

  /** @param {string} text for those who cannot see it */
  say(text) {
    if ($("status").textContent !== text) $("status").textContent = text;
  }

  // ---------------------------------------------------------------------------------------------- the picture

  /**
   * Paints the dream `part` of a step after the step before the last: the display may be faster than the dream.
   * @param {number} [part]
   */
  show(part = 1) {
    const { drive, between } = this, { z } = drive.dream;
    for (let i = 0; i < z.length; i++) between[i] = drive.before[i] + (z[i] - drive.before[i]) * part;
    this.world.decoder.paint(between, this.image.data);
    this.picture.putImageData(this.image, 0, 0);
    this.shown += 1;
    this.showDriver();
    this.showPlace();
    this.latents.show(z, drive.held);
    if (drive.scored) {
      for (const [id, { score }] of Object.entries({ "score-you": drive.dream, "score-agent": drive.alone })) {
        $(id).textContent = score.toFixed(Math.abs(score) < 10 ? 1 : 0);
      }
    }
  }

  showDriver() {
    const { driver, action, replaying } = this.drive, says = driver === "you" ? "You drive" : "C drives";
    if ($("who").dataset.driver !== driver || $("pill").textContent !== says) {
      $("who").dataset.driver = $("screen").dataset.driver = driver;
      $("pill").textContent = says;
      if (!replaying) this.say(driver === "you" ? "You drive" : "The agent drives");
    }
    this.world.actions.gauges.forEach(({ low, high }, i) => {
      const gauge = $("gauges").children[i], bar = gauge.querySelector("i");
      const zero = (Math.max(0, low) - low) / (high - low), value = (action[i] - low) / (high - low);
      bar.style.left = `${100 * Math.min(zero, value)}%`;
      bar.style.right = `${100 - 100 * Math.max(zero, value)}%`;
      gauge.setAttribute("aria-valuenow", action[i].toFixed(2));
    });
  }

  /** On the road or off it, alive or over, running or not. */
  showPlace() {
    const { drive } = this;
    if (this.car) this.look();
    const offered = this.lost >= LOST || (this.lost > 0 && !$("rescue-offer").hidden);
    if (offered && $("rescue-offer").hidden) this.say("Off the road. Press B to go back.");
    $("rescue-offer").hidden = !offered || drive.dream.over;
    if (drive.dream.over && $("ended").hidden) {
      $("ended-text").textContent = `The dream ended after ${(drive.time / RATE).toFixed(1)} s: M expects nothing more.`;
      this.say($("ended-text").textContent);
    }
    $("ended").hidden = !drive.dream.over;
    const badge = drive.replaying ? "a shared drive" : this.paused ? "paused" : document.hasFocus() ? "" : "click here, then the keys drive";
    $("badge").textContent = badge;
    $("badge").hidden = !badge;
  }

  /** On the road or off it; patches of grey in the grass are no road, so a step of it makes up for two in the grass. */
  look() {
    const passed = this.drive.time - this.looked;
    this.looked = this.drive.time;
    this.lost = Math.min(Math.max(this.lost + (onRoad(this.image.data) ? -2 : 1) * passed, 0), 1.5 * LOST);
    if (this.lost === 0) this.onRoad = this.drive.time;
  }

  showTemperature() {
    const { temperature } = this.drive;
    $("temperature").value = temperature;
    $("temperature-value").value = temperature.toFixed(2);
    $("temperature-says").textContent = temperature === 0
      ? "No chance at all: always the likeliest, and each time the same."
      : temperature < 0.7 ? "Calm: what is likely, little surprise."
      : temperature <= 1.05 ? "As uncertain as M really is."
      : "Feverish: things out of nowhere, and things that dissolve.";
  }

  /** The first frame, real and as V keeps it. */
  showStart() {
    const pixels = new ImageData(SIDE, SIDE);
    this.world.decoder.paint(this.start.z, pixels.data);
    $("seen-start").getContext("2d").putImageData(pixels, 0, 0);
    const real = $("real-start").getContext("2d");
    if (this.place < 0 && this.easel) real.drawImage($("easel"), 0, 0);
    else if (this.place < 0) real.putImageData(pixels, 0, 0); // a drawing from a link: only its z came along
    else if (this.frames) real.putImageData(new ImageData(this.frames[this.place], SIDE, SIDE), 0, 0);
    [...$("starts").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.place)));
  }

  // ------------------------------------------------------------------------------------------- the furniture

  /** Everything that depends on the run, and what the buttons do. */
  furnish() {
    const { manifest, world } = this, number = new Intl.NumberFormat("en");
    $("name").textContent = manifest.name;
    $("size-z").textContent = world.zSize;
    $("size-m").textContent = $("count-m").textContent = number.format(manifest.parameters.M);
    $("count-v").textContent = number.format(manifest.parameters.V);
    $("count-c").textContent = number.format(manifest.parameters.C);
    $("version").textContent = manifest.version;
    $("arithmetic").textContent = world.kernel.name;
    $("scores").hidden = !this.drive.scored;
    for (const part of document.querySelectorAll(this.car ? "[data-other]" : "[data-car]")) part.remove();
    world.actions.gauges.forEach(({ name, low, high }) => {
      $("gauges").insertAdjacentHTML("beforeend", `<div class="gauge" role="meter" aria-label="${name}" aria-valuemin="${low}"`
        + ` aria-valuemax="${high}" aria-valuenow="0">${name}<b><i></i></b></div>`);
    });
    this.furnishKeys();

    $("pause").addEventListener("click", () => this.pause(!this.paused));
    $("single").addEventListener("click", () => this.single());
    $("again").addEventListener("click", () => this.again());
    $("ended-again").addEventListener("click", () => this.again());
    $("another").addEventListener("click", () => this.go(this.place + 1));
    $("rescue").addEventListener("click", () => this.rescue());
    $("temperature").addEventListener("input", () => {
      this.tell("t", Math.round($("temperature").value * 100));
      this.showTemperature();
    });
    $("seed").addEventListener("change", () => {
      this.seed = Math.min(Math.max(Math.floor(Number($("seed").value)) || 0, 0), 999999);
      this.again();
    });
    $("new-seed").addEventListener("click", () => {
      this.seed = Math.floor(Math.random() * 1000);
      this.again();
    });
    $("share").addEventListener("click", () => this.share());
    $("mode-drive").addEventListener("click", () => this.mode(false));
    $("mode-draw").addEventListener("click", () => this.mode(true));
    $("mode-draw").disabled = true; // until the encoder is here
    this.pause(this.paused);
  }

  /** The keys, as buttons for a finger that light up with the keyboard. */
  furnishKeys() {
    const { choices, pedals } = this.world.actions;
    /** @type {[string | number, string, string][]} */
    const keys = choices
      ? Array.from({ length: Math.min(choices, 9) }, (_, i) => [i, String(i + 1), `action ${i + 1}`])
      : [["left", "←", "left"], ["right", "→", "right"], ...(pedals ? /** @type {any} */ ([["gas", "↑", "gas"], ["brake", "↓", "brake"]]) : [])];
    for (const [side, sign, name] of keys) {
      $("keys").insertAdjacentHTML("beforeend", `<button data-side="${side}"><b aria-hidden="true">${sign}</b><span>${name}</span></button>`);
      this.input.bind($("keys").lastElementChild, /** @type {any} */ (side));
    }
    this.input.bindScreen($("screen"));
    const how = choices ? `Keys 1–${Math.min(choices, 9)}` : "Arrow keys or WASD";
    $("keys-help").innerHTML = `${how}, a finger on the picture, or a gamepad take over at once. `
      + `<span class="typed"><kbd>P</kbd> pause · <kbd>.</kbd> step · <kbd>R</kbd> again · <kbd>N</kbd> another start</span>`;
    $("returns").addEventListener("change", () => this.tell("a", Number($("returns").checked)));
  }

  async share() {
    const link = this.link();
    history.replaceState(null, "", link);
    $("link").value = link;
    $("link").hidden = false;
    try {
      await navigator.clipboard.writeText(link);
      this.say("The link is copied.");
      $("share").lastChild.textContent = "Copied";
      setTimeout(() => ($("share").lastChild.textContent = "Copy link"), 2000);
    } catch {
      $("link").select(); // no permission: the person copies it
    }
  }

  // --------------------------------------------------------------------------------- what comes after the dream

  /** Real frames on the buttons of the starts. */
  async furnishStarts() {
    this.frames = await sprite("starts.webp", this.manifest, this.manifest.starts);
    this.frames.forEach((pixels, i) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      canvas.width = canvas.height = SIDE;
      /** @type {any} */ (canvas.getContext("2d")).putImageData(new ImageData(pixels, SIDE, SIDE), 0, 0);
      button.append(canvas);
      button.setAttribute("aria-label", `Start ${i + 1}`);
      button.addEventListener("click", () => this.go(i));
      $("starts").append(button);
    });
    this.showStart();
  }

  /** V's other half: drawing, and real beside dream. */
  async furnishEncoder() {
    const found = tensors(await checked("encoder.safetensors", this.manifest.files["encoder.safetensors"]));
    const floats = Object.values(found).reduce((sum, tensor) => sum + tensor.values.length, 1 << 18);
    const encoder = (this.encoder = new Encoder(await Kernel.open(floats, code), found));
    const brushes = this.car ? CAR_BRUSHES : [...palette(this.frames ?? []), { name: "Eraser", colour: null }];
    const easel = (this.easel = new Easel($("easel"), $("cursor"), brushes, () => this.understand()));
    for (const brush of brushes) {
      const button = document.createElement("button");
      button.innerHTML = `${brush.colour ? `<i class="swatch" style="background:${brush.colour}"></i>` : ""}${brush.name}`;
      button.setAttribute("aria-pressed", String(brush === easel.brush));
      button.addEventListener("click", () => {
        easel.brush = brush;
        for (const other of $("brushes").children) other.setAttribute("aria-pressed", String(other === button));
      });
      $("brushes").append(button);
    }
    if (this.car) {
      for (const [name, roads] of Object.entries(IDEAS)) {
        const button = document.createElement("button");
        button.textContent = name;
        button.addEventListener("click", () => easel.idea(roads, brushes[0], brushes[1]));
        $("ideas").append(button);
      }
    }
    $("brush-width").addEventListener("input", () => {
      easel.width = Number($("brush-width").value);
      $("brush-width-value").value = easel.width;
    });
    $("undo").addEventListener("click", () => easel.undo());
    $("first-frame").addEventListener("click", () => this.layFirst());
    $("photo").addEventListener("change", async () => {
      const [photo] = $("photo").files;
      $("photo").value = "";
      try {
        if (photo) await easel.layPhoto(photo);
      } catch {
        this.say("That file is no picture that this browser can open.");
        $("status").classList.remove("visually-hidden");
      }
    });
    $("dream-on").addEventListener("click", () => this.dreamOn());
    $("mode-draw").disabled = false;

    const frames = await sprite("drive.webp", this.manifest, this.manifest.drive);
    this.beside = new Beside(this.world, encoder, frames, found["drive.actions"].values, this.manifest.action.size);
    new IntersectionObserver(([entry], observer) => {
      if (!entry.isIntersecting || !this.beside) return;
      observer.disconnect();
      present(this.beside, () => this.drive.temperature);
    }, { rootMargin: "200px" }).observe($("beside"));
  }

  // ------------------------------------------------------------------------------------------------- drawing

  /** @param {boolean} drawing */
  mode(drawing) {
    this.drawing = drawing;
    $("stage").dataset.mode = drawing ? "draw" : "drive";
    for (const part of document.querySelectorAll(".for-drive")) /** @type {HTMLElement} */ (part).hidden = drawing;
    for (const part of document.querySelectorAll(".for-draw")) /** @type {HTMLElement} */ (part).hidden = !drawing;
    $("picture").hidden = drawing;
    $("easel").hidden = !drawing;
    $("cursor").hidden = true;
    for (const id of ["rescue-offer", "ended", "badge"]) $(id).hidden = true;
    $("mode-drive").setAttribute("aria-pressed", String(!drawing));
    $("mode-draw").setAttribute("aria-pressed", String(drawing));
    $("screen").setAttribute("aria-label", drawing ? "Your drawing: arrow keys move the brush, space paints" : "The dream: the arrow keys drive");
    this.input.enabled = !drawing;
    this.input.clear();
    if (drawing && this.easel && !this.easel.history.length) this.layFirst();
    else if (!drawing) this.show();
  }

  layFirst() {
    this.easel?.lay(this.place < 0 ? $("seen-start") : $("real-start"));
  }

  /** What V makes of the drawing, at once. */
  understand() {
    if (!this.easel || !this.encoder) return;
    $("drawn").getContext("2d").drawImage($("easel"), 0, 0);
    this.drawnZ = this.encoder.encode(this.easel.pixels().data).map((value) => Math.round(value * 1000) / 1000); // as a link writes it
    const pixels = new ImageData(SIDE, SIDE);
    this.world.decoder.paint(this.drawnZ, pixels.data);
    $("understood").getContext("2d").putImageData(pixels, 0, 0);
  }

  dreamOn() {
    this.place = -1;
    this.start = { z: this.drawnZ ?? this.start.z };
    this.mode(false);
    this.begin(this.drive.temperature);
    this.pause(false);
    this.say("M dreams on from your drawing.");
    $("screen").focus();
  }
}

/**
 * Whether the car stands on the road, by the pixels around it: grass is green, road is grey.
 * @param {Uint8ClampedArray} pixels
 */
export function onRoad(pixels) {
  let grass = 0, all = 0;
  for (let y = 43; y < 54; y++) {
    for (let x = 27; x < 38; x++) {
      if (x > 29 && x < 35) continue; // the car itself
      const i = 4 * (y * SIDE + x), [r, g, b] = [pixels[i], pixels[i + 1], pixels[i + 2]];
      grass += +(g > r + 35 && g > b + 35);
      all += 1;
    }
  }
  return grass < 0.7 * all;
}

/**
 * The four colours that frames have most of, as brushes.
 * @param {Uint8ClampedArray[]} frames
 */
function palette(frames) {
  /** @type {Map<number, number>} */
  const counts = new Map();
  for (const pixels of frames.slice(0, 8)) {
    for (let i = 0; i < pixels.length; i += 4) {
      const key = ((pixels[i] >> 5) << 6) | ((pixels[i + 1] >> 5) << 3) | (pixels[i + 2] >> 5);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4);
  return most.map(([key], i) => ({
    name: `Colour ${i + 1}`,
    colour: `rgb(${[key >> 6, (key >> 3) & 7, key & 7].map((part) => part * 32 + 16).join(" ")})`,
  }));
}

/**
 * The frames of a sprite as pixels.
 * @param {string} name @param {Manifest} manifest @param {number} count
 * @returns {Promise<Uint8ClampedArray<ArrayBuffer>[]>}
 */
async function sprite(name, { files, columns }, count) {
  const picture = await createImageBitmap(new Blob([await checked(name, files[name])], { type: "image/webp" }));
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const paint = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  paint.drawImage(picture, 0, 0);
  return Array.from({ length: count }, (_, i) =>
    paint.getImageData((i % columns) * SIDE, Math.floor(i / columns) * SIDE, SIDE, SIDE).data);
}

/** @param {unknown} error */
function trouble(error) {
  $("trouble").textContent = error instanceof BadFile ? error.message
    : `Something in the page went wrong (${error instanceof Error ? error.message : error}): reload it.`;
  $("trouble").hidden = false;
  if (!(error instanceof BadFile)) console.error(error);
}

/** @type {ArrayBuffer | null} */
let code = null;

try {
  const plain = new URLSearchParams(location.search).has("plain"); // ?plain computes without WebAssembly
  /** @type {[Manifest, ArrayBuffer | null]} */
  const [manifest, kernel] = await Promise.all([
    file("playground.json").then((content) => JSON.parse(new TextDecoder().decode(content))),
    plain ? null : file("kernel.wasm"),
  ]);
  code = kernel;
  const model = tensors(await checked("model.safetensors", manifest.files["model.safetensors"]));
  const page = new Page(manifest, await World.open(manifest, model, code));
  Object.assign(globalThis, { playground: page }); // for experiments in the console
  performance.mark("first picture");
  await page.furnishStarts();
  await page.furnishEncoder();
  document.documentElement.dataset.ready = "true";
} catch (error) {
  trouble(error);
}
