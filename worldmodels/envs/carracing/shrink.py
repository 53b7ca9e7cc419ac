"""The arithmetic of `pygame.transform.smoothscale` from a window of 1000x800 to a frame of 96x96.

pygame-ce 2.5.8 shrinks with SSE2 on every x86-64 processor, and with the same code as NEON on ARM: columns first, each
to eight bits, then rows. A pixel of the frame sums the share of a window pixel that the one before has left, all window
pixels inside, and the share of the last one, every term rounded down, and scales the sum by a rounded-down reciprocal.

Legend: window uint32 (800, 1000) of 0x00RRGGBB; cell (i, k): the window pixels that pixel (i, k) of the frame sums, of
which the first row and column belong to the cells before as well; mixed uint8 (97, 97): cells of more than one colour.
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
    table = np.zeros((96, 4), np.int64)  # nothing of pixel 0 is carried into the first
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


@njit(cache=True, error_model="numpy", inline="always")
def sum_of_three(value, carry, last, part, total, scale):
    """One channel of one pixel: shares of the first and the last window pixel, and the sum of those between."""
    return ((value * carry >> 14) + total + (last * part >> 14)) * scale >> 16


@njit(cache=True, error_model="numpy")
def shrink_cell(window, i, k) -> tuple[int, int, int]:
    """Pixel (i, k) of the frame: red, green, blue."""
    left, left_share, right, right_share = COLUMNS[k, 0], COLUMNS[k, 1], COLUMNS[k, 2], COLUMNS[k, 3]
    top, top_share, bottom, bottom_share = ROWS[i, 0], ROWS[i, 1], ROWS[i, 2], ROWS[i, 3]
    start = left + 1 if k else 0
    red, green, blue = 0, 0, 0
    if top < 0 or left < 0 or start < 0 or right < 0:  # never; spares the compiler what negative indices would need
        return red, green, blue
    for y in range(top, bottom + 1):
        red_blue, greens = 0, 0  # two sums of 16 bits each in one number
        for x in range(start, start + 9):
            red_blue += window[y, x] & 0xFF00FF
            greens += window[y, x] & 0x00FF00
        if start + 9 < right:
            red_blue += window[y, start + 9] & 0xFF00FF
            greens += window[y, start + 9] & 0x00FF00
        a, b = int(window[y, left]), int(window[y, right])
        r = sum_of_three(a >> 16, left_share, b >> 16, right_share, red_blue >> 16, COLUMN_SCALE)
        g = sum_of_three(a >> 8 & 255, left_share, b >> 8 & 255, right_share, greens >> 8, COLUMN_SCALE)
        b = sum_of_three(a & 255, left_share, b & 255, right_share, red_blue & 0xFFFF, COLUMN_SCALE)
        if y == top and i:
            r, g, b = r * top_share >> 14, g * top_share >> 14, b * top_share >> 14
        elif y == bottom:
            r, g, b = r * bottom_share >> 14, g * bottom_share >> 14, b * bottom_share >> 14
        red, green, blue = red + r, green + g, blue + b
    return red * ROW_SCALE >> 16, green * ROW_SCALE >> 16, blue * ROW_SCALE >> 16


@njit(cache=True, error_model="numpy")
def shrink_window(window, mixed, slot, frame) -> None:
    """The whole frame, planar uint8 (3,96,96) with its columns in the order of `slot`; leaves `mixed` zero.

    A cell of one colour v comes out as v - 2, at least 0, and a neighbour that is not mixed has the same colour.
    """
    for i in range(STATE_H):
        k = 0
        while k < STATE_W:
            if mixed[i, k]:
                mixed[i, k] = 0
                column = slot[k]
                frame[0, i, column], frame[1, i, column], frame[2, i, column] = shrink_cell(window, i, k)
                k += 1
                continue
            start = k
            while k < STATE_W and not mixed[i, k]:
                k += 1
            color = int(window[ROWS[i, LAST], COLUMNS[start, LAST]])
            for channel in range(3):
                value = np.uint8(max((color >> 16 - 8 * channel & 255) - 2, 0))
                for column in range(start, k):
                    frame[channel, i, slot[column]] = value
