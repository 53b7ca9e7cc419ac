"""pygame's painting rules on Gymnasium's window of 1000x800 pixels: gfxdraw's polygons and draw's, in their integers.

Written from what pygame-ce 2.5.8 does (SDL_gfxPrimitives.c, draw.c). A polygon of gfxdraw is painted twice, as
Gymnasium does it: `outline` blends its antialiased edges into what is there, `fill` covers its scanlines.

Legend: window uint32 (800, 1000) of 0x00RRGGBB, row 0 at the top as in the frame; Gymnasium paints it upside down and
flips it, so that painting's y lies in row 799 - y. Rows from BAR_TOP on are the bar's: painting leaves them alone.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.state import WINDOW_H, WINDOW_W

BAR_TOP = 700  # first row of the bar, 5/40 of the window high
LOWEST = WINDOW_H - BAR_TOP  # lowest y that the bar does not cover
RIGHT, HIGHEST = WINDOW_W - 1, WINDOW_H - 1
ONE = 65536  # filled_polygon's fixed point


@njit(cache=True, error_model="numpy")
def put(window, x, y, color) -> None:
    """One pixel of the picture."""
    if 0 <= x <= RIGHT and LOWEST <= y <= HIGHEST:
        window[HIGHEST - y, x] = color


@njit(cache=True, error_model="numpy")
def blend(window, x, y, color, weight) -> None:
    """One pixel of the picture, blended by weight / 256 as `_putPixelAlpha` does (opaque colours only)."""
    if 0 <= x <= RIGHT and LOWEST <= y <= HIGHEST:
        alpha = (255 * weight) >> 8
        under = int(window[HIGHEST - y, x])
        red, green, blue = under >> 16, under >> 8 & 255, under & 255
        red += ((color >> 16) - red) * alpha >> 8
        green += ((color >> 8 & 255) - green) * alpha >> 8
        blue += ((color & 255) - blue) * alpha >> 8
        window[HIGHEST - y, x] = red << 16 | green << 8 | blue


@njit(cache=True, error_model="numpy")
def row_span(window, x0, x1, y, color) -> None:
    """Pixels x0..x1 (in either order, inclusive) of scanline y of the picture."""
    if LOWEST <= y <= HIGHEST:
        first, last = max(min(x0, x1), 0), min(max(x0, x1), RIGHT)
        line = window[HIGHEST - y]
        for x in range(first, last + 1):
            line[x] = color


@njit(cache=True, error_model="numpy")
def outside(x, y) -> int:
    """The Cohen-Sutherland code of a point: 1 left, 2 right, 4 past the last line, 8 before the first."""
    code = 1 if x < 0 else (2 if x > RIGHT else 0)
    return code | (8 if y < 0 else (4 if y > HIGHEST else 0))


@njit(cache=True, error_model="numpy")
def clip_line(x1, y1, x2, y2) -> tuple[bool, int, int, int, int]:
    """`_clipLine`: whether any of the line is in the window, and its ends, rounded to pixels and maybe exchanged."""
    while True:
        code1, code2 = outside(x1, y1), outside(x2, y2)
        if code1 | code2 == 0:
            return True, x1, y1, x2, y2
        if code1 & code2:
            return False, x1, y1, x2, y2
        if code1 == 0:
            x1, y1, x2, y2, code1 = x2, y2, x1, y1, code2
        slope = np.float32(1.0) if x1 == x2 else np.float32(y2 - y1) / np.float32(x2 - x1)
        if code1 & 1:
            y1 += int(np.float32(0 - x1) * slope)
            x1 = 0
        elif code1 & 2:
            y1 += int(np.float32(RIGHT - x1) * slope)
            x1 = RIGHT
        elif code1 & 4:
            if x1 != x2:
                x1 += int(np.float32(HIGHEST - y1) / slope)
            y1 = HIGHEST
        else:
            if x1 != x2:
                x1 += int(np.float32(0 - y1) / slope)
            y1 = 0


@njit(cache=True, error_model="numpy")
def line(window, x1, y1, x2, y2, color) -> None:
    """`_aalineColor` without its end: Wu's antialiased line, a pair of pixels a step."""
    visible, x1, y1, x2, y2 = clip_line(x1, y1, x2, y2)
    if not visible:
        return
    x, y, end_x, end_y = (x1, y1, x2, y2) if y1 <= y2 else (x2, y2, x1, y1)
    dx, dy = end_x - x, end_y - y
    if dy == 0:
        row_span(window, x, end_x, y, color)
        return
    if dx == 0:
        for row in range(y, end_y + 1):
            put(window, x, row, color)
        return
    step = 1 if dx > 0 else -1
    dx = abs(dx)
    put(window, x1, y1, color)
    error = 0  # 0.16 fixed point: how far the line is past the nearer pixel of the pair
    if dy > dx:
        rate = (dx << 16) // dy
        for row in range(y + 1, end_y):
            error += rate
            if error >= ONE:
                error -= ONE
                x += step
            blend(window, x, row, color, 255 - (error >> 8))
            blend(window, x + step, row, color, error >> 8)
    else:
        rate = (dy << 16) // dx
        for _ in range(dx - 1):
            error += rate
            if error >= ONE:
                error -= ONE
                y += 1
            x += step
            blend(window, x, y, color, 255 - (error >> 8))
            blend(window, x, y + 1, color, error >> 8)


