"""Gymnasium's picture itself: its `_render("state_pixels")`, polygon by polygon, in its order."""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.camera import to_window, window_camera
from worldmodels.envs.carracing.car_shape import HULL_CORNERS, HULL_STARTS, WHEEL_CORNERS, mark_heights
from worldmodels.envs.carracing.state import GRASS_DIM, PLAYFIELD, SIZE, WHEEL_R, WINDOW_H, WINDOW_W
from worldmodels.envs.carracing.window import fill, outline, polygon


@njit(cache=True, error_model="numpy")
def rgb(color) -> int:
    return int(color[0]) << 16 | int(color[1]) << 8 | int(color[2])


@njit(cache=True, error_model="numpy")
def paint_quad(window, quad, color, camera, corners) -> None:
    for corner in range(4):
        x, y = to_window(quad[corner, 0], quad[corner, 1], camera)
        corners[corner, 0], corners[corner, 1] = np.int16(x), np.int16(y)
    outline(window, corners, color)
    fill(window, corners, color)


@njit(cache=True, error_model="numpy")
def paint_ground(window, tracks, lane, camera) -> None:
    corners = np.empty((4, 2), np.int64)
    quad = np.empty((4, 2))
    def_bounds = PLAYFIELD
    quad[0, 0], quad[0, 1] = def_bounds, def_bounds
    quad[1, 0], quad[1, 1] = def_bounds, -def_bounds
    quad[2, 0], quad[2, 1] = -def_bounds, -def_bounds
    quad[3, 0], quad[3, 1] = -def_bounds, def_bounds
    paint_quad(window, quad, rgb(tracks.bg_color[lane]), camera, corners)
    for x in range(-20, 20, 2):
        for y in range(-20, 20, 2):
            quad[0, 0], quad[0, 1] = GRASS_DIM * x + GRASS_DIM, GRASS_DIM * y + 0
            quad[1, 0], quad[1, 1] = GRASS_DIM * x + 0, GRASS_DIM * y + 0
            quad[2, 0], quad[2, 1] = GRASS_DIM * x + 0, GRASS_DIM * y + GRASS_DIM
            quad[3, 0], quad[3, 1] = GRASS_DIM * x + GRASS_DIM, GRASS_DIM * y + GRASS_DIM
            paint_quad(window, quad, rgb(tracks.grass_color[lane]), camera, corners)
    border = 0
    for tile in range(tracks.count[lane]):
        shade = 0.0 if tracks.plain[lane, tile] else 0.01 * (tile % 3) * 255
        color = tracks.road_color[lane] + shade
        paint_quad(window, tracks.road[lane, tile], rgb(color), camera, corners)
        if border < tracks.borders[lane] and tracks.border_tile[lane, border] == tile:
            paint_quad(window, tracks.border[lane, border], 0xFFFFFF if tile % 2 == 0 else 0xFF0000, camera, corners)
            border += 1


@njit(cache=True, error_model="numpy")
def body(points, transform_sc, position, camera, out) -> None:
    for index in range(len(points)):
        u, v = points[index, 0], points[index, 1]
        x = (transform_sc[1] * u - transform_sc[0] * v) + position[0]
        y = (transform_sc[0] * u + transform_sc[1] * v) + position[1]
        out[index, 0], out[index, 1] = to_window(float(x), float(y), camera)


@njit(cache=True, error_model="numpy")
def paint_car(window, cars, lane, camera) -> None:
    corners = np.empty((8, 2), np.int64)
    mark = np.empty((4, 2), np.float32)
    for wheel in range(4):
        sc, position = cars.transform_sc[lane, wheel + 1], cars.position[lane, wheel + 1]
        body(WHEEL_CORNERS, sc, position, camera, corners)
        polygon(window, corners[:4], 0)
        shows, c1, c2 = mark_heights(cars.phase[lane, wheel])
        if shows:
            for corner in range(4):
                mark[corner, 0] = WHEEL_CORNERS[(corner + 3) % 4, 0]
                mark[corner, 1] = WHEEL_R * (c1 if corner < 2 else c2) * SIZE
            body(mark, sc, position, camera, corners)
            polygon(window, corners[:4], 0x4D4D4D)
    for k in range(4):
        start, end = HULL_STARTS[k], HULL_STARTS[k + 1]
        body(HULL_CORNERS[start:end], cars.transform_sc[lane, 0], cars.position[lane, 0], camera, corners)
        polygon(window, corners[: end - start], 0xCC0000)


@njit(cache=True, error_model="numpy")
def paint(window, tracks, cars, lane) -> None:
    camera = window_camera(float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1]), float(cars.angle[lane, 0]), cars.time[lane])
    window[:] = 0
    paint_ground(window, tracks, lane, camera)
    paint_car(window, cars, lane, camera)
