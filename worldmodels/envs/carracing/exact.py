"""Exact frames: Gymnasium's `_render("state_pixels")` itself, polygon by polygon in its order, then shrunk.

Legend: view, camera as in camera.py; a frame is planar, uint8 (3, 96, 96), its columns reordered by `slot`.
"""

import numpy as np
from numba import njit

from worldmodels.envs.carracing.camera import body_to_window, camera_of, to_window, turn_of, zoom_at
from worldmodels.envs.carracing.car_shape import HULL_CORNERS, HULL_STARTS, mark_heights, set_mark
from worldmodels.envs.carracing.ground import PITCH, SQUARES, find_near, playfield_ends, square_in_view, squares_near
from worldmodels.envs.carracing.shapes import WHEEL_POLYGON
from worldmodels.envs.carracing.shrink import shrink_window
from worldmodels.envs.carracing.state import GRASS_DIM, HULL_COLOR, PLAYFIELD, WHEEL_COLOR, WHEEL_WHITE
from worldmodels.envs.carracing.window import BAR_TOP, COLUMN_CELL, ROW_CELL, polygon, quad

UNIT_SQUARE = np.array(((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
FIELD = PLAYFIELD * np.array(((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0)))  # (4,2) corners of the playfield
_corner = PITCH * np.arange(-SQUARES, SQUARES)
GRASS = np.stack(np.meshgrid(_corner, _corner, indexing="ij"), axis=-1)[:, :, None] + GRASS_DIM * UNIT_SQUARE
"""float64 (20,20,4,2): the light squares, by column and row"""

BLACK, WHITE, RED = 0x000000, 0xFFFFFF, 0xFF0000
HULL, WHEEL, MARK = (r << 16 | g << 8 | b for r, g, b in (HULL_COLOR, WHEEL_COLOR, WHEEL_WHITE))


@njit(cache=True, error_model="numpy")
def rgb(color, shade) -> int:
    """A colour float64 (3,), and as much more in each channel, truncated as pygame does: 0x00RRGGBB."""
    return int(color[0] + shade) << 16 | int(color[1] + shade) << 8 | int(color[2] + shade)


@njit(cache=True, error_model="numpy")
def paint_quad(canvas, corners, camera, color) -> None:
    """A quad of the ground, float64 (4,2), whose corners gfxdraw holds in 16 bits."""
    for corner in range(4):
        u, v = to_window(corners[corner, 0], corners[corner, 1], camera)
        canvas.corners[corner, 0], canvas.corners[corner, 1] = np.int16(u), np.int16(v)
    quad(canvas, color)


@njit(cache=True, error_model="numpy")
def paint_grass(canvas, view, camera, ground, grass) -> None:
    """The playfield and the light squares on it."""
    at_edge = playfield_ends(view)
    canvas.window[:BAR_TOP] = np.uint32(BLACK if at_edge else ground)
    if at_edge:
        paint_quad(canvas, FIELD, camera, ground)
    first_x, last_x, first_y, last_y = squares_near(view)
    for i in range(first_x, last_x + 1):
        for j in range(first_y, last_y + 1):
            if square_in_view(PITCH * i, PITCH * j, view):
                paint_quad(canvas, GRASS[SQUARES + i, SQUARES + j], camera, grass)


@njit(cache=True, error_model="numpy")
def paint_road(canvas, tracks, lane, camera, near) -> None:
    """The tiles, each followed by its border."""
    color = tracks.road_color[lane]
    shades = rgb(color, 0.0), rgb(color, 0.01 * 1 * 255), rgb(color, 0.01 * 2 * 255)
    border, borders = 0, tracks.borders[lane]
    for tile in range(tracks.count[lane]):
        has_border = border < borders and tracks.border_tile[lane, border] == tile
        if near[tile]:
            paint_quad(canvas, tracks.road[lane, tile], camera, shades[0 if tracks.plain[lane, tile] else tile % 3])
            if has_border:
                paint_quad(canvas, tracks.border[lane, border], camera, RED if tile % 2 else WHITE)
        border += has_border


@njit(cache=True, error_model="numpy")
def paint_ground(canvas, tracks, cars, lane, near):
    """Playfield, grass, road and borders; returns the camera. near: bool (M,) scratch."""
    cos, sin = turn_of(-float(cars.angle[lane, 0]))
    x, y = float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1])
    view = (x, y, cos, sin, zoom_at(cars.time[lane]))
    camera = camera_of(view)
    find_near(tracks.centre[lane], tracks.count[lane], view, near)
    paint_grass(canvas, view, camera, rgb(tracks.bg_color[lane], 0.0), rgb(tracks.grass_color[lane], 0.0))
    paint_road(canvas, tracks, lane, camera, near)
    return camera


@njit(cache=True, error_model="numpy")
def paint_body(canvas, corners, transform_sc, position, camera, color) -> None:
    """A polygon of a body, float32 (K,2)."""
    body_to_window(corners, transform_sc, position, camera, canvas.corners)
    polygon(canvas, len(corners), color)


@njit(cache=True, error_model="numpy")
def paint_car(canvas, transform_sc, position, phase, camera, mark) -> None:
    """The wheels with their white marks, then the hull. mark: float32 (4,2) scratch."""
    for wheel in range(4):
        paint_body(canvas, WHEEL_POLYGON, transform_sc[wheel + 1], position[wheel + 1], camera, WHEEL)
        shows, c1, c2 = mark_heights(phase[wheel])
        if shows:
            set_mark(mark, c1, c2)
            paint_body(canvas, mark, transform_sc[wheel + 1], position[wheel + 1], camera, MARK)
    for part in range(4):
        corners = HULL_CORNERS[HULL_STARTS[part] : HULL_STARTS[part + 1]]
        paint_body(canvas, corners, transform_sc[0], position[0], camera, HULL)


@njit(cache=True, error_model="numpy")
def paint_bars(canvas, bars) -> None:
    """The indicators: int64 (.., 5) left, right, top, bottom (inclusive), 0x00RRGGBB."""
    for index in range(len(bars)):
        bar = bars[index]
        for row in range(bar[2], bar[3] + 1):
            for x in range(bar[0], bar[1] + 1):
                canvas.window[row, x] = bar[4]
        for i in range(ROW_CELL[bar[2]], ROW_CELL[bar[3] + 1] + 1):
            for k in range(COLUMN_CELL[bar[0]], COLUMN_CELL[bar[1] + 1] + 1):
                canvas.mixed[i, k] = 1


@njit(cache=True, error_model="numpy")
def erase_bars(canvas, bars) -> None:
    """Leave the part below the picture black again."""
    for index in range(len(bars)):
        bar = bars[index]
        for row in range(max(bar[2], BAR_TOP), bar[3] + 1):
            for x in range(bar[0], bar[1] + 1):
                canvas.window[row, x] = BLACK


@njit(cache=True, error_model="numpy")
def draw_exact(tracks, cars, lane, slot, near, bars, mark, canvas, frame) -> None:
    """One lane without its score into a planar frame.

    near: bool (M,), mark: float32 (4,2) scratch; bars: int64 (..,5) of `list_bars`.
    """
    camera = paint_ground(canvas, tracks, cars, lane, near)
    paint_car(canvas, cars.transform_sc[lane], cars.position[lane], cars.phase[lane], camera, mark)
    paint_bars(canvas, bars)
    shrink_window(canvas.window, canvas.mixed, slot, frame)
    erase_bars(canvas, bars)
