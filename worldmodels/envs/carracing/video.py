"""Pictures to look at: what Gymnasium's `render()` shows, 600x400 or the whole 1000x800 window, with skid marks.

They are the window of an exact frame with skid marks and score, a few milliseconds each; the frames that agents see
come from `render.py`.
"""

from types import ModuleType

import numpy as np

from worldmodels.envs.carracing.camera import to_window
from worldmodels.envs.carracing.exact import paint_bars, paint_car, paint_ground
from worldmodels.envs.carracing.hud import BARS, list_bars, paint_score
from worldmodels.envs.carracing.render import make_tables
from worldmodels.envs.carracing.state import (
    FPS,
    MAX_TILES,
    SKID_PARTICLES,
    STATE_W,
    WHEEL_COLOR,
    WINDOW_H,
    WINDOW_W,
    Cars,
    Tracks,
    zeros,
)
from worldmodels.envs.carracing.window import BAR_TOP, Canvas
from worldmodels.errors import missing

VIDEO_W = 600  # pixels of a video frame
VIDEO_H = 400
MUD_COLOR = (102, 102, 0)


def import_pygame() -> ModuleType:
    """pygame, slow to import and wanted for people only; UserError where it is not installed."""
    try:
        import pygame
    except ImportError as error:
        raise missing("pygame, which draws CarRacing for people,", "box2d") from error
    return pygame


def draw_video(tracks: Tracks, cars: Cars, lane: int, size: tuple[int, int] = (VIDEO_W, VIDEO_H)) -> np.ndarray:
    """One lane as uint8 (height, width, 3); size: (width, height), smoothly scaled from 1000x800."""
    if not np.isfinite([*cars.position[lane, 0], cars.angle[lane, 0]]).all():  # nothing to be seen from nowhere
        return np.zeros((*size[::-1], 3), np.uint8)
    pygame, canvas, near = import_pygame(), zeros(Canvas), np.zeros(MAX_TILES, np.bool_)
    mark, bars = np.zeros((4, 2), np.float32), np.zeros((BARS, 5), np.int64)
    camera = paint_ground(canvas, tracks, cars, lane, near)
    draw_skids(canvas.window, camera, cars, lane)
    paint_car(canvas, cars.transform_sc[lane], cars.position[lane], cars.phase[lane], camera, mark)
    joint_angle, spin = float(cars.joint_angle[lane, 0]), float(cars.spin[lane, 0])
    count = list_bars(bars, cars.velocity[lane, 0], cars.omega[lane], joint_angle, spin)
    paint_bars(canvas, bars[:count])
    paint_score(cars.reward[lane], make_tables(STATE_W).hud, canvas.window)
    surface = surface_of(canvas.window)
    if size != (WINDOW_W, WINDOW_H):
        surface = pygame.transform.smoothscale(surface, size)
    return np.ascontiguousarray(pygame.surfarray.pixels3d(surface).transpose(1, 0, 2))


def surface_of(window: np.ndarray):
    """A window, uint32 (800,1000) of 0x00RRGGBB, as pygame's surface."""
    pygame = import_pygame()
    surface = pygame.Surface((WINDOW_W, WINDOW_H), depth=32)
    pygame.surfarray.pixels2d(surface)[:] = window.T
    return surface


def draw_skids(window: np.ndarray, camera, cars: Cars, lane: int) -> None:
    """The youngest 30 skid marks, oldest first, onto the ground."""
    pygame, surface, total = import_pygame(), surface_of(window[::-1]), int(cars.skid_total[lane])
    for particle in range(max(0, total - SKID_PARTICLES), total):
        slot = particle % SKID_PARTICLES
        points = cars.skid_point[lane, slot, : cars.skid_length[lane, slot]].tolist()
        color = MUD_COLOR if cars.skid_grass[lane, slot] else WHEEL_COLOR
        pygame.draw.lines(surface, color, False, [to_window(x, y, camera) for x, y in points], width=2)
    window[:BAR_TOP] = pygame.surfarray.pixels2d(surface).T[::-1][:BAR_TOP]


class Window:
    """The window of render mode "human": pygame's, 1000×800, 50 frames a second, as Gymnasium opens it."""

    def __init__(self) -> None:
        self.pygame = pygame = import_pygame()
        pygame.display.init()
        self.screen = pygame.display.set_mode((WINDOW_W, WINDOW_H))
        self.clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> None:
        """Show uint8 (800,1000,3) and wait for the frame's turn."""
        self.pygame.event.pump()
        self.clock.tick(FPS)
        self.pygame.surfarray.blit_array(self.screen, picture.transpose(1, 0, 2))
        self.pygame.display.flip()

    def close(self) -> None:
        """Close the window."""
        self.pygame.display.quit()
        self.pygame.quit()
