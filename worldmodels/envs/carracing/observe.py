"""Observations without a picture: the state of car and track ahead as a vector.

The vector is float32 (STATE_SIZE,); `STATE` names its parts. Units: world units (a tile is 3.5 long, the road 13.3
wide), radians, seconds. Directions of the car: forward along the hull, left of it.
"""

import math

import numpy as np
from numba import njit

AHEAD_POINTS = 10
AHEAD_TILES = 3  # from one point of the track to the next
STATE = {
    "position": slice(0, 2),  # of the hull in the world: x, y
    "angle": slice(2, 3),  # of the hull: 0 points along y, positive to the left
    "velocity": slice(3, 5),  # of the hull: forward, left
    "spin": slice(5, 6),  # of the hull, rad/s, positive to the left
    "omega": slice(6, 10),  # rolling speed of the wheels, rad/s: front left, front right, rear left, rear right
    "steering": slice(10, 14),  # angle of the wheels against the hull
    "on_road": slice(14, 18),  # 1 where a wheel touches a tile, else 0
    "progress": slice(18, 19),  # visited tiles as a share of all
    "ahead": slice(19, 19 + 2 * AHEAD_POINTS),  # points of the centreline, the nearest tile's first: forward, left
}
STATE_SIZE = STATE["ahead"].stop


@njit(cache=True)
def write_state(tracks, cars, lane: int, out: np.ndarray) -> None:
    """The state vector of a lane into out, float32 (STATE_SIZE,)."""
    x, y = float(cars.position[lane, 0, 0]), float(cars.position[lane, 0, 1])
    angle = float(cars.angle[lane, 0])
    cos, sin = math.cos(angle), math.sin(angle)
    vx, vy = float(cars.velocity[lane, 0, 0]), float(cars.velocity[lane, 0, 1])
    out[0], out[1], out[2] = x, y, angle
    out[3], out[4] = cos * vy - sin * vx, -(cos * vx + sin * vy)
    out[5] = cars.spin[lane, 0]
    for wheel in range(4):
        out[6 + wheel] = cars.omega[lane, wheel]
        out[10 + wheel] = cars.joint_angle[lane, wheel]
        out[14 + wheel] = 1.0 if cars.on_road[lane, wheel] else 0.0
    count = tracks.count[lane]
    out[18] = cars.visited_count[lane] / count
    nearest, least = 0, np.inf
    for tile in range(count):
        dx, dy = tracks.centre[lane, tile, 2] - x, tracks.centre[lane, tile, 3] - y
        if dx * dx + dy * dy < least:
            nearest, least = tile, dx * dx + dy * dy
    for point in range(AHEAD_POINTS):
        tile = (nearest + AHEAD_TILES * point) % count
        dx, dy = tracks.centre[lane, tile, 2] - x, tracks.centre[lane, tile, 3] - y
        out[19 + 2 * point] = cos * dy - sin * dx
        out[20 + 2 * point] = -(cos * dx + sin * dy)
