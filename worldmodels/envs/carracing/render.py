"""Frames: what Gymnasium's `_render("state_pixels")` returns, from the state arrays.

Gymnasium draws polygons into a 1000x800 window and shrinks it to 96x96. `exact.py` does just that. The fast frames of
this file add up exact areas at 96x96 instead: every
edge of a polygon leaves, in the pixels it crosses, the change of coverage that it causes from one row to the next, and
a running sum down the rows turns the changes into coverage. Only edges cost time; the flat inside of a polygon is free,
and the 96 pixels of a row are worked on as vectors. `ground.py` leaves the edges, `car_shape.py` and `hud.py` add the
car and the bar. docs/carracing.md tells the error that remains.

Legend: N lanes, P planes of coverage; view as in camera.py; a planar frame is uint8 (3, 96, 96), its columns reordered
by `slot`.
"""

import math
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
from numba import njit

from worldmodels.envs.carracing import ground
from worldmodels.envs.carracing.camera import camera_of, zoom_at
from worldmodels.envs.carracing.car_shape import CarScratch, Sprite, draw_car, make_sprite
from worldmodels.envs.carracing.exact import draw_exact
from worldmodels.envs.carracing.ground import BORDER_RED, BORDERS, FIELD, GRASS, OPEN, ROAD_0, ROAD_1, ROAD_2, ROW
from worldmodels.envs.carracing.hud import BAR_ROW, Hud, HudScratch, draw_bars, list_bars, make_hud, write_score
from worldmodels.envs.carracing.state import MAX_TILES, STATE_H, STATE_W, Cars, Tracks, zeros
from worldmodels.envs.carracing.window import Canvas


class Scratch(NamedTuple):
    """Working memory of one thread, 0.6 MB. Between two frames `change` is zero and the rest means nothing."""

    change: Annotated[np.ndarray, "float32", (ground.CHANGE_SIZE,)]  # see ground.py
    edges: Annotated[np.ndarray, "float64", (ground.MAX_EDGES, 7)]
    quad: Annotated[np.ndarray, "float64", (4, 2)]
    sums: Annotated[np.ndarray, "float32", (ROW,)]
    frame: Annotated[np.ndarray, "uint8", (3, STATE_H, STATE_W)]  # planar
    near: Annotated[np.ndarray, "bool", (MAX_TILES,)]  # tiles that may be in view
    colors: Annotated[np.ndarray, "float32", (5, 3)]  # road, its other shades less that, ground, grass less ground
    pair: Annotated[np.ndarray, "uint16", (STATE_W,)]  # two rows of a frame added up
    small: Annotated[np.ndarray, "uint8", (3, 64, 64)]  # planar average
    hud: HudScratch
    car: CarScratch


class Tables(NamedTuple):
    """What every lane reads."""

    slot: np.ndarray  # int64 (96,) where a column lies in a planar frame
    hud: Hud
    sprite: Sprite


