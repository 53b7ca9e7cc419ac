"""Frames: what Gymnasium's `_render("state_pixels")` returns, from the state arrays.

Gymnasium draws polygons into a 1000x800 window and shrinks it to 96x96. We add up exact areas at 96x96 instead: every
edge of a polygon leaves, in the rows it crosses, the change of coverage that it causes, and a running sum down the
rows turns the changes into coverage. Only edges cost time; the flat inside of a polygon is free, and rows of 96 pixels
are processed as vectors. See docs/carracing.md for the error that remains.

Legend: N lanes, W = workers (threads), P planes of coverage, x to the right, y down, in pixels of the 96x96 frame
unless "window" is said.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from worldmodels.envs.carracing.car_shape import CAR_ROWS, PATCH_COLUMNS, PATCH_ROWS, draw_car
from worldmodels.envs.carracing.hud import BAR_ROW, SCORE_COLUMNS, SCORE_ROWS, Hud, draw_hud, make_hud
from worldmodels.envs.carracing.state import (
    GRASS_DIM,
    MAX_TILES,
    PLAYFIELD,
    SCALE,
    STATE_H,
    STATE_W,
    WINDOW_H,
    WINDOW_W,
    ZOOM,
    Cars,
    Tracks,
)

SCALE_X = STATE_W / WINDOW_W  # frame pixels a window pixel
SCALE_Y = STATE_H / WINDOW_H
CAR_X = WINDOW_W / 2  # where the hull's origin stands in the window (before the flip)
CAR_Y = WINDOW_H / 4

DILATION = 0.55
"""Window pixels that gfxdraw's outline and inclusive fill add on every side; fitted, see test_render."""

# Planes of coverage
GRASS = 0  # light grass squares
FIELD = 1  # the playfield; beyond it is black
ROAD = 2
SHADE_1 = 3  # tiles with i % 3 == 1 that still have their own shade
SHADE_2 = 4
EDGE = 5  # red and white borders
RED = 6  # the red ones
PLANES = 7


class Scratch(NamedTuple):
    """Working memory of W workers; its contents mean nothing between two frames."""

    change: np.ndarray  # float32 (W, 86, P, 96) change of coverage from the row above
    sums: np.ndarray  # float32 (W, P, 96)
    frame: np.ndarray  # uint8 (W, 3, 96, 96) planar frame, columns in the order of `slot`
    line: np.ndarray  # int64 (W, 32, 1000) for scores beyond the table
    picture: np.ndarray  # uint8 (W, R, Q)
    near: np.ndarray  # bool (W, M) tiles that may be in view
    runs: np.ndarray  # int64 (W, 5, CAR_ROWS, 2)
    cover: np.ndarray  # float32 (W, 3, PATCH_ROWS, PATCH_COLUMNS)


@njit(cache=True)
def add_edge(change: np.ndarray, slot: np.ndarray, plane: int, x0: float, y0: float, x1: float, y1: float, weight: float):
    """Add weight * (area below the edge), signed by its direction along x, to a plane of change (86, P, 96)."""
    if x0 > x1:
        x0, y0, x1, y1, weight = x1, y1, x0, y0, -weight
    if x1 <= 0.0 or x0 >= STATE_W or x0 == x1 or (y0 >= BAR_ROW and y1 >= BAR_ROW):
        return
    slope = (y1 - y0) / (x1 - x0)
    if x0 < 0.0:
        y0 -= slope * x0
        x0 = 0.0
    if x1 > STATE_W:
        y1 -= slope * (x1 - STATE_W)
        x1 = float(STATE_W)
    if y0 <= 0.0 and y1 <= 0.0:
        add_flat(change, slot, plane, x0, x1, weight)
        return
    if y0 < 0.0:
        x = x0 - y0 / slope
        add_flat(change, slot, plane, x0, x, weight)
        x0, y0 = x, 0.0
    elif y1 < 0.0:
        x = x1 - y1 / slope
        add_flat(change, slot, plane, x, x1, weight)
        x1, y1 = x, 0.0
    if y0 > BAR_ROW:
        if y1 >= BAR_ROW:
            return
        x0 += (BAR_ROW - y0) / slope
        y0 = float(BAR_ROW)
    elif y1 > BAR_ROW:
        x1 += (BAR_ROW - y1) / slope
        y1 = float(BAR_ROW)
    if x0 >= x1:
        return
    column = int(x0)
    here, y = x0, y0
    while here < x1:
        there = min(x1, column + 1.0)
        y_there = y1 if there == x1 else y0 + slope * (there - x0)
        add_piece(change, slot[column], plane, weight * (there - here), y, y_there)
        here, y = there, y_there
        column += 1


