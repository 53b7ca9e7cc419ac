"""The car as `pygame.draw.polygon` paints it: exact window scanlines, averaged over the frame's pixels.

The camera turns with the hull, so the hull is always upright and one scanline of it is one run of window pixels; the
wheels show where it does not hide them. Once the camera has zoomed in, the hull's pixels never change: its part is
then copied.

Legend: a frame is planar, uint8 (3, 96, 96), its columns reordered by `slot`; window y runs upwards, as before the
flip; K corners of a polygon.
"""

import math
from typing import Annotated, NamedTuple

import numpy as np
from numba import njit

from worldmodels.envs.carracing.camera import body_to_window, camera_of
from worldmodels.envs.carracing.shapes import HULL_POLYGONS, WHEEL_POLYGON
from worldmodels.envs.carracing.state import SCALE, SIZE, STATE_H, STATE_W, WHEEL_R, WINDOW_H, WINDOW_W, ZOOM, zeros
from worldmodels.envs.carracing.window import extent

CAR_ROWS = 96  # scanlines kept around the hull's origin; the car needs 84 at full zoom
LOWEST = WINDOW_H // 4 - CAR_ROWS // 2  # window y of the first of them
PATCH_ROW, PATCH_ROWS = 65, 14  # the part of the frame that those scanlines reach
PATCH_COLUMN, PATCH_COLUMNS = 42, 12
PATCH_LEFT, PATCH_RIGHT = 438, 561  # window pixels in those columns
RED = 204.0  # int(0.8 * 255), the hull's red; its green and blue are 0
WHITE = 77.0  # the mark that shows a wheel rolling

# Runs (first, last pixel of a scanline; first > last: none), int64 (5, CAR_ROWS, 2)
HULL, LEFT, RIGHT, MARK_LEFT, MARK_RIGHT = range(5)
# Coverage, float32 (3, PATCH_ROWS, PATCH_COLUMNS)
ALL, HULL_RED, MARK_WHITE = range(3)


class Sprite(NamedTuple):
    """The hull at full zoom."""

    corners: np.ndarray  # int64 (20, 2) window coordinates
    runs: np.ndarray  # int64 (CAR_ROWS, 2)
    cover: np.ndarray  # float32 (3, PATCH_ROWS, PATCH_COLUMNS)


class CarScratch(NamedTuple):
    """Working memory of one thread."""

    corners: Annotated[np.ndarray, "int64", (20, 2)]
    mark: Annotated[np.ndarray, "float32", (4, 2)]
    runs: Annotated[np.ndarray, "int64", (5, CAR_ROWS, 2)]
    found: Annotated[np.ndarray, "int64", (CAR_ROWS,)]
    cover: Annotated[np.ndarray, "float32", (3, PATCH_ROWS, PATCH_COLUMNS)]


HULL_CORNERS = np.concatenate(HULL_POLYGONS)  # float32 (20, 2)
HULL_STARTS = np.cumsum([0, *map(len, HULL_POLYGONS)])  # corners of polygon k: HULL_STARTS[k] .. HULL_STARTS[k + 1]


def make_sprite() -> Sprite:
    """Draw the hull once at full zoom."""
    scratch = zeros(CarScratch)
    origin = np.zeros(2, np.float32)
    camera = camera_of((0.0, 0.0, 1.0, 0.0, ZOOM * SCALE))
    body_to_window(HULL_CORNERS, np.array((0, 1), np.float32), origin, camera, scratch.corners)
    draw_hull(scratch)
    return Sprite(scratch.corners, scratch.runs[HULL].copy(), scratch.cover)


@njit(cache=True, error_model="numpy")
def copy(source: np.ndarray, target: np.ndarray) -> None:
    """target[:] = source, which as a loop compiles in a fraction of the time."""
    for index in range(len(source)):
        target[index] = source[index]


@njit(cache=True, error_model="numpy")
def empty(runs: np.ndarray) -> None:
    """No pixel on any scanline; runs: int64 (CAR_ROWS,2)."""
    for row in range(CAR_ROWS):
        runs[row, 0], runs[row, 1] = WINDOW_W, -1