@njit(cache=True, error_model="numpy")
def outline(window, corners, color) -> None:
    """`gfxdraw.aapolygon` of corners int64 (4,2)."""
    for corner in range(4):
        after = (corner + 1) % 4
        line(window, corners[corner, 0], corners[corner, 1], corners[after, 0], corners[after, 1], color)


@njit(cache=True, error_model="numpy")
def crossing(x1, y1, x2, y2, y) -> int:
    """Where an edge from (x1, y1) up to (x2, y2) crosses scanline y, in 1/65536 pixel."""
    return np.int32(np.int32(np.float64(np.int32(ONE * (y - y1))) / (y2 - y1)) * (x2 - x1) + ONE * x1)


@njit(cache=True, error_model="numpy")
def fill(window, corners, color) -> None:
    """`gfxdraw.filled_polygon` of corners int64 (4,2)."""
    lowest = min(min(corners[0, 1], corners[1, 1]), min(corners[2, 1], corners[3, 1]))
    highest = max(max(corners[0, 1], corners[1, 1]), max(corners[2, 1], corners[3, 1]))
    found = np.empty(4, np.int64)
    for y in range(max(lowest, LOWEST), min(highest, HIGHEST) + 1):
        count = 0
        for corner in range(4):
            before = (corner + 3) % 4
            x1, y1, x2, y2 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 <= y < y2 or (y == highest and y1 < y == y2):
                found[count] = crossing(x1, y1, x2, y2, y)
                count += 1
        found[:count].sort()
        for pair in range(0, count, 2):
            row_span(window, (found[pair] + 1 + ONE // 2) >> 16, (found[pair + 1] - 1 + ONE // 2) >> 16, y, color)


@njit(cache=True, error_model="numpy")
def polygon(window, corners, color) -> None:
    """`pygame.draw.polygon` of corners int64 (K,2), K > 3 and at most 8."""
    count = len(corners)
    lowest, highest = corners[0, 1], corners[0, 1]
    for corner in range(1, count):
        lowest, highest = min(lowest, corners[corner, 1]), max(highest, corners[corner, 1])
    if lowest == highest:
        row_span(window, corners[:, 0].min(), corners[:, 0].max(), lowest, color)
        return
    found = np.empty(8, np.int64)
    for y in range(max(lowest, LOWEST), min(highest, HIGHEST) + 1):
        crossings = 0
        for corner in range(count):
            before = corner - 1 if corner else count - 1
            x1, y1, x2, y2 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 != y2 and (y1 <= y < y2 or (y == highest and y2 == highest)):
                # the first crossing that it meets is rounded down and the second up
                part = np.float32((y - y1) * (x2 - x1)) / np.float32(y2 - y1)
                found[crossings] = x1 + int(math.ceil(part) if crossings % 2 else math.floor(part))
                crossings += 1
        found[:crossings].sort()
        for pair in range(0, crossings, 2):
            row_span(window, found[pair], found[pair + 1], y, color)
    for corner in range(count):
        before = corner - 1 if corner else count - 1
        y = corners[corner, 1]
        if lowest < y < highest and corners[before, 1] == y:
            row_span(window, corners[corner, 0], corners[before, 0], y, color)
