"""pygame's painting rules on Gymnasium's window of 1000x800 pixels: gfxdraw's polygons and draw's, in their integers.

Written from what pygame-ce 2.5.8 does (SDL_gfxPrimitives.c, draw.c). A polygon of gfxdraw is painted twice, as
Gymnasium does it: `outline` blends its antialiased edges into what is there, `fill` covers its scanlines.

Legend: window uint32 (800, 1000) of 0x00RRGGBB, row 0 at the top as in the frame; Gymnasium paints it upside down and
flips it, so that painting's y lies in row 799 - y. Rows from BAR_TOP on are the bar's: painting leaves them alone.
Cells as in shrink.py: what is painted marks those that its edge crosses as mixed.
"""

import math
from typing import Annotated, NamedTuple

import numpy as np
from numba import njit

from worldmodels.envs.carracing.shrink import COLUMNS, FIRST, LAST, ROWS
from worldmodels.envs.carracing.state import STATE_H, STATE_W, WINDOW_H, WINDOW_W

BAR_TOP = 700  # first row of the bar, 5/40 of the window high
LOWEST = WINDOW_H - BAR_TOP  # lowest y that the bar does not cover
RIGHT, HIGHEST = WINDOW_W - 1, WINDOW_H - 1
ONE = 65536  # filled_polygon's fixed point

OPAQUE = 256  # the weight of a pixel that is not blended
UNSEEN = BAR_TOP + 3  # scanlines are followed from -RIM to here, out of the picture, for outlines that stray into it
RIM = 3  # an outline that the window clips, to whole pixels, may stray so far from what is filled
FAR = 1 << 40  # no pixel of a scanline yet

# The first cell of a window row or column: row r belongs to cell ROW_CELL[r], and to ROW_CELL[r + 1] as well. (Not so
# the last of the picture: its share of the bar's first row rounds to nothing.)
ROW_CELL = np.searchsorted(ROWS[:, LAST], np.arange(WINDOW_H + 1))
PICTURE_CELL = np.minimum(ROW_CELL, ROW_CELL[BAR_TOP - 1])
COLUMN_CELL = np.searchsorted(COLUMNS[:, LAST], np.arange(WINDOW_W + 1))


class Canvas(NamedTuple):
    """A window, what is known of its cells, and the scanlines of the polygon at hand: 3.2 MB, for one thread."""

    window: Annotated[np.ndarray, "uint32", (WINDOW_H, WINDOW_W)]
    mixed: Annotated[np.ndarray, "uint8", (STATE_H + 1, STATE_W + 1)]  # the last of either axis is nobody's
    first: Annotated[np.ndarray, "int64", (RIM + WINDOW_H,)]  # at RIM + r the first pixel of row r that is filled
    last: Annotated[np.ndarray, "int64", (RIM + WINDOW_H,)]  # and the last; first > last: none
    corners: Annotated[np.ndarray, "int64", (8, 2)]  # the polygon


@njit(cache=True, error_model="numpy", forceinline=True)
def dot(window, x, y, color, weight) -> None:
    """A pixel of an outline, blended by weight / 256 as `_putPixelAlpha` does, above the bar."""
    row = HIGHEST - y
    under = np.int64(window[row, x])
    alpha = 255 * weight >> 8
    alpha += alpha == 255  # 255 paints over
    red, green, blue = under >> 16, under >> 8 & 255, under & 255
    red += ((color >> 16) - red) * alpha >> 8
    green += ((color >> 8 & 255) - green) * alpha >> 8
    blue += ((color & 255) - blue) * alpha >> 8
    window[row, x] = under if row >= BAR_TOP else red << 16 | green << 8 | blue


@njit(cache=True, error_model="numpy")
def fill_rows(window, first, last, top, bottom, color) -> None:
    """Paint the polygon's scanlines in rows top..bottom."""
    shade = np.uint32(color)
    for row in range(top, bottom + 1):
        window[row, max(first[RIM + row], 0) : max(min(last[RIM + row], RIGHT) + 1, 0)] = shade


@njit(cache=True, error_model="numpy", forceinline=True)
def mark_run(mixed, i, first, last) -> None:
    """Cells of row i that hold pixels first..last or the one after."""
    first, last = max(first, 0), min(last, RIGHT)
    if first <= last:
        for k in range(COLUMN_CELL[first], COLUMN_CELL[last + 1] + 1):
            mixed[i, k] = 1


@njit(cache=True, error_model="numpy")
def mark_rows(mixed, first, last, top, bottom, rim) -> None:
    """Mark the cells along the outline of a polygon that fills rows top..bottom, and `rim` pixels around."""
    for i in range(PICTURE_CELL[max(top - rim, 0)], PICTURE_CELL[min(bottom + rim + 1, BAR_TOP)] + 1):
        start, end = ROWS[i, FIRST] - rim, ROWS[i, LAST] + rim
        ends_here = (start < top and top > -RIM) or (end > bottom and bottom < UNSEEN)
        start, end = min(max(start, top), bottom), max(min(end, bottom), top)
        left, inner_left, inner_right, right = FAR, -FAR, FAR, -FAR
        for place in range(RIM + start, RIM + end + 1):
            left, inner_left = min(left, first[place]), max(inner_left, first[place])
            inner_right, right = min(inner_right, last[place]), max(right, last[place])
        if ends_here or inner_left >= inner_right:
            mark_run(mixed, i, left - rim, right + rim)
        else:
            mark_run(mixed, i, left - rim, inner_left)
            mark_run(mixed, i, inner_right + 1, right + rim)