@lru_cache
def make_tables(obs_size: int) -> Tables:
    """Tables for frames of 96 or 64 pixels."""
    column = np.arange(STATE_W)
    return Tables(column if obs_size == STATE_W else column % 3 * 32 + column // 3, make_hud(), make_sprite())


@njit(cache=True, error_model="numpy")
def set_colors(road: np.ndarray, ground: np.ndarray, grass: np.ndarray, colors: np.ndarray) -> None:
    """Gymnasium's colours, float64 (3,) each, as pygame truncates them, into float32 (5, 3)."""
    for channel in range(3):
        plain, bg = math.floor(road[channel]), math.floor(ground[channel])
        colors[0, channel] = plain
        colors[1, channel] = math.floor(road[channel] + 0.01 * 1 * 255) - plain
        colors[2, channel] = math.floor(road[channel] + 0.01 * 2 * 255) - plain
        colors[3, channel] = bg
        colors[4, channel] = math.floor(grass[channel]) - bg


@njit(cache=True, error_model="numpy")
def advance(change: np.ndarray, sums: np.ndarray, size: int) -> None:
    """Add the changes of one row to the first `size` running sums, float32 both, and leave those changes zero."""
    for x in range(size):
        sums[x] += change[x]
        change[x] = 0.0


@njit(cache=True, error_model="numpy", inline="always")
def as_smoothscale(value):
    """smoothscale rounds down twice: a flat value v comes out as v - 2, at least 0."""
    return max(np.int32(value + np.float32(0.99)) - np.int32(2), np.int32(0))


@njit(cache=True, error_model="numpy", forceinline=True)
def color_row(sums: np.ndarray, colors: np.ndarray, frame: np.ndarray, row: int, full: bool) -> None:
    """Write a row of a planar frame: borders over road over grass; only a `full` row has borders, or the end of the
    playfield. It reads at constant offsets from one array and writes another: that lets LLVM make vector code of it.
    """
    zero, one, half, most = np.float32(0.0), np.float32(1.0), np.float32(0.5), np.float32(255.0)
    for channel in range(3):
        road, more_1, more_2 = colors[0, channel], colors[1, channel], colors[2, channel]
        ground, more, line = colors[3, channel], colors[4, channel], frame[channel, row]
        red = np.float32(0.0 if channel == 0 else -255.0)
        for x in range(STATE_W):
            border = min(sums[BORDERS + x], one) if full else zero
            field = sums[FIELD + x] if full else one
            cover = sums[ROAD_0 + x] + sums[ROAD_1 + x] + sums[ROAD_2 + x]
            tar = min(cover, one - border)
            fade = (one - border) * (one + half - half * max(cover, one))  # nearly 1 / cover where road overlaps itself
            value = (one - border - tar) * (ground * field + more * sums[GRASS + x])
            value += tar * road + fade * (more_1 * sums[ROAD_1 + x] + more_2 * sums[ROAD_2 + x])
            if full:
                value += most * border + red * min(sums[BORDER_RED + x], border)
            line[x] = as_smoothscale(value)


@njit(cache=True, error_model="numpy")
def draw_fast(tracks: Tracks, cars: Cars, lane: int, view, tables: Tables, scratch: Scratch, bars: int) -> None:
    """One lane without its score into scratch.frame, by exact areas; bars: how many of scratch.hud.bars to draw."""
    change, sums, frame, near = scratch.change, scratch.sums, scratch.frame, scratch.near
    slot, colors, edges = tables.slot, scratch.colors, scratch.edges
    sums[:] = 0.0
    tiles, borders = tracks.count[lane], tracks.borders[lane]
    count, field = ground.draw_grass(edges, 0, view, scratch.quad)
    ground.find_near(tracks.centre[lane], tiles, view, near)
    count = ground.draw_road(edges, count, tracks.road[lane], tracks.plain[lane], tiles, view, near)
    count, first, last = ground.draw_borders(
        edges, count, tracks.border[lane], tracks.border_tile[lane], borders, view, near, scratch.quad
    )
    ground.add_edges(change, slot, edges, count)
    if field:
        first, last = 0, BAR_ROW
    else:
        sums[FIELD : FIELD + STATE_W] = 1.0
    set_colors(tracks.road_color[lane], tracks.bg_color[lane], tracks.grass_color[lane], colors)
    for row in range(BAR_ROW):
        full = first <= row < last
        advance(change[row * ROW : (row + 1) * ROW], sums, ROW if full else OPEN)
        if full:  # each call is compiled for its constant
            color_row(sums, colors, frame, row, True)
        else:
            color_row(sums, colors, frame, row, False)
    change[BAR_ROW * ROW :] = 0.0
    position, transform_sc, phase = cars.position[lane], cars.transform_sc[lane], cars.phase[lane]
    draw_car(frame, slot, position, transform_sc, phase, camera_of(view), tables.sprite, scratch.car)
    draw_bars(frame, slot, scratch.hud.bars, bars, scratch.hud.across)


@njit(cache=True, error_model="numpy")
def draw_lane(tracks: Tracks, cars: Cars, lane: int, hud: bool, tables: Tables, scratch: Scratch, canvas) -> None:
    """Draw one lane into scratch.frame: with a canvas Gymnasium's picture itself, without one (None) by exact areas."""
    x, y = float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1])
    turn, time = -float(cars.angle[lane, 0]), cars.time[lane]
    if not math.isfinite(x + y + turn + time):  # nothing to be seen from nowhere
        scratch.frame[:] = 0
        return
    bars = 0
    if hud:
        spin, joint_angle = float(cars.spin[lane, 0]), float(cars.joint_angle[lane, 0])
        bars = list_bars(scratch.hud.bars, cars.velocity[lane, 0], cars.omega[lane], joint_angle, spin)
    if canvas is None:
        view = (x, y, math.cos(turn), math.sin(turn), zoom_at(time))
        draw_fast(tracks, cars, lane, view, tables, scratch, bars)
    else:
        near, shown, mark = scratch.near, scratch.hud.bars[:bars], scratch.car.mark
        draw_exact(tracks, cars, lane, tables.slot, near, shown, mark, canvas, scratch.frame)
    if hud:
        write_score(scratch.frame, tables.slot, cars.reward[lane], tables.hud, scratch.hud)


