// @ts-check
// Draw a road: brushes on a frame of 64 × 64, and a pencil for the keyboard.

import { SIDE } from "playground/vision.js";

/** @typedef {{name: string, colour: string | null}} Brush  null: what the frame showed */

/** Roads to begin with, as curves through points of the frame, from the car on. */
export const IDEAS = /** @type {Record<string, number[][][]>} */ ({
  "S-bend": [[[32, 66], [32, 46], [32, 40], [18, 30], [18, 24], [40, 14], [42, 8], [38, -4]]],
  "Hairpin": [[[32, 66], [32, 40], [32, 18], [24, 8], [12, 10], [8, 24], [8, 50], [8, 66]]],
  "Fork": [[[32, 66], [32, 42], [32, 34], [12, 8], [4, -4]], [[32, 42], [32, 34], [52, 8], [60, -4]]],
  "Right, at once": [[[32, 66], [32, 44], [34, 34], [46, 30], [70, 30]]],
});

export class Easel {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} cursor where the brush is
   * @param {Brush[]} brushes
   * @param {() => void} changed
   */
  constructor(canvas, cursor, brushes, changed) {
    this.canvas = canvas;
    this.cursor = cursor;
    this.paint = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    this.ground = document.createElement("canvas"); // what the eraser brings back
    this.ground.width = this.ground.height = SIDE;
    this.brush = brushes[0];
    this.width = 11;
    this.changed = changed;
    /** @type {ImageData[]} */
    this.history = [];
    /** @type {number[] | null} */
    this.at = null;
    this.pencil = [SIDE / 2, SIDE / 2];
    this.pencilDown = false;

    const screen = /** @type {HTMLElement} */ (canvas.parentElement);
    screen.addEventListener("pointerdown", (event) => {
      if (canvas.hidden) return;
      screen.setPointerCapture(event.pointerId);
      this.begin(this.point(event));
    });
    screen.addEventListener("pointermove", (event) => {
      if (canvas.hidden) return;
      this.show(this.point(event));
      if (this.at && !this.pencilDown) this.line(this.point(event));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      screen.addEventListener(end, () => {
        if (!this.pencilDown) this.at = null;
      });
    }
    screen.addEventListener("pointerleave", () => (cursor.hidden = true));
    screen.addEventListener("keydown", (event) => {
      if (!canvas.hidden && event.target === screen) this.key(event);
    });
  }

  /** @param {PointerEvent} event */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const step = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] }[event.key];
    if (step) {
      this.pencil = this.pencil.map((value, i) => Math.min(Math.max(value + step[i], 0), SIDE));
      if (this.pencilDown) this.line(this.pencil);
    } else if (event.key === " ") {
      this.pencilDown = !this.pencilDown;
      if (this.pencilDown) this.begin(this.pencil);
      else this.at = null;
    } else return;
    event.preventDefault();
    this.show(this.pencil);
  }

  /** @param {number[]} point */
  show([x, y]) {
    const { style } = this.cursor;
    [style.left, style.top] = [x, y].map((value) => `${(100 * value) / SIDE}%`);
    style.width = style.height = `${(100 * this.width) / SIDE}%`;
    this.cursor.hidden = false;
  }

  /**
   * A new picture to paint on.
   * @param {CanvasImageSource} picture
   */
  lay(picture) {
    this.remember();
    this.paint.drawImage(picture, 0, 0, SIDE, SIDE);
    this.ground.getContext("2d")?.drawImage(this.canvas, 0, 0);
    this.changed();
  }

  /**
   * A photo, its middle cut out square.
   * @param {Blob} blob
   */
  async layPhoto(blob) {
    const picture = await createImageBitmap(blob), side = Math.min(picture.width, picture.height);
    const square = document.createElement("canvas");
    square.width = square.height = SIDE;
    const paint = /** @type {CanvasRenderingContext2D} */ (square.getContext("2d"));
    paint.imageSmoothingQuality = "high";
    paint.drawImage(picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    this.lay(square);
  }

  remember() {
    this.history.push(this.pixels());
    if (this.history.length > 50) this.history.shift();
  }

  undo() {
    const before = this.history.pop();
    if (before) this.paint.putImageData(before, 0, 0);
    this.changed();
  }

  /** @param {number[]} point */
  begin(point) {
    this.remember();
    this.at = point;
    this.line(point);
  }

  /** @param {number[]} to */
  line(to) {
    this.stroke([this.at ?? to, to], this.brush, this.width);
    this.at = to;
    this.changed();
  }

  /**
   * A smooth line through points.
   * @param {number[][]} points
   * @param {Brush} brush
   * @param {number} width
   */
  stroke(points, brush, width) {
    const { paint } = this;
    const earth = brush.colour ?? paint.createPattern(this.ground, "no-repeat") ?? "";
    Object.assign(paint, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: earth });
    paint.beginPath();
    paint.moveTo(points[0][0], points[0][1]);
    for (let i = 1; i < points.length - 1; i++) {
      const [x, y] = points[i], [nextX, nextY] = points[i + 1];
      paint.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    const [x, y] = points[points.length - 1];
    paint.lineTo(x, y);
    paint.stroke();
  }

  /**
   * A road on nothing but grass, the panel below left as it is.
   * @param {number[][][]} roads
   * @param {Brush} road
   * @param {Brush} grass
   */
  idea(roads, road, grass) {
    this.remember();
    this.paint.fillStyle = grass.colour ?? "";
    this.paint.fillRect(0, 0, SIDE, 56);
    this.paint.save();
    this.paint.beginPath();
    this.paint.rect(0, 0, SIDE, 56);
    this.paint.clip();
    for (const points of roads) this.stroke(points, road, 12);
    this.paint.restore();
    this.changed();
  }

  pixels() {
    return this.paint.getImageData(0, 0, SIDE, SIDE);
  }
}