@njit(cache=True, error_model="numpy", forceinline=True)
def outside(x, y) -> int:
    """The Cohen-Sutherland code of a point: 1 left, 2 right, 4 past the last line, 8 before the first."""
    code = 1 if x < 0 else (2 if x > RIGHT else 0)
    return code | (8 if y < 0 else (4 if y > HIGHEST else 0))


@njit(cache=True, error_model="numpy", forceinline=True)
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
def line(window, x1, y1, x2, y2, color) -> bool:
    """`_aalineColor` without its end: Wu's antialiased line, a pair of pixels per step; whether it was clipped."""
    if (x1 < 0) | (x1 > RIGHT) | (x2 < 0) | (x2 > RIGHT) | (y1 < 0) | (y1 > HIGHEST) | (y2 < 0) | (y2 > HIGHEST):
        visible, x1, y1, x2, y2 = clip_line(x1, y1, x2, y2)
        clipped = True
        if not visible:
            return False
    else:
        clipped = False
    x, y, end_x, end_y = (x1, y1, x2, y2) if y1 <= y2 else (x2, y2, x1, y1)
    dx, dy = end_x - x, end_y - y
    if dy == 0:
        for column in range(min(x, end_x), max(x, end_x) + 1):
            dot(window, column, y, color, OPAQUE)
        return clipped
    if dx == 0:
        for row in range(y, end_y + 1):
            dot(window, x, row, color, OPAQUE)
        return clipped
    step = 1 if dx > 0 else -1
    dx = abs(dx)
    dot(window, x1, y1, color, OPAQUE)
    error = 0  # 0.16 fixed point: how far the line is past the first pixel of the pair
    if dy > dx:
        rate = (dx << 16) // dy
        for row in range(y + 1, end_y):
            error += rate
            if error >= ONE:
                error -= ONE
                x += step
            dot(window, x, row, color, 255 - (error >> 8))
            dot(window, x + step, row, color, error >> 8)
    else:
        rate = (dy << 16) // dx
        for _ in range(dx - 1):
            error += rate
            if error >= ONE:
                error -= ONE
                y += 1
            x += step
            dot(window, x, y, color, 255 - (error >> 8))
            dot(window, x, y + 1, color, error >> 8)
    return clipped


@njit(cache=True, error_model="numpy")
def extent(corners, count) -> tuple[int, int, int, int]:
    """Leftmost, rightmost, lowest and highest of so many corners."""
    leftmost, rightmost, lowest, highest = corners[0, 0], corners[0, 0], corners[0, 1], corners[0, 1]
    for corner in range(1, count):
        leftmost, rightmost = min(leftmost, corners[corner, 0]), max(rightmost, corners[corner, 0])
        lowest, highest = min(lowest, corners[corner, 1]), max(highest, corners[corner, 1])
    return leftmost, rightmost, lowest, highest


