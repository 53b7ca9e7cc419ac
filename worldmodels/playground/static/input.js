// @ts-check
// What a person asks for, from keys, buttons on the page, a finger on the picture, or a gamepad.

/** @typedef {import("playground/controller.js").Wish} Wish */

const KEYS = /** @type {Record<string, Side>} */ ({
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "gas", ArrowDown: "brake",
  KeyA: "left", KeyD: "right", KeyW: "gas", KeyS: "brake",
});
/** @typedef {"left" | "right" | "gas" | "brake"} Side */

const DEAD = 0.15; // of a gamepad's stick

export class Input {
  /**
   * @param {(wish: Wish | null) => void} changed called when the wish changes; null: nobody touches anything
   * @param {(key: string) => boolean} shortcut a letter was pressed; true when it meant something
   */
  constructor(changed, shortcut) {
    this.changed = changed;
    /** @type {Map<string, Side | number>} what is down, by key or button: a side, or the number of a choice */
    this.down = new Map();
    /** @type {{wheel: number, gas: number, brake: number} | null} */
    this.finger = null;
    /** @type {Wish | null} */
    this.pad = null;
    this.said = "null";
    this.enabled = true;

    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.enabled || writing(event.target)) return;
      const side = KEYS[event.code] ?? digit(event.key);
      if (side !== undefined) {
        event.preventDefault(); // arrows would scroll
        this.press(event.code, side);
      } else if (!event.repeat && shortcut(event.key.toLowerCase())) event.preventDefault();
    });
    addEventListener("keyup", (event) => this.release(event.code));
    addEventListener("blur", () => this.clear());
    document.addEventListener("visibilitychange", () => this.clear());
  }

  /** @param {string} key @param {Side | number} side */
  press(key, side) {
    this.down.set(key, side);
    this.tell();
  }

  /** @param {string} key */
  release(key) {
    if (this.down.delete(key)) this.tell();
  }

  clear() {
    this.down.clear();
    this.finger = null;
    this.tell();
  }

  /**
   * A button of the page that is a key.
   * @param {HTMLElement} button
   * @param {Side | number} side
   */
  bind(button, side) {
    const key = `button ${side}`;
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      this.press(key, side);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) {
      button.addEventListener(end, () => this.release(key));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") this.press(key, side);
    });
    button.addEventListener("keyup", () => this.release(key));
  }

  /**
   * The picture as a joystick: left and right of its middle steer, above is gas, below brake.
   * @param {HTMLElement} screen
   */
  bindScreen(screen) {
    /** @param {PointerEvent} event */
    const move = (event) => {
      const box = screen.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * 2 - 1, y = ((event.clientY - box.top) / box.height) * 2 - 1;
      this.finger = { wheel: clamp(x * 1.5, 1), gas: clamp(Math.max(-y * 1.5, 0), 1), brake: clamp(Math.max(y * 1.5 - 0.3, 0), 1) };
      this.tell();
    };
    screen.addEventListener("pointerdown", (event) => {
      if (!this.enabled || /** @type {Element} */ (event.target).closest("button")) return;
      screen.setPointerCapture(event.pointerId);
      move(event);
    });
    screen.addEventListener("pointermove", (event) => {
      if (this.finger) move(event);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      screen.addEventListener(end, () => {
        this.finger = null;
        this.tell();
      });
    }
  }

  /** Asks the gamepads; to be called before every picture. */
  poll() {
    let pad = null;
    for (const found of navigator.getGamepads?.() ?? []) {
      if (!found) continue;
      const [x = 0] = found.axes, value = (/** @type {number} */ button) => found.buttons[button]?.value ?? 0;
      const wheel = Math.abs(x) > DEAD ? x : value(15) - value(14); // the cross, where the stick rests
      const gas = Math.max(value(7), value(0)), brake = Math.max(value(6), value(1));
      if (wheel || gas > DEAD || brake > DEAD) pad = { wheel, gas, brake, choice: -1 };
    }
    this.pad = pad;
    this.tell();
  }

  /** @returns {Wish | null} in tenths, as a link writes it */
  wish() {
    if (this.pad && !this.down.size && !this.finger) return tenths(this.pad);
    if (!this.down.size && !this.finger) return null;
    const sides = [...this.down.values()], has = (/** @type {Side} */ side) => +sides.includes(side);
    const choice = sides.findLast((side) => typeof side === "number");
    return tenths({
      wheel: has("right") - has("left") || (this.finger?.wheel ?? 0),
      gas: has("gas") || (this.finger?.gas ?? 0),
      brake: has("brake") || (this.finger?.brake ?? 0),
      choice: typeof choice === "number" ? choice : -1,
    });
  }

  tell() {
    const wish = this.enabled ? this.wish() : null, text = JSON.stringify(wish);
    if (text === this.said) return;
    this.said = text;
    this.changed(wish);
  }
}

/** @param {Wish} wish */
const tenths = ({ wheel, gas, brake, choice }) => ({
  wheel: Math.round(wheel * 10), gas: Math.round(gas * 10), brake: Math.round(brake * 10), choice,
});

/** @param {number} value @param {number} most */
const clamp = (value, most) => Math.min(Math.max(value, -most), most);

/** @param {string} key "1" is choice 0 */
const digit = (key) => (/^[1-9]$/.test(key) ? Number(key) - 1 : undefined);

/**
 * Whether keys belong to what has the focus: a field, or a slider.
 * @param {EventTarget | null} target
 */
const writing = (target) => target instanceof HTMLElement && target.matches("input:not([type=file]), textarea, select, summary");