@njit(cache=True, error_model="numpy")
def interleave(planes: np.ndarray, out: np.ndarray) -> None:
    """Planar, uint8 (3,S,S), to (S, 3 * S)."""
    for row in range(planes.shape[1]):
        for x in range(planes.shape[2]):
            out[row, 3 * x] = planes[0, row, x]
            out[row, 3 * x + 1] = planes[1, row, x]
            out[row, 3 * x + 2] = planes[2, row, x]


@njit(cache=True, error_model="numpy")
def write_64(frame: np.ndarray, out: np.ndarray, sums: np.ndarray, small: np.ndarray) -> None:
    """Area-average to interleaved (64, 192), rounded half up; the columns come as all 3k, all 3k + 1, all 3k + 2.

    sums: uint16 (96,), small: uint8 (3,64,64) scratch. A pixel is 1.5 x 1.5 of the frame's: ninths of four of them.
    """
    ninth = np.int32(3641)  # (2 v + 9) * 3641 >> 16 is (2 v + 9) // 18 for every sum v of nine bytes
    for row in range(64):
        above = row // 2 * 3 + row % 2
        upper, lower = np.int32(2 - row % 2), np.int32(1 + row % 2)
        for channel in range(3):
            a, b, line = frame[channel, above], frame[channel, above + 1], small[channel, row]
            for x in range(STATE_W):
                sums[x] = upper * np.int32(a[x]) + lower * np.int32(b[x])
            for k in range(32):
                line[2 * k] = ((2 * (2 * sums[k] + sums[32 + k]) + 9) * ninth) >> 16
                line[2 * k + 1] = ((2 * (sums[32 + k] + 2 * sums[64 + k]) + 9) * ninth) >> 16
    interleave(small, out)


@njit(cache=True, error_model="numpy")
def write_grey(pixels: np.ndarray, out: np.ndarray) -> None:
    """Interleaved colours, uint8 (S,3*S), to luminance, uint8 (S,S): Gymnasium's GrayscaleObservation."""
    for row in range(out.shape[0]):
        for x in range(out.shape[1]):
            red, green, blue = pixels[row, 3 * x], pixels[row, 3 * x + 1], pixels[row, 3 * x + 2]
            out[row, x] = np.uint8(red * 0.2125 + green * 0.7154 + blue * 0.0721)


@njit(cache=True, error_model="numpy")
def write_frame(tables: Tables, scratch: Scratch, out: np.ndarray) -> None:
    """scratch.frame as interleaved colours, uint8 (S,3*S) with S = 96 or 64."""
    if out.shape[0] == STATE_H:
        interleave(scratch.frame, out)
    else:
        write_64(scratch.frame, out, scratch.pair, scratch.small)


class Painter:
    """Draws observations with one thread's working memory; a frame depends on its lane's state alone."""

    def __init__(self, size: int = 96, exact: bool = False, hud: bool = True) -> None:
        """size: 96, or 64 for the area average of the 96x96 frame; hud: False leaves the bar black."""
        assert size in (96, 64), size
        self.size = size
        self.hud = hud
        self.tables = make_tables(size)
        self.scratch = zeros(Scratch)
        self.canvas = zeros(Canvas) if exact else None

    def draw(self, tracks: Tracks, cars: Cars, lane: int) -> np.ndarray:
        """One lane, uint8 (size, size, 3)."""
        frame = np.empty((self.size, self.size, 3), np.uint8)
        draw_lane(tracks, cars, lane, self.hud, self.tables, self.scratch, self.canvas)
        write_frame(self.tables, self.scratch, frame.reshape(self.size, -1))
        return frame
