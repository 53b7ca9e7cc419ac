// @ts-check
// exp, log and random numbers that are the same in every browser, so that a shared link repeats a dream exactly.
// Browsers may differ in the last bit of Math.exp and Math.log; + − × ÷ and square roots they all round alike.

const LN2_HIGH = 6.93147180369123816490e-1, LN2_LOW = 1.90821492927058770002e-10; // fdlibm's e_exp.c and e_log.c
const POWERS = new Float64Array(2200); // 2 to the (i − 1100)
POWERS[1100] = 1;
for (let i = 1101; i < 2124; i++) POWERS[i] = POWERS[i - 1] * 2;
for (let i = 1099; i >= 0; i--) POWERS[i] = POWERS[i + 1] / 2;

/** @param {number} x */
export function exp(x) {
  if (x > 709) return Infinity;
  if (x < -745) return 0;
  const k = Math.floor(x * Math.LOG2E + 0.5);
  const high = x - k * LN2_HIGH, low = k * LN2_LOW, r = high - low, t = r * r;
  const c = r - t * (1.66666666666666019037e-1 + t * (-2.77777777770155933842e-3 + t * (6.61375632143793436117e-5
    + t * (-1.65339022054652515390e-6 + t * 4.13813679705723846039e-8))));
  return (1 - (low - (r * c) / (2 - c) - high)) * POWERS[k + 1100];
}

const word = new DataView(new ArrayBuffer(8));

/** @param {number} x above 0 */
export function log(x) {
  word.setFloat64(0, x);
  let k = (word.getInt32(0) >> 20) - 1023;
  word.setInt32(0, (word.getInt32(0) & 0x000fffff) | 0x3ff00000); // 1 ≤ m < 2
  let m = word.getFloat64(0);
  if (m > Math.SQRT2) {
    m /= 2;
    k += 1;
  }
  const f = m - 1, s = f / (2 + f), z = s * s;
  const r = z * (6.666666666666735130e-1 + z * (3.999999999940941908e-1 + z * (2.857142874366239149e-1
    + z * (2.222219843214978396e-1 + z * (1.818357216161805012e-1 + z * (1.531383769920937332e-1
    + z * 1.479819860511658591e-1))))));
  const half = 0.5 * f * f;
  return k * LN2_HIGH - (half - (s * (half + r) + k * LN2_LOW) - f);
}

/** @param {number} x */
export const sigmoid = (x) => 1 / (1 + exp(-x));

/** @param {number} x */
export const tanh = (x) => 1 - 2 / (exp(2 * x) + 1);

/** Noise that depends on (seed, step) alone: one seed is one road. */
export class Noise {
  /**
   * @param {number} uniforms numbers in (0, 1) a step
   * @param {number} normals standard normal numbers a step
   */
  constructor(uniforms, normals) {
    this.uniform = new Float64Array(uniforms);
    this.normal = new Float64Array(normals);
    this.state = 0;
  }

  /**
   * Draws the noise of a step.
   * @param {number} seed @param {number} step
   */
  draw(seed, step) {
    this.state = mix(mix(seed | 0) ^ Math.imul(step + 1, 0x9e3779b9));
    for (let i = 0; i < this.uniform.length; i++) this.uniform[i] = this.next();
    for (let i = 0; i < this.normal.length; i += 2) {
      let a, b, r;
      do { // Marsaglia's polar method
        a = 2 * this.next() - 1;
        b = 2 * this.next() - 1;
        r = a * a + b * b;
      } while (r >= 1 || r === 0);
      const scale = Math.sqrt((-2 * log(r)) / r);
      this.normal[i] = a * scale;
      if (i + 1 < this.normal.length) this.normal[i + 1] = b * scale;
    }
    return this;
  }

  /** Mulberry32: a number in (0, 1). */
  next() {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  }
}

/**
 * Murmur3's finish: every bit of x moves every bit of the result.
 * @param {number} x
 */
function mix(x) {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}