@njit(cache=True, inline="always")
def add_flat(change: np.ndarray, slot: np.ndarray, plane: int, x0: float, x1: float, weight: float):
    """The part of an edge above the frame: full coverage from the first row on."""
    column = int(x0)
    while column < x1:
        change[0, plane, slot[column]] += weight * (min(x1, column + 1.0) - max(x0, column))
        column += 1


@njit(cache=True, inline="always")
def add_piece(change: np.ndarray, place: int, plane: int, weight: float, ya: float, yb: float):
    """A piece of an edge inside one column, between the heights ya and yb; weight: its signed width."""
    low, high = min(ya, yb), max(ya, yb)
    row, last = int(low), int(high)
    if row == last:
        part = weight * (0.5 * (low + high) - row)
        change[row, plane, place] += weight - part
        change[row + 1, plane, place] += part
        return
    rate = weight / (high - low)
    reach = row + 1.0 - low
    above = 0.5 * rate * reach * reach
    change[row, plane, place] += above
    change[row + 1, plane, place] += rate * reach - above
    row += 1
    while row < last:
        change[row, plane, place] += 0.5 * rate
        change[row + 1, plane, place] += 0.5 * rate
        row += 1
    reach = high - row
    below = 0.5 * rate * reach * reach
    change[row, plane, place] += rate * reach - below
    change[row + 1, plane, place] += below


@njit(cache=True, inline="always")
def window_to_frame(x: float, y: float) -> tuple[float, float]:
    """A vertex as pygame uses it (truncated to an integer, y upwards) to the frame's coordinates of its pixel centre."""
    return (float(int(x)) + 0.5) * SCALE_X, (WINDOW_H - 0.5 - float(int(y))) * SCALE_Y


@njit(cache=True)
def draw_square(change, slot, plane, left, lower, side_x, side_y, camera) -> None:
    """A rectangle along the world's axes, its lower left corner given relative to the hull."""
    _, _, cos, sin, zoom = camera
    corners = np.empty((4, 2))  # counter-clockwise, as seen in the frame
    for corner in range(4):
        right, upper = corner == 1 or corner == 2, corner >= 2
        u, v = left + side_x * right, lower + side_y * upper
        x, y = window_to_frame(CAR_X + zoom * (cos * u - sin * v), CAR_Y + zoom * (sin * u + cos * v))
        outward_u, outward_v = (DILATION if right else -DILATION), (DILATION if upper else -DILATION)
        corners[corner, 0] = x + SCALE_X * (cos * outward_u - sin * outward_v)
        corners[corner, 1] = y - SCALE_Y * (sin * outward_u + cos * outward_v)
    for corner in range(4):
        add_edge(
            change, slot, plane, corners[corner, 0], corners[corner, 1], corners[corner - 1, 0], corners[corner - 1, 1], 1.0
        )


