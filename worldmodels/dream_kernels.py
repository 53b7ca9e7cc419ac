"""The dream's inner loops, compiled: noise, the LSTM's gates, the mixture's sample, and C.

All in one file, since numba's cache notices a change of a kernel's own file, not of the files whose kernels it calls.

Shapes: N lanes, B some of them, Z latent, H hidden, O C's outputs.
"""

from typing import Any

import numpy as np
from numba import njit

FAST: dict[str, Any] = {
    "fastmath": {"contract", "nsz", "arcp", "nnan", "ninf"},  # no reordering of sums
    "error_model": "numpy",  # division without a check: only so do loops become vector instructions
    "cache": True,
}


# -------------------------------------------------------------------------------------------------- noise


@njit(cache=True)
def _bits(key, counter):  # type: ignore[no-untyped-def]
    """64 random bits: number `counter` of the SplitMix64 generator seeded with `key` (Steele et al. 2014)."""
    x = np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _draw(key, step, uniform, normal):  # type: ignore[no-untyped-def]
    """Fill uniform (Z,) in [0, 1) and normal (Z,) with the noise of (key, step)."""
    size = uniform.shape[0]
    mixed = _bits(key, step)
    for i in range(size):
        bits = _bits(mixed, i)
        uniform[i] = np.float32(bits >> np.uint64(40)) * np.float32(2.0**-24)
    for i in range(0, size, 2):  # Box and Muller: two at a time
        bits = _bits(mixed, size + i)
        radius = (np.float32(bits >> np.uint64(40)) + np.float32(0.5)) * np.float32(2.0**-24)
        angle = np.float32((bits >> np.uint64(8)) & np.uint64(0xFFFFFF)) * np.float32(2 * np.pi * 2.0**-24)
        radius = np.sqrt(np.float32(-2) * np.log(radius))
        normal[i] = radius * np.cos(angle)
        if i + 1 < size:
            normal[i + 1] = radius * np.sin(angle)


@njit(cache=True)
def _noise(keys, steps, uniform, normal):  # type: ignore[no-untyped-def]
    for lane in range(len(keys)):
        _draw(keys[lane], steps[lane], uniform[lane], normal[lane])


def noise(keys: np.ndarray, steps: np.ndarray, z_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise of integer `keys` (N,) at `steps` (N,): uniform in [0, 1) and standard normal, float32 (N, Z) each."""
    uniform, normal = np.empty((2, len(keys), z_size), dtype=np.float32)
    _noise(keys.astype(np.int64), steps.astype(np.int64), uniform, normal)
    return uniform, normal


# ----------------------------------------------------------------------------------------------- M and C


@njit(inline="always", **FAST)
def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x) in float32 within 1e-7, in a form that the compiler turns into vector instructions (Cephes, expf)."""
    x = min(max(x, np.float32(-87)), np.float32(87))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)
    r = r + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always", **FAST)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return np.float32(1) / (np.float32(1) + _exp(-x))


@njit(inline="always", **FAST)
def _tanh(x):  # type: ignore[no-untyped-def]
    return np.float32(1) - np.float32(2) / (np.float32(1) + _exp(x + x))


@njit(cache=True, inline="always")
def _strange(row):  # type: ignore[no-untyped-def]
    """Whether one of these float32 is NaN or infinite; from their bits, as the fast arithmetic does not know NaN."""
    largest = np.int32(0)
    for j in range(len(row)):
        largest = max(largest, np.float32(row[j]).view(np.int32) & np.int32(0x7FFFFFFF))
    return largest >= np.int32(0x7F800000)