@njit(cache=True, error_model="numpy")
def fill_runs(corners: np.ndarray, start: int, end: int, runs: np.ndarray, found: np.ndarray) -> None:
    """Widen runs[y] = (first, last) by a convex polygon's scanlines, as pygame's draw_fillpoly fills it.

    corners: int64 (..,2) in the window, of which start..end - 1; runs: int64 (CAR_ROWS,2); found: int64 (CAR_ROWS,).
    """
    _, _, lowest, highest = extent(corners[start:end], end - start)
    for row in range(max(lowest - LOWEST, 0), min(highest - LOWEST + 1, CAR_ROWS)):
        found[row] = 0
    before = end - 1
    for index in range(start, end):
        xa, ya, xb, yb = corners[before, 0], corners[before, 1], corners[index, 0], corners[index, 1]
        before = index
        if ya > yb:
            xa, ya, xb, yb = xb, yb, xa, ya
        if ya == yb:
            row = ya - LOWEST
            if 0 <= row < CAR_ROWS:
                runs[row, 0], runs[row, 1] = min(runs[row, 0], xa, xb), max(runs[row, 1], xa, xb)
            continue
        rise, width = yb - ya, xb - xa
        top = yb + 1 if yb == highest else yb
        for row in range(max(ya - LOWEST, 0), min(top - LOWEST, CAR_ROWS)):
            # draw_fillpoly rounds the first crossing of a scanline that it meets down and the second up
            step = (row + LOWEST - ya) * width
            x = xa + (step // rise if found[row] == 0 else -(-step // rise))
            found[row] += 1
            runs[row, 0], runs[row, 1] = min(runs[row, 0], x), max(runs[row, 1], x)


@njit(cache=True, error_model="numpy")
def add_run(cover: np.ndarray, kind: int, row: int, first: int, last: int) -> None:
    """Add window pixels first..last of scanline `row` to cover, float32 (3, PATCH_ROWS, PATCH_COLUMNS)."""
    first, last = max(first, PATCH_LEFT), min(last, PATCH_RIGHT)
    if first > last:
        return
    a, b = first * (STATE_W / WINDOW_W) - PATCH_COLUMN, (last + 1) * (STATE_W / WINDOW_W) - PATCH_COLUMN
    top = (WINDOW_H - 1 - LOWEST - row) * (STATE_H / WINDOW_H) - PATCH_ROW
    line = int(top)
    here = min(STATE_H / WINDOW_H, line + 1.0 - top)
    column = int(a)
    while column < b:
        width = min(b, column + 1.0) - max(a, float(column))
        cover[kind, line, column] += width * here
        cover[kind, line + 1, column] += width * (STATE_H / WINDOW_H - here)
        column += 1


@njit(cache=True, error_model="numpy")
def draw_hull(scratch: CarScratch) -> None:
    """The hull's four polygons, from scratch.corners, into its runs and coverage."""
    runs, cover = scratch.runs[HULL], scratch.cover
    empty(runs)
    cover[:] = 0.0
    for polygon in range(4):
        fill_runs(scratch.corners, HULL_STARTS[polygon], HULL_STARTS[polygon + 1], runs, scratch.found)
    for row in range(CAR_ROWS):
        add_run(cover, ALL, row, runs[row, 0], runs[row, 1])
        add_run(cover, HULL_RED, row, runs[row, 0], runs[row, 1])


@njit(cache=True, error_model="numpy")
def add_visible(cover: np.ndarray, kind: int, runs: np.ndarray, hull: np.ndarray) -> None:
    """Add a wheel's runs, int64 (CAR_ROWS,2), less what the hull's hide of them."""
    for row in range(CAR_ROWS):
        first, last = runs[row, 0], runs[row, 1]
        if first > last:
            continue
        if hull[row, 1] < 0:
            add_run(cover, kind, row, first, last)
        else:
            add_run(cover, kind, row, first, min(last, hull[row, 0] - 1))
            add_run(cover, kind, row, max(first, hull[row, 1] + 1), last)


@njit(cache=True, error_model="numpy")
def mark_heights(phase: float) -> tuple[bool, float, float]:
    """Whether a wheel's white mark shows, and its two ends along the wheel in units of the radius."""
    s1, s2 = math.sin(phase), math.sin(phase + 1.2)
    c1, c2 = math.cos(phase), math.cos(phase + 1.2)
    if s1 > 0 and s2 > 0:
        return False, 0.0, 0.0
    return True, np.sign(c1) if s1 > 0 else c1, np.sign(c2) if s2 > 0 else c2


@njit(cache=True, error_model="numpy")
def set_mark(mark: np.ndarray, c1: float, c2: float) -> None:
    """The corners of a mark, float32 (4,2), in its wheel's coordinates."""
    for corner in range(4):
        mark[corner, 0] = WHEEL_POLYGON[(corner + 3) % 4, 0]
        mark[corner, 1] = WHEEL_R * (c1 if corner < 2 else c2) * SIZE


@njit(cache=True, error_model="numpy")
def draw_car(frame, slot, position, transform_sc, phase, camera, sprite: Sprite, scratch: CarScratch) -> None:
    """Blend one car into a planar frame that shows the ground.

    position, transform_sc: float32 (5,2) of the bodies; phase: float64 (4,).
    """
    corners, runs, cover = scratch.corners, scratch.runs, scratch.cover
    body_to_window(HULL_CORNERS, transform_sc[0], position[0], camera, corners)
    known = True
    for index in range(corners.shape[0]):
        known &= corners[index, 0] == sprite.corners[index, 0] and corners[index, 1] == sprite.corners[index, 1]
    if known:
        copy(sprite.runs.ravel(), runs[HULL].ravel())
        copy(sprite.cover.ravel(), cover.ravel())
    else:
        draw_hull(scratch)
    for kind in range(LEFT, MARK_RIGHT + 1):
        empty(runs[kind])
    for wheel in range(4):  # front and rear wheels share runs: they never meet on a scanline
        body, side = 1 + wheel, wheel % 2
        body_to_window(WHEEL_POLYGON, transform_sc[body], position[body], camera, corners)
        fill_runs(corners, 0, 4, runs[LEFT + side], scratch.found)
        shows, c1, c2 = mark_heights(phase[wheel])
        if shows:
            set_mark(scratch.mark, c1, c2)
            body_to_window(scratch.mark, transform_sc[body], position[body], camera, corners)
            fill_runs(corners, 0, 4, runs[MARK_LEFT + side], scratch.found)
    for side in range(2):
        add_visible(cover, ALL, runs[LEFT + side], runs[HULL])
        add_visible(cover, MARK_WHITE, runs[MARK_LEFT + side], runs[HULL])
    blend(frame, slot, cover)


@njit(cache=True, error_model="numpy")
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
