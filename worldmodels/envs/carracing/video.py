"""Pictures to look at: what Gymnasium's `render()` shows, 600x400 or the whole 1000x800 window, with skid marks.

These are drawn with pygame by Gymnasium's own calls in Gymnasium's own order, a few milliseconds each; the frames that
agents see come from `render.py`.
"""

import math
from types import ModuleType

import numpy as np

from worldmodels.envs.carracing.camera import zoom_at
from worldmodels.envs.carracing.car_shape import HULL_CORNERS, HULL_STARTS, WHEEL_CORNERS, mark_heights
from worldmodels.envs.carracing.state import (
    GRASS_DIM,
    HULL_COLOR,
    PLAYFIELD,
    SIZE,
    SKID_PARTICLES,
    WHEEL_COLOR,
    WHEEL_R,
    WHEEL_WHITE,
    WINDOW_H,
    WINDOW_W,
    Cars,
    Tracks,
)
from worldmodels.errors import missing

VIDEO_W = 600  # pixels of a video frame
VIDEO_H = 400
MUD_COLOR = (102, 102, 0)
MARGIN = 400.0  # window pixels around the window within which a polygon may still reach it


def import_pygame() -> ModuleType:
    """pygame, slow to import and wanted for people only; UserError where it is not installed."""
    try:
        import pygame
    except ImportError as error:
        raise missing("pygame, which draws CarRacing for people,", "box2d") from error
    return pygame


class Camera:
    """World to window, before the vertical flip: the hull stands upright at (500, 200)."""

    def __init__(self, cars: Cars, lane: int) -> None:
        self.zoom = zoom_at(cars.time[lane])
        turn = -float(cars.angle[lane, 0])
        self.rotation = np.array(((math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))))
        hull = -cars.position[lane, 0].astype(np.float64) * self.zoom
        self.shift = self.rotation @ hull + (WINDOW_W / 2, WINDOW_H / 4)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 2) to window points (..., 2), float64."""
        return points.astype(np.float64) @ self.rotation.T * self.zoom + self.shift


def draw_video(tracks: Tracks, cars: Cars, lane: int, size: tuple[int, int] = (VIDEO_W, VIDEO_H)) -> np.ndarray:
    """One lane as uint8 (height, width, 3); size: (width, height), smoothly scaled from 1000x800."""
    pygame = import_pygame()
    surface = pygame.Surface((WINDOW_W, WINDOW_H))
    camera = Camera(cars, lane)
    draw_ground(surface, camera, tracks, lane)
    draw_skids(surface, camera, cars, lane)
    draw_bodies(surface, camera, cars, lane)
    surface = pygame.transform.flip(surface, False, True)
    draw_bar(surface, cars, lane)
    if size != (WINDOW_W, WINDOW_H):
        surface = pygame.transform.smoothscale(surface, size)
    return np.ascontiguousarray(pygame.surfarray.pixels3d(surface).transpose(1, 0, 2))


def squares() -> np.ndarray:
    """The light squares of the grass, float64 (400, 4, 2), in Gymnasium's order."""
    grid = [(GRASS_DIM * x, GRASS_DIM * y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)]
    corners = np.array(((GRASS_DIM, 0), (0, 0), (0, GRASS_DIM), (GRASS_DIM, GRASS_DIM)))
    return np.array(grid)[:, None] + corners


def draw_ground(surface, camera: Camera, tracks: Tracks, lane: int) -> None:
    """Playfield, grass, road and borders."""
    field = PLAYFIELD * np.array(((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0)))
    fill(surface, camera(field), tracks.bg_color[lane])
    grass = camera(squares())
    for index in np.flatnonzero(in_reach(grass)):
        fill(surface, grass[index], tracks.grass_color[lane])
    count, borders = tracks.count[lane], tracks.borders[lane]
    road, border = camera(tracks.road[lane, :count]), camera(tracks.border[lane, :borders])
    border_of = {int(tile): index for index, tile in enumerate(tracks.border_tile[lane, :borders])}
    for tile in np.flatnonzero(in_reach(road)).tolist():
        shade = 0.0 if tracks.plain[lane, tile] else 0.01 * (tile % 3) * 255
        fill(surface, road[tile], tracks.road_color[lane] + shade)
        if tile in border_of:
            fill(surface, border[border_of[tile]], (255, 255, 255) if tile % 2 == 0 else (255, 0, 0))


