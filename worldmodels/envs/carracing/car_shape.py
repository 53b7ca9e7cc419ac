"""The car as `pygame.draw.polygon` paints it: exact window scanlines, averaged over the frame's pixels.

The camera turns with the hull, so the hull is always upright and one scanline of it is one run of window pixels; the
wheels show where it does not hide them.

Legend: a frame is planar, uint8 (3, 96, 96), its columns reordered by `slot`; window y runs upwards, as before the flip.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.state import (
    HULL_POLY1,
    HULL_POLY2,
    HULL_POLY3,
    HULL_POLY4,
    SIZE,
    STATE_H,
    STATE_W,
    WHEEL_R,
    WHEEL_W,
    WINDOW_H,
    WINDOW_W,
)

CAR_ROWS = 96  # scanlines kept around the hull's origin; the car needs 84 at full zoom
LOWEST = WINDOW_H // 4 - CAR_ROWS // 2  # window y of the first of them
PATCH_ROW, PATCH_ROWS = 65, 14  # the part of the frame that those scanlines reach
PATCH_COLUMN, PATCH_COLUMNS = 42, 12
RED = 204.0  # int(0.8 * 255), the hull's red; its green and blue are 0
WHITE = 77.0  # the mark that shows a wheel rolling

# Runs (first, last pixel of a scanline), int64 (5, CAR_ROWS, 2)
HULL, LEFT, RIGHT, MARK_LEFT, MARK_RIGHT = range(5)
# Coverage, float32 (3, PATCH_ROWS, PATCH_COLUMNS)
ALL, HULL_RED, MARK_WHITE = range(3)


def box2d_order(polygon: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """A convex polygon's corners as b2PolygonShape keeps them: from the rightmost (lowest) on, counter-clockwise."""
    centre = np.mean(polygon, axis=0)
    start = max(polygon, key=lambda corner: (corner[0], -corner[1]))
    turn = math.atan2(start[1] - centre[1], start[0] - centre[0])
    return sorted(
        polygon, key=lambda c: (math.atan2(c[1] - centre[1], c[0] - centre[0]) - turn + 1e-9) % (2 * math.pi)
    )


_HULL = [box2d_order(polygon) for polygon in (HULL_POLY1, HULL_POLY2, HULL_POLY3, HULL_POLY4)]
HULL_CORNERS = (np.array([c for polygon in _HULL for c in polygon], np.float64) * SIZE).astype(np.float32)  # (20, 2)
HULL_STARTS = np.cumsum([0, *map(len, _HULL)])  # corners of polygon k: HULL_STARTS[k] .. HULL_STARTS[k + 1]
WHEEL_CORNERS = (np.array(((1, -1), (1, 1), (-1, 1), (-1, -1))) * (WHEEL_W * SIZE, WHEEL_R * SIZE)).astype(np.float32)



@njit(cache=True)
def fill_runs(corners: np.ndarray, runs: np.ndarray) -> None:
    """Put a convex polygon's scanlines into runs[y] = (first, last) pixel, as pygame's draw_fillpoly fills it.

    corners: int64 (K, 2) truncated window coordinates; runs: int64 (CAR_ROWS, 2), wider after it where already set.
    """
    count = corners.shape[0]
    lowest, highest = corners[:, 1].min(), corners[:, 1].max()
    for y in range(max(lowest, LOWEST), min(highest, LOWEST + CAR_ROWS - 1) + 1):
        first, last, found = WINDOW_W, -1, 0
        for index in range(count):
            xa, ya, xb, yb = corners[index - 1, 0], corners[index - 1, 1], corners[index, 0], corners[index, 1]
            if ya > yb:
                xa, ya, xb, yb = xb, yb, xa, ya
            if ya == yb:
                if y == ya:
                    first, last = min(first, xa, xb), max(last, xa, xb)
            elif ya <= y < yb or y == highest == yb:
                # draw_fillpoly rounds the first crossing that it meets down and the second up
                across = np.float32((y - ya) * (xb - xa)) / np.float32(yb - ya)
                x = xa + int(math.floor(across) if found == 0 else math.ceil(across))
                first, last, found = min(first, x), max(last, x), found + 1
        row = y - LOWEST
        runs[row, 0], runs[row, 1] = min(runs[row, 0], first), max(runs[row, 1], last)


@njit(cache=True)
def add_run(cover: np.ndarray, kind: int, y: int, first: int, last: int) -> None:
    """Add window pixels first..last of row y to cover, float32 (3, PATCH_ROWS, PATCH_COLUMNS)."""
    if first > last:
        return
    a, b = first * (STATE_W / WINDOW_W) - PATCH_COLUMN, (last + 1) * (STATE_W / WINDOW_W) - PATCH_COLUMN
    top = (WINDOW_H - 1 - y) * (STATE_H / WINDOW_H) - PATCH_ROW
    row = int(top)
    here = min(STATE_H / WINDOW_H, row + 1.0 - top)
    column = int(a)
    while column < b:
        width = min(b, column + 1.0) - max(a, float(column))
        cover[kind, row, column] += width * here
        cover[kind, row + 1, column] += width * (STATE_H / WINDOW_H - here)
        column += 1