@njit(cache=True, error_model="numpy")
def find_rows(corners, highest, top, bottom, first, last) -> None:
    """The scanlines of `gfxdraw.filled_polygon` in rows top..bottom, for a simple quad."""
    for place in range(RIM + top, RIM + bottom + 1):
        first[place], last[place] = FAR, -FAR
    for corner in range(4):
        before = (corner + 3) % 4
        x1, y1, x2, y2 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
        if y1 == y2:
            continue
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        rise, width = np.float64(y2 - y1), x2 - x1
        for row in range(max(HIGHEST - y2 + (y2 != highest), top), min(HIGHEST - y1, bottom) + 1):
            x = int(np.float64(ONE * (HIGHEST - row - y1)) / rise) * width + ONE * x1
            first[RIM + row], last[RIM + row] = min(first[RIM + row], x), max(last[RIM + row], x)
    for place in range(RIM + top, RIM + bottom + 1):
        a, b = (first[place] + 1 + ONE // 2) >> 16, (last[place] - 1 + ONE // 2) >> 16
        first[place], last[place] = min(a, b), max(a, b)


@njit(cache=True, error_model="numpy")
def is_simple(corners) -> bool:
    """Whether a quad's outline goes up once and down once (rounded to pixels, a small one may not, or not at all)."""
    turns, up = 0, 0
    for corner in range(8):
        rise = corners[(corner + 1) % 4, 1] - corners[corner % 4, 1]
        if rise != 0:
            turns += corner >= 4 and (rise > 0) != (up > 0)
            up = rise
    return turns == 2


@njit(cache=True, error_model="numpy")
def sort(found, count) -> None:
    """The first `count` of some crossings."""
    for here in range(1, count):
        for place in range(here, 0, -1):
            if found[place - 1] > found[place]:
                found[place - 1], found[place] = found[place], found[place - 1]


@njit(cache=True, error_model="numpy")
def paint_pairs(window, y, found, count, color) -> None:
    """Paint scanline y between every first and second of `count` crossings, int64 (8,), in any order."""
    shade = np.uint32(color)
    sort(found, count)
    for pair in range(0, count, 2):
        start, end = min(found[pair], found[pair + 1]), max(found[pair], found[pair + 1])
        window[HIGHEST - y, max(start, 0) : max(min(end, RIGHT) + 1, 0)] = shade


@njit(cache=True, error_model="numpy")
def mark_box(mixed, leftmost, rightmost, lowest, highest) -> None:
    """Mark every cell that a polygon between these may have touched."""
    top, bottom = HIGHEST - min(highest + RIM, HIGHEST), HIGHEST - max(lowest - RIM, LOWEST)
    if top <= bottom:
        for i in range(PICTURE_CELL[top], PICTURE_CELL[bottom + 1] + 1):
            mark_run(mixed, i, leftmost - RIM, rightmost + RIM)


@njit(cache=True, error_model="numpy")
def fill(window, corners, lowest, highest, color) -> None:
    """`gfxdraw.filled_polygon` of any quad, overflows and all."""
    found = np.empty(8, np.int64)
    for y in range(max(lowest, LOWEST), min(highest, HIGHEST) + 1):
        count = 0
        for corner in range(4):
            before = (corner + 3) % 4
            x1, y1, x2, y2 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 <= y < y2 or (y == highest and y1 < y == y2):
                part = np.int32(np.float64(np.int32(ONE * (y - y1))) / (y2 - y1))
                found[count] = np.int32(part * (x2 - x1) + ONE * x1)
                count += 1
        sort(found, count)
        for place in range(count):
            found[place] = (found[place] + (1 - 2 * (place % 2)) + ONE // 2) >> 16
        paint_pairs(window, y, found, count, color)


@njit(cache=True, error_model="numpy")
def quad(canvas, color) -> None:
    """`gfxdraw.aapolygon`, then `gfxdraw.filled_polygon`, of canvas.corners[:4]."""
    window, mixed, first, last, corners = canvas
    leftmost, rightmost, lowest, highest = extent(corners, 4)
    if rightmost < 0 or leftmost > RIGHT or highest < LOWEST or lowest > HIGHEST:
        return
    clipped = False
    for corner in range(4):
        after = (corner + 1) % 4
        x1, y1, x2, y2 = corners[corner, 0], corners[corner, 1], corners[after, 0], corners[after, 1]
        clipped |= line(window, x1, y1, x2, y2, color)
    if is_simple(corners) and highest - lowest < 1 << 15:
        top, bottom = max(HIGHEST - highest, -RIM), min(HIGHEST - lowest, UNSEEN)
        find_rows(corners, highest, top, bottom, first, last)
        fill_rows(window, first, last, max(top, 0), min(bottom, BAR_TOP - 1), color)
        mark_rows(mixed, first, last, top, bottom, RIM if clipped else 1)
    else:
        fill(window, corners, lowest, highest, color)
        mark_box(mixed, leftmost, rightmost, lowest, highest)


@njit(cache=True, error_model="numpy")
def polygon(canvas, count, color) -> None:
    """`pygame.draw.polygon` of canvas.corners[:count], 3 < count <= 8."""
    window, mixed, _, _, corners = canvas
    leftmost, rightmost, lowest, highest = extent(corners, count)
    found = np.empty(8, np.int64)
    if lowest == highest and LOWEST <= lowest <= HIGHEST:
        found[0], found[1] = leftmost, rightmost
        paint_pairs(window, lowest, found, 2, color)
    for y in range(max(lowest, LOWEST), min(highest, HIGHEST) + 1):
        crossings = 0
        for corner in range(count):
            before = corner - 1 if corner else count - 1
            x1, y1, x2, y2 = corners[before, 0], corners[before, 1], corners[corner, 0], corners[corner, 1]
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 != y2 and (y1 <= y < y2 or (y == highest and y2 == highest)):
                # the first crossing that a scanline meets is rounded down and the second up
                part = np.float32((y - y1) * (x2 - x1)) / np.float32(y2 - y1)
                found[crossings] = x1 + int(math.ceil(part) if crossings % 2 else math.floor(part))
                crossings += 1
        paint_pairs(window, y, found, crossings, color)
    for corner in range(count):
        before = corner - 1 if corner else count - 1
        y = corners[corner, 1]
        if lowest < y < highest and corners[before, 1] == y and LOWEST <= y <= HIGHEST:
            found[0], found[1] = corners[corner, 0], corners[before, 0]
            paint_pairs(window, y, found, 2, color)
    mark_box(mixed, leftmost, rightmost, lowest, highest)