def in_reach(quads: np.ndarray) -> np.ndarray:
    """Which of float64 (K,4,2) have a corner in the window or its margin: bool (K,)."""
    inside = (quads >= -MARGIN) & (quads <= (WINDOW_W + MARGIN, WINDOW_H + MARGIN))
    return np.asarray(inside.all(axis=-1).any(axis=-1))


def fill(surface, corners: np.ndarray, color) -> None:
    """Gymnasium's `_draw_colored_polygon`."""
    from pygame import gfxdraw

    points, color = corners.tolist(), [int(channel) for channel in color]
    gfxdraw.aapolygon(surface, points, color)
    gfxdraw.filled_polygon(surface, points, color)


def draw_skids(surface, camera: Camera, cars: Cars, lane: int) -> None:
    """The youngest 30 skid marks, oldest first."""
    import pygame

    total = int(cars.skid_total[lane])
    for particle in range(max(0, total - SKID_PARTICLES), total):
        slot = particle % SKID_PARTICLES
        points = camera(cars.skid_point[lane, slot, : cars.skid_length[lane, slot]])
        color = MUD_COLOR if cars.skid_grass[lane, slot] else WHEEL_COLOR
        pygame.draw.lines(surface, color=color, points=points.tolist(), width=2, closed=False)


def draw_bodies(surface, camera: Camera, cars: Cars, lane: int) -> None:
    """The wheels with their white marks, then the hull."""
    import pygame

    for wheel in range(4):
        pygame.draw.polygon(surface, WHEEL_COLOR, body(camera, cars, lane, 1 + wheel, WHEEL_CORNERS))
        shows, c1, c2 = mark_heights(cars.phase[lane, wheel])
        if shows:
            mark = WHEEL_CORNERS[[3, 0, 1, 2]]
            mark[:, 1] = np.array((c1, c1, c2, c2)) * WHEEL_R * SIZE
            pygame.draw.polygon(surface, WHEEL_WHITE, body(camera, cars, lane, 1 + wheel, mark))
    for start, end in zip(HULL_STARTS[:-1], HULL_STARTS[1:], strict=True):
        pygame.draw.polygon(surface, HULL_COLOR, body(camera, cars, lane, 0, HULL_CORNERS[start:end]))


def body(camera: Camera, cars: Cars, lane: int, index: int, corners: np.ndarray) -> list[list[float]]:
    """Corners of a body, float32 (K,2), by Box2D's float32 transform into the window."""
    sin, cos = cars.transform_sc[lane, index]
    x, y = corners.T
    world = np.stack((cos * x - sin * y, sin * x + cos * y), axis=1) + cars.position[lane, index]
    return camera(world).tolist()


def draw_bar(surface, cars: Cars, lane: int) -> None:
    """Gymnasium's `_render_indicators`, and the score."""
    import pygame

    s, h = WINDOW_W / 40.0, WINDOW_H / 40.0

    def rectangle(color, value, left, right, top, bottom) -> None:
        if abs(value) > 1e-4:
            pygame.draw.polygon(surface, color, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def upright(color, place, value, height) -> None:
        rectangle(color, value, place * s, (place + 1) * s, WINDOW_H - (h + h * height), WINDOW_H - h)

    def sideways(color, place, value, width) -> None:
        rectangle(color, value, place * s, (place + width) * s, WINDOW_H - 4 * h, WINDOW_H - 2 * h)

    rectangle((0, 0, 0), 1.0, 0, WINDOW_W, WINDOW_H - 5 * h, WINDOW_H)
    speed = float(np.sqrt(np.square(cars.velocity[lane, 0].astype(np.float64)).sum()))
    upright((255, 255, 255), 5, speed, 0.02 * speed)
    for wheel, color in enumerate(((0, 0, 255), (0, 0, 255), (51, 0, 255), (51, 0, 255))):
        omega = float(cars.omega[lane, wheel])
        upright(color, 7 + wheel, omega, 0.01 * omega)
    joint_angle, spin = float(cars.joint_angle[lane, 0]), float(cars.spin[lane, 0])
    sideways((0, 255, 0), 20, joint_angle, -10.0 * joint_angle)
    sideways((255, 0, 0), 30, spin, -0.8 * spin)

    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    text = font.render(f"{cars.reward[lane]:04.0f}", True, (255, 255, 255), (0, 0, 0))
    place = text.get_rect()
    place.center = (60, WINDOW_H - WINDOW_H * 2.5 / 40.0)
    surface.blit(text, place)
