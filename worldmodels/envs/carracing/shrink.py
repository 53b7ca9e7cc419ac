"""The arithmetic of `pygame.transform.smoothscale` from a window of 1000x800 to a frame of 96x96.

pygame-ce 2.5.8 shrinks with SSE2 on every x86-64 processor and with the same code as NEON on ARM: columns first, each to
eight bits, then rows. A pixel of the frame sums the share of a window pixel that the one before has left, all window
pixels inside, and the share of the last one, every term rounded down, and scales the sum by a rounded-down reciprocal.
"""

import numpy as np
from numba import njit

from worldmodels.envs.carracing.state import STATE_H, STATE_W, WINDOW_H, WINDOW_W

ONE_PIXEL = 0x4000
# fixed point: window pixels per frame pixel in 1/16384, and the reciprocal in 1/65536
COLUMN_SPACE, ROW_SPACE = ONE_PIXEL * WINDOW_W // STATE_W, ONE_PIXEL * WINDOW_H // STATE_H
COLUMN_SCALE, ROW_SCALE = 0x40000000 // COLUMN_SPACE, 0x40000000 // ROW_SPACE

# Columns of an axis table, int64 (96, 4): pixel i of the frame sums parts of two window pixels and all between them
FIRST, CARRY, LAST, PART = range(4)


def axis_table(space: int, source: int) -> np.ndarray:
    """The weights, in 1/16384, of `filter_shrink_X/Y_SSE2` for an axis of `source` window pixels: int64 (96, 4)."""
    table = np.zeros((96, 4), np.int64)
    table[0, FIRST] = -1  # nothing is carried into the first
    counter, index = space, 0
    for pixel in range(source):
        if counter > ONE_PIXEL:
            counter -= ONE_PIXEL
            continue
        table[index, LAST], table[index, PART] = pixel, counter
        index += 1
        if index == len(table):
            break
        table[index, FIRST], table[index, CARRY] = pixel, ONE_PIXEL - counter
        counter += space - ONE_PIXEL
    return table


COLUMNS, ROWS = axis_table(COLUMN_SPACE, WINDOW_W), axis_table(ROW_SPACE, WINDOW_H)


@njit(cache=True, error_model="numpy")
def shrink_window(window, out) -> None:
    """window uint32 (800,1000) of 0x00RRGGBB to out uint8 (96,288)."""
    rows = np.zeros((WINDOW_H, 3 * STATE_W), np.int64)
    for y in range(WINDOW_H):
        for k in range(STATE_W):
            first, last = COLUMNS[k, FIRST], COLUMNS[k, LAST]
            for channel in range(3):
                shift = 16 - 8 * channel
                total = ((int(window[y, last]) >> shift & 255) * COLUMNS[k, PART]) >> 14
                if first >= 0:
                    total += ((int(window[y, first]) >> shift & 255) * COLUMNS[k, CARRY]) >> 14
                for x in range(first + 1, last):
                    total += int(window[y, x]) >> shift & 255
                rows[y, 3 * k + channel] = total * COLUMN_SCALE >> 16
    for i in range(STATE_H):
        first, last = ROWS[i, FIRST], ROWS[i, LAST]
        for k in range(3 * STATE_W):
            total = rows[last, k] * ROWS[i, PART] >> 14
            if first >= 0:
                total += rows[first, k] * ROWS[i, CARRY] >> 14
            for y in range(first + 1, last):
                total += rows[y, k]
            out[i, k] = total * ROW_SCALE >> 16
