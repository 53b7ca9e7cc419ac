"""Frames: what Gymnasium's `_render("state_pixels")` returns, from the state arrays.

Gymnasium draws polygons into a 1000x800 window and shrinks it to 96x96. We add up exact areas at 96x96 instead: every
edge of a polygon leaves, in the pixels it crosses, the change of coverage that it causes from one row to the next, and
a running sum down the rows turns the changes into coverage. Only edges cost time; the flat inside of a polygon is free,
and the 96 pixels of a row are worked on as vectors. `ground.py` leaves the edges, `car_shape.py` and `hud.py` add the
car and the bar. docs/carracing.md tells the error that remains.

Legend: N lanes, W workers (threads), P planes of coverage; a planar frame is uint8 (3, 96, 96), its columns reordered
by `slot`.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from worldmodels.envs.carracing.car_shape import CarScratch, Sprite, car_scratch, draw_car, make_sprite
from worldmodels.envs.carracing.ground import (
    BORDER_RED,
    BORDERS,
    CHANGE_SIZE,
    FIELD,
    GRASS,
    PLANES,
    ROAD_0,
    ROAD_1,
    ROAD_2,
    ROW,
    draw_borders,
    draw_grass,
    draw_road,
    find_near,
)
from worldmodels.envs.carracing.hud import BAR_ROW, GLYPH_H, SCORE_COLUMNS, SCORE_ROWS, Hud, draw_hud, make_hud
from worldmodels.envs.carracing.state import MAX_TILES, SCALE, STATE_H, STATE_W, WINDOW_W, ZOOM, Cars, Tracks


class Scratch(NamedTuple):
    """Working memory, W workers first. Between two frames `change` is zero and the rest means nothing."""

    change: np.ndarray  # float32 (W, 86 * P * 96) see ground.py
    sums: np.ndarray  # float32 (W, P * 96)
    frame: np.ndarray  # uint8 (W, 3, 96, 96) planar
    near: np.ndarray  # bool (W, M) tiles that may be in view
    colors: np.ndarray  # float32 (W, 5, 3) road, its second and third shade less that, ground, grass less ground
    line: np.ndarray  # int64 (W, 32, 1000) for scores beyond the table
    picture: np.ndarray  # uint8 (W, 5, 24)
    planes: np.ndarray  # int32 (W, 3, 96) and
    small: np.ndarray  # uint8 (W, 3, 64) for the 64x64 average
    car: CarScratch


def make_scratch(workers: int) -> Scratch:
    """About 0.6 MB a worker."""
    return Scratch(
        change=np.zeros((workers, CHANGE_SIZE), np.float32),
        sums=np.zeros((workers, ROW), np.float32),
        frame=np.zeros((workers, 3, STATE_H, STATE_W), np.uint8),
        near=np.zeros((workers, MAX_TILES), np.bool_),
        colors=np.zeros((workers, 5, 3), np.float32),
        line=np.zeros((workers, GLYPH_H, WINDOW_W), np.int64),
        picture=np.zeros((workers, SCORE_ROWS, SCORE_COLUMNS), np.uint8),
        planes=np.zeros((workers, 3, STATE_W), np.int32),
        small=np.zeros((workers, 3, 64), np.uint8),
        car=car_scratch(workers),
    )


@njit(cache=True)
def of_worker(scratch: Scratch, worker: int) -> Scratch:
    """One worker's share, without the leading axis."""
    car = scratch.car
    return Scratch(
        scratch.change[worker],
        scratch.sums[worker],
        scratch.frame[worker],
        scratch.near[worker],
        scratch.colors[worker],
        scratch.line[worker],
        scratch.picture[worker],
        scratch.planes[worker],
        scratch.small[worker],
        CarScratch(car.corners[worker], car.mark[worker], car.runs[worker], car.found[worker], car.cover[worker]),
    )


class Tables(NamedTuple):
    """What every lane reads."""

    slot: np.ndarray  # int64 (96,) where a column lies in a planar frame
    hud: Hud
    sprite: Sprite


@njit(cache=True)
def set_colors(road: np.ndarray, ground: np.ndarray, grass: np.ndarray, colors: np.ndarray) -> None:
    """Gymnasium's colours, float64 (3,) each, as pygame truncates them, into float32 (5, 3)."""
    for channel in range(3):
        plain, bg = math.floor(road[channel]), math.floor(ground[channel])
        colors[0, channel] = plain
        colors[1, channel] = math.floor(road[channel] + 0.01 * 1 * 255) - plain
        colors[2, channel] = math.floor(road[channel] + 0.01 * 2 * 255) - plain
        colors[3, channel] = bg
        colors[4, channel] = math.floor(grass[channel]) - bg