@njit(nogil=True, **FAST)
def cell(gates, lanes, x, first_h, c):  # type: ignore[no-untyped-def]
    """The LSTM's gates (B, 4H: input, forget, cell, output) of `lanes` (B,) → their h (in x (N, …) from column
    `first_h` on) and c (N, H).

    Returns the first of them whose gates are no numbers, or −1.
    """
    size = c.shape[1]
    for row in range(len(lanes)):
        lane = lanes[row]
        if _strange(gates[row]):
            return lane
        i, f, g, o = (
            gates[row, :size], gates[row, size : 2 * size], gates[row, 2 * size : 3 * size], gates[row, 3 * size :],
        )  # fmt: skip
        kept, h = c[lane], x[lane, first_h:]
        for j in range(size):
            kept[j] = _sigmoid(f[j]) * kept[j]
        for j in range(size):
            kept[j] += _sigmoid(i[j]) * _tanh(g[j])
        for j in range(size):
            h[j] = _sigmoid(o[j]) * _tanh(kept[j])
    return -1


@njit(nogil=True, **FAST)
def imagine(  # type: ignore[no-untyped-def]
    out, lanes, keys, steps, temperature, size, gaussians, rows, low, high, reward_at, reward_scale, step_reward,
    terminal_at, death, x, reward, end,
):  # fmt: skip
    """M's head (B, …) of `lanes` (B,) → their next z (in x), reward and end (N,), and their steps + 1.

    Returns the first of them whose head is no number, or −1.
    """
    uniform, normal = np.empty(size, np.float32), np.empty(size, np.float32)
    weights = np.empty(rows * gaussians, np.float32)
    spread = np.float32(np.sqrt(temperature))
    means, log_sigmas = rows * gaussians, (rows + size) * gaussians
    for place in range(len(lanes)):
        lane, said = lanes[place], out[place]
        if _strange(said):
            return lane
        for row in range(rows):
            likeliest = said[row * gaussians]
            for k in range(1, gaussians):
                likeliest = max(likeliest, said[row * gaussians + k])
            for k in range(gaussians):
                weights[row * gaussians + k] = said[row * gaussians + k] - likeliest
        if temperature > 0:
            for i in range(rows * gaussians):
                weights[i] = _exp(weights[i] / temperature)
            _draw(keys[lane], steps[lane], uniform, normal)
        chosen = 0
        for i in range(size):
            if i < rows:
                first = i * gaussians
                chosen = 0
                if temperature > 0:
                    total = np.float32(0)
                    for k in range(gaussians):
                        total += weights[first + k]
                    below, target = weights[first], uniform[i] * total
                    while chosen < gaussians - 1 and target >= below:
                        chosen += 1
                        below += weights[first + chosen]
                else:
                    while weights[first + chosen] < 0:
                        chosen += 1
            drawn = i * gaussians + chosen
            x[lane, i] = said[means + drawn]
            if temperature > 0:
                sigma = _exp(min(max(said[log_sigmas + drawn], low), high))
                x[lane, i] += spread * sigma * normal[i]
        reward[lane] = said[reward_at] * reward_scale if reward_at >= 0 else step_reward
        end[lane] = terminal_at >= 0 and said[terminal_at] > death
        steps[lane] += 1
    return -1


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def control(lanes, x, c, first_h, z_size, inputs, parameters, candidates, out):  # type: ignore[no-untyped-def]
    """C's raw outputs (B, O) in `lanes` (B,), where `candidates` (B,) act.

    Their parameter vectors are O rows of weights, then O biases where there is room. `inputs` counts the vectors of h
    and c that C sees beside z: 0, 1 (h) or 2 (c, then h).
    """
    outputs, size = out.shape[1], c.shape[1]
    width = z_size + inputs * size
    for i in range(len(lanes)):
        lane, row = lanes[i], parameters[candidates[i]]
        z, h, inner = x[lane, :z_size], x[lane, first_h:], c[lane]
        for o in range(outputs):
            weights, total = row[o * width : (o + 1) * width], np.float32(0)
            of_z, of_c, of_h = weights[:z_size], weights[z_size : width - size], weights[width - size :]
            for j in range(z_size):
                total += of_z[j] * z[j]
            if inputs == 2:
                for j in range(size):
                    total += of_c[j] * inner[j]
            if inputs >= 1:
                for j in range(size):
                    total += of_h[j] * h[j]
            out[i, o] = total + (row[outputs * width + o] if len(row) > outputs * width else np.float32(0))