@njit(cache=True)
def draw_grass(change, slot, camera) -> None:
    """The playfield's edge where it is in view, and the light squares on it."""
    x, y, cos, sin, zoom = camera
    reach = 1.0 + math.hypot(0.5 * WINDOW_W, 0.75 * WINDOW_H) / zoom  # from the hull to the farthest visible corner
    if max(abs(x), abs(y)) + reach > PLAYFIELD:
        draw_square(change, slot, FIELD, -PLAYFIELD - x, -PLAYFIELD - y, 2 * PLAYFIELD, 2 * PLAYFIELD, camera)
    else:
        for column in range(STATE_W):
            change[0, FIELD, column] = 1.0
    # centre of the visible part and its half sides, in the hull's frame
    half_x, half_y = 500.0 / zoom, 350.0 / zoom
    margin = 0.75 * GRASS_DIM + 0.1
    ahead = 250.0 / zoom
    middle_x, middle_y = x + sin * ahead, y + cos * ahead
    radius = math.hypot(half_x, half_y) + GRASS_DIM
    first_x = max(-10, int(math.floor((middle_x - radius) / (2 * GRASS_DIM))))
    first_y = max(-10, int(math.floor((middle_y - radius) / (2 * GRASS_DIM))))
    for index_x in range(first_x, min(9, int(math.floor((middle_x + radius) / (2 * GRASS_DIM)))) + 1):
        for index_y in range(first_y, min(9, int(math.floor((middle_y + radius) / (2 * GRASS_DIM)))) + 1):
            left, lower = 2 * GRASS_DIM * index_x - x, 2 * GRASS_DIM * index_y - y
            u, v = left + 0.5 * GRASS_DIM, lower + 0.5 * GRASS_DIM
            if abs(cos * u - sin * v) < half_x + margin and abs(sin * u + cos * v - ahead) < half_y + margin:
                draw_square(change, slot, GRASS, left, lower, GRASS_DIM, GRASS_DIM, camera)


@njit(cache=True)
def cross_section(road, tile, camera, section) -> None:
    """Both road edges at the end of a tile, in the frame, pushed outwards; section: left x, y, right x, y, outward x, y."""
    x, y, cos, sin, zoom = camera
    for side in range(2):
        u, v = road[tile, side, 0] - x, road[tile, side, 1] - y
        section[2 * side], section[2 * side + 1] = window_to_frame(
            CAR_X + zoom * (cos * u - sin * v), CAR_Y + zoom * (sin * u + cos * v)
        )
    u, v = road[tile, 1, 0] - road[tile, 0, 0], road[tile, 1, 1] - road[tile, 0, 1]
    length = math.hypot(u, v) / DILATION
    section[4] = SCALE_X * (cos * u - sin * v) / length
    section[5] = -SCALE_Y * (sin * u + cos * v) / length
    section[0] -= section[4]
    section[1] -= section[5]
    section[2] += section[4]
    section[3] += section[5]


@njit(cache=True)
def find_near(centre, count, camera, near) -> None:
    """near[i]: tile i, or a border beside it, may touch the visible part of the window."""
    x, y, cos, sin, zoom = camera
    margin = 14.0
    side, ahead, behind = 500.0 / zoom + margin, 600.0 / zoom + margin, -100.0 / zoom - margin
    for tile in range(count):
        u, v = centre[tile, 2] - x, centre[tile, 3] - y
        near[tile] = abs(cos * u - sin * v) < side and behind < sin * u + cos * v < ahead


@njit(cache=True)
def draw_road(change, slot, road, plain, count, camera, near) -> None:
    """The road as one ribbon: its two sides, its ends, and the lines where the shade of the tiles changes."""
    section, before = np.empty(6), np.empty(6)
    previous, shade_before = -2, 0
    for tile in range(count):
        if not near[tile]:
            continue
        shade = 0 if plain[tile] else tile % 3
        if previous != tile - 1:
            if previous >= 0:
                draw_line_across(change, slot, section, 0, shade_before, 1.0)
            cross_section(road, tile - 1 if tile else count - 1, camera, section)
            draw_line_across(change, slot, section, 0, shade, -1.0)
        elif shade != shade_before:
            draw_line_across(change, slot, section, -1, shade_before, 1.0)
            draw_line_across(change, slot, section, -1, shade, -1.0)
        before[:] = section
        cross_section(road, tile, camera, section)
        for plane in (ROAD, ROAD + shade):
            add_edge(change, slot, plane, before[0], before[1], section[0], section[1], 1.0)
            add_edge(change, slot, plane, section[2], section[3], before[2], before[3], 1.0)
            if shade == 0:
                break
        previous, shade_before = tile, shade
    if previous >= 0:
        draw_line_across(change, slot, section, 0, shade_before, 1.0)


