"""From the world to Gymnasium's window before its flip: the hull stands upright at (500, 200), y upwards.

Legend: view: the hull's x, y, cos and sin of its turn, zoom; camera: as `camera_of` makes it of a view; K corners.
"""

import math

from numba import njit

from worldmodels.envs.carracing.state import SCALE, WINDOW_H, WINDOW_W, ZOOM

CAR_X = WINDOW_W / 2  # where the hull's origin stands in the window
CAR_Y = WINDOW_H / 4
QUARTER_TURN = math.pi / 2
Five = tuple[float, float, float, float, float]
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
def camera_of(view: Five) -> Five:
    """The camera of a view: cos, sin, zoom, and the window's coordinates of the world's origin."""
    x, y, cos, sin, zoom = view
    scroll_x, scroll_y = -x * zoom, -y * zoom
    return cos, sin, zoom, CAR_X + (cos * scroll_x - sin * scroll_y), CAR_Y + (sin * scroll_x + cos * scroll_y)


@njit(cache=True, error_model="numpy")
def to_window(x: float, y: float, camera: Five) -> tuple[int, int]:
    """A point of the world in the window, truncated as pygame truncates it."""
    cos, sin, zoom, shift_x, shift_y = camera
    return int((cos * x - sin * y) * zoom + shift_x), int((sin * x + cos * y) * zoom + shift_y)


@njit(cache=True, error_model="numpy")
def body_to_window(corners, transform_sc, position, camera, out) -> None:
    """Corners of a body, float32 (K,2), by Box2D's float32 transform into the window.

    transform_sc, position: float32 (2,); out: int64 (K or more,2).
    """
    sin, cos = transform_sc[0], transform_sc[1]
    for index in range(len(corners)):
        u, v = corners[index, 0], corners[index, 1]
        x, y = (cos * u - sin * v) + position[0], (sin * u + cos * v) + position[1]
        out[index, 0], out[index, 1] = to_window(float(x), float(y), camera)
