"""From the world to Gymnasium's window before its flip: the hull stands upright at (500, 200), y upwards."""

import math

from numba import njit

from worldmodels.envs.carracing.state import SCALE, WINDOW_H, WINDOW_W, ZOOM

CAR_X = WINDOW_W / 2  # where the hull's origin stands in the window
CAR_Y = WINDOW_H / 4
QUARTER_TURN = math.pi / 2
EPSILON = 1e-6  # pygame.math.Vector2.epsilon: turns this near to a quarter turn are one


@njit(cache=True)
def zoom_at(time: float) -> float:
    """Window pixels per world unit: the camera zooms in during the first second."""
    return 0.1 * SCALE * max(1.0 - time, 0.0) + ZOOM * SCALE * min(time, 1.0)


@njit(cache=True, error_model="numpy")
def turn_of(angle: float) -> tuple[float, float]:
    """Cosine and sine by which pygame's `Vector2.rotate_rad(angle)` turns."""
    angle = angle % (2 * math.pi)
    if (angle + EPSILON) % QUARTER_TURN < 2 * EPSILON:
        quarter = int((angle + EPSILON) / QUARTER_TURN) % 4
        return (1.0, 0.0, -1.0, 0.0)[quarter], (0.0, 1.0, 0.0, -1.0)[quarter]
    return math.cos(angle), math.sin(angle)


@njit(cache=True, error_model="numpy")
def window_camera(x: float, y: float, angle: float, time: float) -> tuple[float, float, float, float, float]:
    """Camera on a hull at (x, y): cos, sin, zoom, and the window's coordinates of the world's origin."""
    zoom = zoom_at(time)
    cos, sin = turn_of(-angle)
    scroll_x, scroll_y = -x * zoom, -y * zoom
    return cos, sin, zoom, CAR_X + (cos * scroll_x - sin * scroll_y), CAR_Y + (sin * scroll_x + cos * scroll_y)


@njit(cache=True, error_model="numpy")
def to_window(x: float, y: float, camera: tuple[float, float, float, float, float]) -> tuple[int, int]:
    """A point of the world in the window, truncated as pygame truncates it."""
    cos, sin, zoom, shift_x, shift_y = camera
    return int((cos * x - sin * y) * zoom + shift_x), int((sin * x + cos * y) * zoom + shift_y)