@njit(cache=True)
def draw_line_across(change, slot, section, road, shade, weight) -> None:
    """The line over the road at a cross-section: ends (+1) or begins (-1) a shade and, if road is 0, the road itself."""
    if road == 0:
        add_edge(change, slot, ROAD, section[0], section[1], section[2], section[3], weight)
    if shade:
        add_edge(change, slot, ROAD + shade, section[0], section[1], section[2], section[3], weight)


@njit(cache=True)
def draw_borders(change, slot, border, border_tile, borders, camera, near) -> None:
    """Red and white quads beside the road; neighbours in a row share an edge, which then needs no drawing."""
    x, y, cos, sin, zoom = camera
    quad, wide = np.empty((4, 2)), np.empty((4, 2))
    joined_before = False
    for index in range(borders):
        tile = border_tile[index]
        if not near[tile]:
            joined_before = False
            continue
        joined = (
            index + 1 < borders
            and near[border_tile[index + 1]]
            and border[index, 0, 0] == border[index + 1, 3, 0]
            and border[index, 0, 1] == border[index + 1, 3, 1]
        )
        for corner in range(4):
            u, v = border[index, corner, 0] - x, border[index, corner, 1] - y
            quad[corner, 0], quad[corner, 1] = window_to_frame(
                CAR_X + zoom * (cos * u - sin * v), CAR_Y + zoom * (sin * u + cos * v)
            )
        turn = widen_border(quad, wide, 0.0 if joined else 1.0, 0.0 if joined_before else -1.0)
        add_side(change, slot, EDGE, wide, 3, 0, turn)
        add_side(change, slot, EDGE, wide, 1, 2, turn)
        if not joined:
            add_side(change, slot, EDGE, wide, 0, 1, turn)
        if not joined_before:
            add_side(change, slot, EDGE, wide, 2, 3, turn)
        if tile % 2:
            # the one before is painted over, the one after paints over this one
            widen_border(quad, wide, -1.0 if joined else 1.0, -1.0)
            for corner in range(4):
                add_side(change, slot, RED, wide, corner, (corner + 1) % 4, turn)
        joined_before = joined


@njit(cache=True)
def add_side(change, slot, plane, corners, start, end, weight) -> None:
    """add_edge from one of some corners, float64 (.., 2), to another."""
    add_edge(change, slot, plane, corners[start, 0], corners[start, 1], corners[end, 0], corners[end, 1], weight)


@njit(cache=True)
def widen_border(quad, wide, front, back) -> float:
    """Dilate a border across the road, and along it by `front` and `back` dilations; returns its orientation.

    quad, wide: float64 (4,2), in the order inner front, outer front, outer back, inner back.
    """
    along_x, along_y = (quad[1, 0] - quad[2, 0]) / SCALE_X, (quad[1, 1] - quad[2, 1]) / SCALE_Y
    along = DILATION / max(math.hypot(along_x, along_y), 1e-3)
    turn = 1.0
    for end in range(2):
        inner, outer, shift = (0, 1, front * along) if end == 0 else (3, 2, back * along)
        across_x = (quad[outer, 0] - quad[inner, 0]) / SCALE_X
        across_y = (quad[outer, 1] - quad[inner, 1]) / SCALE_Y
        across = DILATION / max(math.hypot(across_x, across_y), 1e-3)
        wide[inner, 0] = quad[inner, 0] + SCALE_X * (shift * along_x - across * across_x)
        wide[inner, 1] = quad[inner, 1] + SCALE_Y * (shift * along_y - across * across_y)
        wide[outer, 0] = quad[outer, 0] + SCALE_X * (shift * along_x + across * across_x)
        wide[outer, 1] = quad[outer, 1] + SCALE_Y * (shift * along_y + across * across_y)
        turn = 1.0 if across_x * along_y < across_y * along_x else -1.0
    return turn