@njit(cache=True)
def add_visible(cover: np.ndarray, kind: int, y: int, run: np.ndarray, hull: np.ndarray) -> None:
    """Add a wheel's run, int64 (2,), less what the hull's run hides of it."""
    if hull[1] < 0:
        add_run(cover, kind, y, run[0], run[1])
    else:
        add_run(cover, kind, y, run[0], min(run[1], hull[0] - 1))
        add_run(cover, kind, y, max(run[0], hull[1] + 1), run[1])


@njit(cache=True)
def to_window(corners, sin32, cos32, position, cos, sin, zoom, shift_x, shift_y, out) -> None:
    """Corners of a body, float32 (K, 2), by its float32 transform into the window, truncated as pygame does."""
    for index in range(corners.shape[0]):
        x, y = corners[index, 0], corners[index, 1]
        world_x = float((cos32 * x - sin32 * y) + position[0])
        world_y = float((sin32 * x + cos32 * y) + position[1])
        out[index, 0] = int((cos * world_x - sin * world_y) * zoom + shift_x)
        out[index, 1] = int((sin * world_x + cos * world_y) * zoom + shift_y)


@njit(cache=True)
def mark_heights(phase: float) -> tuple[bool, float, float]:
    """Whether a wheel's white mark shows, and its two ends along the wheel in units of the radius."""
    s1, s2 = math.sin(phase), math.sin(phase + 1.2)
    c1, c2 = math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return False, 0.0, 0.0
    return True, np.sign(c1) if s1 > 0 else c1, np.sign(c2) if s2 > 0 else c2


@njit(cache=True)
def draw_car(frame, slot, position, transform_sc, phase, cos, sin, zoom, shift_x, shift_y, runs, cover) -> None:
    """Blend one car into a planar frame that shows the ground.

    position, transform_sc: float32 (5,2) of the bodies; phase: float64 (4,); cos, sin, zoom, shift: the camera, window
    = rotate(world) * zoom + shift; runs: int64 (5, CAR_ROWS, 2) and cover: float32 (3, PATCH_ROWS, PATCH_COLUMNS) scratch.
    """
    runs[:, :, 0], runs[:, :, 1] = WINDOW_W, -1
    cover[:] = 0.0
    corners = np.empty((8, 2), np.int64)
    sin32, cos32 = transform_sc[0, 0], transform_sc[0, 1]
    for polygon in range(4):
        start, end = HULL_STARTS[polygon], HULL_STARTS[polygon + 1]
        shape = HULL_CORNERS[start:end]
        to_window(shape, sin32, cos32, position[0], cos, sin, zoom, shift_x, shift_y, corners)
        fill_runs(corners[: end - start], runs[HULL])
    mark = np.empty((4, 2), np.float32)
    for wheel in range(4):
        sin32, cos32 = transform_sc[1 + wheel, 0], transform_sc[1 + wheel, 1]
        # front and rear wheels share a column of runs: they never meet on a scanline
        to_window(WHEEL_CORNERS, sin32, cos32, position[1 + wheel], cos, sin, zoom, shift_x, shift_y, corners)
        fill_runs(corners[:4], runs[LEFT + wheel % 2])
        shows, c1, c2 = mark_heights(phase[wheel])
        if shows:
            for corner in range(4):
                mark[corner, 0] = WHEEL_CORNERS[(corner + 3) % 4, 0]
                mark[corner, 1] = WHEEL_R * (c1 if corner < 2 else c2) * SIZE
            to_window(mark, sin32, cos32, position[1 + wheel], cos, sin, zoom, shift_x, shift_y, corners)
            fill_runs(corners[:4], runs[MARK_LEFT + wheel % 2])
    for row in range(CAR_ROWS):
        y, hull = LOWEST + row, runs[HULL, row]
        add_run(cover, ALL, y, hull[0], hull[1])
        add_run(cover, HULL_RED, y, hull[0], hull[1])
        for side in range(2):
            add_visible(cover, ALL, y, runs[LEFT + side, row], hull)
            add_visible(cover, MARK_WHITE, y, runs[MARK_LEFT + side, row], hull)
    blend(frame, slot, cover)


@njit(cache=True)
def blend(frame: np.ndarray, slot: np.ndarray, cover: np.ndarray) -> None:
    """Lay the car over the ground; smoothscale has taken 2 from the ground already."""
    for row in range(PATCH_ROWS):
        for column in range(PATCH_COLUMNS):
            covered = cover[ALL, row, column]
            if covered == 0.0:
                continue
            left = np.float32(1.0) - covered
            white = WHITE * cover[MARK_WHITE, row, column]
            y, x = PATCH_ROW + row, slot[PATCH_COLUMN + column]
            for channel in range(3):
                value = (frame[channel, y, x] + 2) * left + white
                if channel == 0:
                    value += RED * cover[HULL_RED, row, column]
                frame[channel, y, x] = max(0, int(value + 0.99) - 2)