@njit(cache=True)
def compose_row(change, sums, frame, row, colors) -> None:
    """Advance the running sums by one row and write its pixels: grass and road alone.

    change: float32 (P * 96,), left zero; sums: float32 (P * 96,); frame: uint8 (3,96,96); colors: float32 (5,3).
    """
    one, half = np.float32(1.0), np.float32(0.5)
    for x in range(STATE_W):
        grass = sums[GRASS + x] + change[GRASS + x]
        road_0 = sums[ROAD_0 + x] + change[ROAD_0 + x]
        road_1 = sums[ROAD_1 + x] + change[ROAD_1 + x]
        road_2 = sums[ROAD_2 + x] + change[ROAD_2 + x]
        sums[GRASS + x], sums[ROAD_0 + x], sums[ROAD_1 + x], sums[ROAD_2 + x] = grass, road_0, road_1, road_2
        change[GRASS + x], change[ROAD_0 + x], change[ROAD_1 + x], change[ROAD_2 + x] = 0.0, 0.0, 0.0, 0.0
        road = road_0 + road_1 + road_2
        tar = min(road, one)
        fade = one + half - half * max(road, one)  # 1 / road, nearly, where the road overlaps itself
        open_ground = one - tar
        for channel in range(3):
            value = open_ground * colors[3, channel] + open_ground * grass * colors[4, channel]
            value += tar * colors[0, channel] + fade * (road_1 * colors[1, channel] + road_2 * colors[2, channel])
            frame[channel, row, x] = after_smoothscale(value)


@njit(cache=True, inline="always")
def after_smoothscale(value):
    """smoothscale rounds down twice: a flat value v comes out as v - 2, and never below 0."""
    return max(np.int32(value + np.float32(0.99)) - np.int32(2), np.int32(0))


@njit(cache=True)
def compose_full_row(change, sums, frame, row, colors) -> None:
    """`compose_row` where borders or the end of the playfield show."""
    one, half, white = np.float32(1.0), np.float32(0.5), np.float32(255.0)
    for x in range(STATE_W * PLANES):
        sums[x] += change[x]
        change[x] = 0.0
    for x in range(STATE_W):
        border = min(sums[BORDERS + x], one)
        red = min(sums[BORDER_RED + x], border)
        road = sums[ROAD_0 + x] + sums[ROAD_1 + x] + sums[ROAD_2 + x]
        tar = min(road, one - border)
        fade = (one - border) * (one + half - half * max(road, one))
        open_ground = one - border - tar
        for channel in range(3):
            value = open_ground * (sums[FIELD + x] * colors[3, channel] + sums[GRASS + x] * colors[4, channel])
            value += fade * (sums[ROAD_1 + x] * colors[1, channel] + sums[ROAD_2 + x] * colors[2, channel])
            value += tar * colors[0, channel] + border * white
            if channel:
                value -= red * white
            frame[channel, row, x] = after_smoothscale(value)


@njit(cache=True)
def draw_lane(tracks: Tracks, cars: Cars, lane: int, tables: Tables, scratch: Scratch) -> None:
    """Draw one lane into scratch.frame."""
    change, sums, frame, near = scratch.change, scratch.sums, scratch.frame, scratch.near
    slot, colors = tables.slot, scratch.colors
    time = cars.time[lane]
    zoom = 0.1 * SCALE * max(1.0 - time, 0.0) + ZOOM * SCALE * min(time, 1.0)
    turn = -float(cars.angle[lane, 0])
    camera = (float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1]), math.cos(turn), math.sin(turn), zoom)

    sums[:] = 0.0
    field = draw_grass(change, slot, camera)
    find_near(tracks.centre[lane], tracks.count[lane], camera, near)
    draw_road(change, slot, tracks.road[lane], tracks.plain[lane], tracks.count[lane], camera, near)
    first, last = draw_borders(
        change, slot, tracks.border[lane], tracks.border_tile[lane], tracks.borders[lane], camera, near
    )
    if field:
        first, last = 0, BAR_ROW
    else:
        sums[FIELD : FIELD + STATE_W] = 1.0
    set_colors(tracks.road_color[lane], tracks.bg_color[lane], tracks.grass_color[lane], colors)
    for row in range(BAR_ROW):
        if first <= row < last:
            compose_full_row(change[row * ROW : (row + 1) * ROW], sums, frame, row, colors)
        else:
            compose_row(change[row * ROW : (row + 1) * ROW], sums, frame, row, colors)
    change[BAR_ROW * ROW :] = 0.0

    draw_car(
        frame, slot, cars.position[lane], cars.transform_sc[lane], cars.phase[lane], camera, tables.sprite, scratch.car
    )
    draw_hud(
        frame,
        slot,
        tables.hud,
        cars.velocity[lane, 0],
        cars.omega[lane],
        float(cars.joint_angle[lane, 0]),
        float(cars.spin[lane, 0]),
        cars.reward[lane],
        scratch.line,
        scratch.picture,
    )