@njit(cache=True)
def compose_row(change, sums, frame, row, road, shade_1, shade_2, ground, grass) -> None:
    """Advance the running sums by a row and write its 96 pixels.

    change: float32 (P,96); sums: float32 (P,96); frame: uint8 (3,96,96); colours: float32 (3,).
    """
    for plane in range(PLANES):
        for x in range(STATE_W):
            sums[plane, x] += change[plane, x]
            change[plane, x] = 0.0
    for channel in range(3):
        plain, more_1, more_2 = road[channel], shade_1[channel], shade_2[channel]
        bg, light = ground[channel], grass[channel]
        white = np.float32(255.0)
        red = np.float32(0.0 if channel == 0 else -255.0)
        for x in range(STATE_W):
            edge = min(sums[EDGE, x], np.float32(1.0))
            tar = min(sums[ROAD, x], np.float32(1.0) - edge)
            fade = (np.float32(1.0) - edge) * (np.float32(1.5) - np.float32(0.5) * max(sums[ROAD, x], np.float32(1.0)))
            value = (bg * sums[FIELD, x] + light * sums[GRASS, x]) * (np.float32(1.0) - edge - tar)
            value += tar * plain + fade * (more_1 * sums[SHADE_1, x] + more_2 * sums[SHADE_2, x])
            value += edge * white + min(sums[RED, x], edge) * red
            # smoothscale rounds down twice: a flat value v comes out as v - 2
            frame[channel, row, x] = max(np.int32(value + np.float32(0.99)) - 2, 0)


@njit(cache=True)
def draw_lane(tracks, cars, lane, slot, hud, scratch, worker) -> None:
    """Draw one lane into scratch.frame[worker], planar."""
    change, frame = scratch.change[worker], scratch.frame[worker]
    time = cars.time[lane]
    zoom = 0.1 * SCALE * max(1.0 - time, 0.0) + ZOOM * SCALE * min(time, 1.0)
    x, y = float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1])
    turn = -float(cars.angle[lane, 0])
    cos, sin = math.cos(turn), math.sin(turn)
    camera = (x, y, cos, sin, zoom)
    count = tracks.count[lane]
    near = scratch.near[worker]

    change[:] = 0.0
    draw_grass(change, slot, camera)
    find_near(tracks.centre[lane], count, camera, near)
    draw_road(change, slot, tracks.road[lane], tracks.plain[lane], count, camera, near)
    draw_borders(change, slot, tracks.border[lane], tracks.border_tile[lane], tracks.borders[lane], camera, near)

    road, shade_1, shade_2 = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    ground, grass = np.empty(3, np.float32), np.empty(3, np.float32)
    for channel in range(3):
        color = tracks.road_color[lane, channel]
        road[channel] = math.floor(color)
        shade_1[channel] = math.floor(color + 0.01 * 1 * 255) - math.floor(color)
        shade_2[channel] = math.floor(color + 0.01 * 2 * 255) - math.floor(color)
        ground[channel] = math.floor(tracks.bg_color[lane, channel])
        grass[channel] = math.floor(tracks.grass_color[lane, channel]) - ground[channel]
    sums = scratch.sums[worker]
    sums[:] = 0.0
    for row in range(BAR_ROW):
        compose_row(change[row], sums, frame, row, road, shade_1, shade_2, ground, grass)

    shift_x = CAR_X + (cos * (-x * zoom) - sin * (-y * zoom))
    shift_y = CAR_Y + (sin * (-x * zoom) + cos * (-y * zoom))
    draw_car(
        frame, slot, cars.position[lane], cars.transform_sc[lane], cars.phase[lane],
        cos, sin, zoom, shift_x, shift_y, scratch.runs[worker], scratch.cover[worker],
    )
    draw_hud(
        frame, slot, hud, cars.velocity[lane, 0], cars.omega[lane], float(cars.joint_angle[lane, 0]),
        float(cars.spin[lane, 0]), cars.reward[lane], scratch.line[worker], scratch.picture[worker],
    )


