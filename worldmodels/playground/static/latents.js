// @ts-check
// A slider for every number of z, the liveliest first.

const SPREAD = 3; // standard deviations to each side
const ALIVE = 0.2; // standard deviation of a number that says something

/** @typedef {{index: number, row: HTMLElement, slider: HTMLInputElement, hold: HTMLButtonElement, value: HTMLOutputElement}} Latent */

export class Latents {
  /**
   * @param {ArrayLike<number>} mean (Z,)
   * @param {ArrayLike<number>} std (Z,)
   * @param {{hold: (index: number, value: number) => void, release: (...index: number[]) => void}} hands
   */
  constructor(mean, std, { hold, release }) {
    const alive = element("alive"), asleep = element("asleep"), others = element("others");
    const order = Array.from(std, (_, index) => index).sort((a, b) => std[b] - std[a]);
    /** @type {Latent[]} */
    this.all = order.map((index) => {
      const moves = std[index], reach = SPREAD * Math.max(moves, 0.35);
      const row = document.createElement("div");
      row.className = "latent";
      row.innerHTML = `<button aria-pressed="false" aria-label="Hold z ${index + 1}">z ${index + 1}</button>`
        + `<input type="range" step="0.01" aria-label="z ${index + 1}" min="${(mean[index] - reach).toFixed(2)}"`
        + ` max="${(mean[index] + reach).toFixed(2)}"><output>0.0</output>`;
      (moves > ALIVE ? alive : asleep).append(row);
      const [button, slider, value] = /** @type {any} */ (row.children);
      slider.addEventListener("input", () => hold(index, Number(slider.value)));
      button.addEventListener("click", () => {
        if (row.classList.contains("held")) release(index);
        else hold(index, Number(slider.value));
      });
      return { index, row, slider, hold: button, value };
    });
    const quiet = asleep.children.length;
    others.hidden = !quiet;
    /** @type {HTMLElement} */ (others.firstElementChild).textContent = `${quiet} more that hardly move`;
    this.letGo = /** @type {HTMLButtonElement} */ (element("let-go"));
    this.letGo.addEventListener("click", () => release());
    this.visible = true;
    new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting)).observe(element("z"));
  }

  /**
   * @param {Float32Array} z
   * @param {Map<number, number>} held
   */
  show(z, held) {
    if (!this.visible) return;
    for (const { index, row, slider, hold, value } of this.all) {
      const text = z[index].toFixed(1), isHeld = held.has(index);
      if (document.activeElement !== slider || !isHeld) slider.value = String(z[index]);
      if (value.value !== text) value.value = text;
      if (row.classList.toggle("held", isHeld) !== (hold.getAttribute("aria-pressed") === "true")) {
        hold.setAttribute("aria-pressed", String(isHeld));
      }
    }
    this.letGo.disabled = held.size === 0;
  }
}

/** @param {string} id */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