@njit(cache=True)
def write_96(frame: np.ndarray, out: np.ndarray) -> None:
    """Planar (3,96,96) to interleaved (96, 288)."""
    for row in range(STATE_H):
        for x in range(STATE_W):
            out[row, 3 * x] = frame[0, row, x]
            out[row, 3 * x + 1] = frame[1, row, x]
            out[row, 3 * x + 2] = frame[2, row, x]


@njit(cache=True)
def write_64(frame: np.ndarray, out: np.ndarray, planes: np.ndarray, small: np.ndarray) -> None:
    """Area-average to interleaved (64, 192), rounded half up; the columns come as all 3k, all 3k + 1, all 3k + 2."""
    for row in range(64):
        above = row // 2 * 3 + row % 2  # 1.5 rows: two thirds of one and a third of the other
        upper, lower = 2 - row % 2, 1 + row % 2
        for channel in range(3):
            for x in range(STATE_W):
                planes[channel, x] = upper * frame[channel, above, x] + lower * frame[channel, above + 1, x]
            for k in range(32):
                middle = planes[channel, 32 + k]
                small[channel, 2 * k] = (2 * (2 * planes[channel, k] + middle) + 9) // 18
                small[channel, 2 * k + 1] = (2 * (middle + 2 * planes[channel, 64 + k]) + 9) // 18
        for x in range(64):
            out[row, 3 * x] = small[0, x]
            out[row, 3 * x + 1] = small[1, x]
            out[row, 3 * x + 2] = small[2, x]


@njit(cache=True)
def draw_lanes(tracks, cars, active, tables, scratch, out, worker, workers) -> None:
    """Every `workers`-th lane from `worker` on; out: uint8 (N, 64 or 96, 3 * as many)."""
    own = of_worker(scratch, worker)
    for lane in range(worker, active.shape[0], workers):
        if active[lane]:
            draw_lane(tracks, cars, lane, tables, own)
            if out.shape[1] == STATE_H:
                write_96(own.frame, out[lane])
            else:
                write_64(own.frame, out[lane], own.planes, own.small)


@njit(cache=True, parallel=True)
def draw_parallel(tracks, cars, active, tables, scratch, out, workers) -> None:
    """All lanes, on `workers` threads."""
    for worker in prange(workers):
        draw_lanes(tracks, cars, active, tables, scratch, out, worker, workers)


class Renderer:
    """Draws frames of `obs_size` pixels for N lanes; a frame depends on its lane's state alone."""

    def __init__(self, num_envs: int, obs_size: int = 96, num_threads: int = 1) -> None:
        """obs_size: 96, or 64 for the area average of the 96x96 frame."""
        assert obs_size in (96, 64), obs_size
        self.obs_size = obs_size
        column = np.arange(STATE_W)
        slot = column if obs_size == STATE_W else column % 3 * 32 + column // 3
        self.tables = Tables(slot, make_hud(), make_sprite())
        self.workers = max(1, min(num_threads, num_envs))
        self.scratch = make_scratch(self.workers)

    def draw(self, tracks: Tracks, cars: Cars, active: np.ndarray, out: np.ndarray) -> None:
        """Draw the lanes where active, bool (N,), into out, uint8 (N, obs_size, obs_size, 3); leave the others."""
        rows = out.reshape(len(active), self.obs_size, 3 * self.obs_size)
        if self.workers == 1:
            draw_lanes(tracks, cars, active, self.tables, self.scratch, rows, 0, 1)
        else:
            draw_parallel(tracks, cars, active, self.tables, self.scratch, rows, self.workers)