@njit(cache=True)
def write_96(frame, out) -> None:
    """Planar (3,96,96) to interleaved (96,96,3)."""
    for row in range(STATE_H):
        for x in range(STATE_W):
            for channel in range(3):
                out[row, x, channel] = frame[channel, row, x]


@njit(cache=True)
def write_64(frame, out) -> None:
    """Area-average a planar frame whose columns come as all 3k, all 3k + 1, all 3k + 2, to (64,64,3), rounded half up."""
    line = np.empty((3, STATE_W), np.int32)
    for row in range(64):
        upper = row // 2 * 3 + row % 2
        weight = 2 - row % 2  # of the upper of the two rows, against 1 + row % 2 of the lower
        for channel in range(3):
            for x in range(STATE_W):
                line[channel, x] = weight * frame[channel, upper, x] + (3 - weight) * frame[channel, upper + 1, x]
        for channel in range(3):
            for k in range(32):
                middle = line[channel, 32 + k]
                out[row, 2 * k, channel] = (2 * (2 * line[channel, k] + middle) + 9) // 18
                out[row, 2 * k + 1, channel] = (2 * (middle + 2 * line[channel, 64 + k]) + 9) // 18


@njit(cache=True)
def draw_serial(tracks, cars, active, slot, hud, scratch, out, worker, workers) -> None:
    """Every workers-th lane from `worker` on."""
    for lane in range(worker, active.shape[0], workers):
        if active[lane]:
            draw_lane(tracks, cars, lane, slot, hud, scratch, worker)
            if out.shape[1] == 64:
                write_64(scratch.frame[worker], out[lane])
            else:
                write_96(scratch.frame[worker], out[lane])


@njit(cache=True, parallel=True)
def draw_parallel(tracks, cars, active, slot, hud, scratch, out, workers) -> None:
    """All lanes on `workers` threads."""
    for worker in prange(workers):
        draw_serial(tracks, cars, active, slot, hud, scratch, out, worker, workers)


class Renderer:
    """Draws frames of `obs_size` pixels for N lanes; a frame depends on its lane's state alone."""

    def __init__(self, num_envs: int, obs_size: int = 96, num_threads: int = 1) -> None:
        """obs_size: 96, or 64 for the area average of the 96x96 frame."""
        assert obs_size in (96, 64), obs_size
        self.obs_size = obs_size
        self.workers = workers = max(1, min(num_threads, num_envs))
        column = np.arange(STATE_W)
        self.slot = column if obs_size == 96 else column % 3 * 32 + column // 3
        self.hud = make_hud()
        self.scratch = Scratch(
            change=np.zeros((workers, BAR_ROW + 2, PLANES, STATE_W), np.float32),
            sums=np.zeros((workers, PLANES, STATE_W), np.float32),
            frame=np.zeros((workers, 3, STATE_H, STATE_W), np.uint8),
            line=np.zeros((workers, 32, WINDOW_W), np.int64),
            picture=np.zeros((workers, SCORE_ROWS, SCORE_COLUMNS), np.uint8),
            near=np.zeros((workers, MAX_TILES), np.bool_),
            runs=np.zeros((workers, 5, CAR_ROWS, 2), np.int64),
            cover=np.zeros((workers, 3, PATCH_ROWS, PATCH_COLUMNS), np.float32),
        )

    def draw(self, tracks: Tracks, cars: Cars, active: np.ndarray, out: np.ndarray) -> None:
        """Draw the lanes where active, bool (N,), into out, uint8 (N, obs_size, obs_size, 3); leave the others."""
        if self.workers == 1:
            draw_serial(tracks, cars, active, self.slot, self.hud, self.scratch, out, 0, 1)
        else:
            draw_parallel(tracks, cars, active, self.slot, self.hud, self.scratch, out, self.workers)
