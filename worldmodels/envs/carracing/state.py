"""The whole state of N CarRacing lanes as flat arrays, and the constants that track, physics and renderer share.

Legend: N lanes (environments), M = MAX_TILES, 4 wheels in Gymnasium's order (front left, front right, rear left, rear
right), 5 bodies (0 the hull, 1..4 the wheels). Lengths are in world units, angles in radians, times in seconds. Arrays
have the types and, behind N, the shapes of their annotations: road is float64 (N,M,4,2).

What Box2D holds in single precision is float32 here; what Gymnasium holds in Python floats is float64.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeVar, get_origin, get_type_hints

import numpy as np

M = MAX_TILES = 512
"""Room for tiles a track; 218 to 389 were seen over 8,000 seeds."""

# Gymnasium 1.4.0, car_racing.py
STATE_W = 96  # pixels of an observation
STATE_H = 96
WINDOW_W = 1000  # pixels of the window that is drawn and then scaled down
WINDOW_H = 800
SCALE = 6.0
PLAYFIELD = 2000 / SCALE  # |x| or |y| beyond this ends the episode
FPS = 50  # steps a second
ZOOM = 2.7
GRASS_DIM = PLAYFIELD / 20.0
ROAD_COLOR = (102.0, 102.0, 102.0)
BG_COLOR = (102.0, 204.0, 102.0)
GRASS_COLOR = (102.0, 230.0, 102.0)

# Gymnasium 1.4.0, car_dynamics.py
SIZE = 0.02  # world units a unit of the drawings below
WHEEL_R = 27
WHEELPOS = ((-55, +80), (+55, +80), (-55, -82), (+55, -82))
WHEEL_COLOR = (0, 0, 0)
WHEEL_WHITE = (77, 77, 77)
HULL_COLOR = (204, 0, 0)  # (0.8, 0, 0)

SKID_PARTICLES = 30  # Gymnasium's deque(maxlen=30) of skid marks
SKID_POINTS = 30  # a mark takes points until it has this many


class Rules(NamedTuple):
    """When a lap is over."""

    lap_complete_percent: float = 0.95
    crossing: bool = False  # tile 0 ends a lap whenever a wheel comes onto it, not only when it is new


class Tracks(NamedTuple):
    """One track a lane; `track.generate` fills a lane, contacts change `plain` and `visited`."""

    count: Annotated[np.ndarray, "int32", ()]  # type: ignore[assignment]  # tiles of the lane's track (hides tuple.count)
    centre: Annotated[np.ndarray, "float64", (M, 4)]  # Gymnasium's env.track rows: alpha, beta, x, y
    road: Annotated[np.ndarray, "float64", (M, 4, 2)]  # corners road1_l, road1_r, road2_r, road2_l
    borders: Annotated[np.ndarray, "int32", ()]  # border quads
    border: Annotated[np.ndarray, "float64", (M, 4, 2)]  # corners b1_l, b1_r, b2_r, b2_l
    border_tile: Annotated[np.ndarray, "int32", (M,)]  # the tile after which it is drawn, white if even, red if odd
    plain: Annotated[np.ndarray, "bool", (M,)]  # a contact has taken the tile's shade, 0.01*(i%3)*255, off road_color
    visited: Annotated[np.ndarray, "bool", (M,)]  # a wheel has touched the tile
    road_color: Annotated[np.ndarray, "float64", (3,)]  # 0..255
    bg_color: Annotated[np.ndarray, "float64", (3,)]  # 0..255
    grass_color: Annotated[np.ndarray, "float64", (3,)]  # 0..255
    polygon: Annotated[np.ndarray, "float32", (M, 4, 2)]  # the quad as b2PolygonShape has it: a counter-clockwise hull
    corners: Annotated[np.ndarray, "int32", (M,)]  # vertices of that polygon, 3 or 4
    box: Annotated[np.ndarray, "float32", (M, 4)]  # its bounds: lower x, lower y, upper x, upper y


class Cars(NamedTuple):
    """One car a lane; `physics.place` sets a lane up, `physics.move` moves it."""

    position: Annotated[np.ndarray, "float32", (5, 2)]  # body origins (b2Transform.p)
    angle: Annotated[np.ndarray, "float32", (5,)]  # body angles
    transform_sc: Annotated[np.ndarray, "float32", (5, 2)]  # sine, cosine of b2Transform.q
    velocity: Annotated[np.ndarray, "float32", (5, 2)]  # of the centres of mass, units/s
    spin: Annotated[np.ndarray, "float32", (5,)]  # angular velocity, rad/s
    mass_centre: Annotated[np.ndarray, "float32", (5, 2)]  # centres of mass in the world (b2Sweep.c)
    impulse: Annotated[np.ndarray, "float32", (4, 4)]  # joint impulses x, y, limit, motor (the next step starts warm)
    limit: Annotated[np.ndarray, "int8", (4,)]  # joint limit state: -1 at lower, 0 inactive, 1 at upper
    sleep_time: Annotated[np.ndarray, "float32", (5,)]  # seconds below Box2D's sleep tolerances
    omega: Annotated[np.ndarray, "float64", (4,)]  # rolling speed, rad/s
    phase: Annotated[np.ndarray, "float64", (4,)]  # rolling angle
    gas: Annotated[np.ndarray, "float64", ()]  # 0..1, of the rear wheels
    brake: Annotated[np.ndarray, "float64", ()]  # 0..1, from 0.9 on the wheels lock
    steer: Annotated[np.ndarray, "float64", ()]  # wanted joint angle of the front wheels
    joint_angle: Annotated[np.ndarray, "float32", (4,)]  # what w.joint.angle would answer now
    on_road: Annotated[np.ndarray, "bool", (4,)]  # whether a wheel touches any tile (Gymnasium's w.tiles is not empty)
    on_start: Annotated[np.ndarray, "bool", (4,)]  # whether a wheel touches tile 0 (lap rule "crossing" only)
    near: Annotated[np.ndarray, "int32", (M,)]  # tiles within reach at near_centre (exact superset for contacts)
    near_count: Annotated[np.ndarray, "int32", ()]  # how many of them; -1: to be gathered again
    near_centre: Annotated[np.ndarray, "float32", (2,)]  # where the car was when they were gathered
    time: Annotated[np.ndarray, "float64", ()]  # Gymnasium's env.t
    reward: Annotated[np.ndarray, "float64", ()]  # Gymnasium's env.reward: the sum that the frame shows
    prev_reward: Annotated[np.ndarray, "float64", ()]  # the sum one step before
    visited_count: Annotated[np.ndarray, "int32", ()]  # tiles visited
    new_lap: Annotated[np.ndarray, "bool", ()]  # tile 0 was reached with enough of the track covered
    # Skid marks. Particle number p lies in slot p % 30; the slots hold the youngest 30, oldest first from
    # max(0, skid_total - 30).
    skid_point: Annotated[np.ndarray, "float32", (SKID_PARTICLES, SKID_POINTS, 2)]
    skid_length: Annotated[np.ndarray, "int32", (SKID_PARTICLES,)]  # points of each polyline
    skid_grass: Annotated[np.ndarray, "bool", (SKID_PARTICLES,)]  # MUD_COLOR instead of WHEEL_COLOR
    skid_total: Annotated[np.ndarray, "int32", ()]  # particles made since the reset
    wheel_skid: Annotated[np.ndarray, "int32", (4,)]  # number of the particle a wheel is drawing, -1 none
    wheel_skid_length: Annotated[np.ndarray, "int32", (4,)]  # its points (the particle may have left the slots already)
    wheel_skid_grass: Annotated[np.ndarray, "bool", (4,)]
    skid_started: Annotated[np.ndarray, "bool", (4,)]  # Gymnasium's w.skid_start is set (a view of its position)


Arrays = TypeVar("Arrays")


def zeros(kind: Callable[..., Arrays], *lanes: int) -> Arrays:
    """A named tuple of zeroed, C-contiguous arrays, their types and, after `lanes`, their shapes as `kind` has them."""
    arrays = []
    for hint in get_type_hints(kind, include_extras=True).values():
        if get_origin(hint) is Annotated:
            dtype, shape = hint.__metadata__
            arrays.append(np.zeros((*lanes, *shape), dtype))
        else:  # a named tuple in it
            arrays.append(zeros(hint, *lanes))
    return kind(*arrays)


def allocate(num_envs: int) -> tuple[Tracks, Cars]:
    """Arrays for `num_envs` lanes, in Gymnasium's default colours."""
    tracks, cars = zeros(Tracks, num_envs), zeros(Cars, num_envs)
    tracks.road_color[:], tracks.bg_color[:], tracks.grass_color[:] = ROAD_COLOR, BG_COLOR, GRASS_COLOR
    cars.near_count[:] = cars.wheel_skid[:] = -1
    return tracks, cars
