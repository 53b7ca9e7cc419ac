"""The whole state of N CarRacing lanes as flat arrays, and the constants that track, physics and renderer share.

Legend: N lanes (environments), M = MAX_TILES, 4 wheels in Gymnasium's order (front left, front right, rear left, rear
right), 5 bodies (0 the hull, 1..4 the wheels). Lengths are in world units, angles in radians, times in seconds.

What Box2D holds in single precision is float32 here; what Gymnasium holds in Python floats is float64.
"""

from typing import NamedTuple

import numpy as np

MAX_TILES = 512
"""Room for tiles a track; 218 to 389 were seen over 8,000 seeds."""

# Gymnasium 1.4.0, car_racing.py
STATE_W = 96  # pixels of an observation
STATE_H = 96
VIDEO_W = 600  # pixels of a video frame
VIDEO_H = 400
WINDOW_W = 1000  # pixels of the window that is drawn and then scaled down
WINDOW_H = 800
SCALE = 6.0
TRACK_RAD = 900 / SCALE  # the track is a morphed circle of this radius
PLAYFIELD = 2000 / SCALE  # |x| or |y| beyond this ends the episode
FPS = 50  # steps a second
ZOOM = 2.7
TRACK_DETAIL_STEP = 21 / SCALE  # length of a tile along the centreline
TRACK_TURN_RATE = 0.31  # radians a tile at most
TRACK_WIDTH = 40 / SCALE  # half the width of the road
BORDER = 8 / SCALE  # width of the red and white border
BORDER_MIN_COUNT = 4  # tiles of steady turning before a border appears
GRASS_DIM = PLAYFIELD / 20.0
ROAD_COLOR = (102.0, 102.0, 102.0)
BG_COLOR = (102.0, 204.0, 102.0)
GRASS_COLOR = (102.0, 230.0, 102.0)

# Gymnasium 1.4.0, car_dynamics.py
SIZE = 0.02  # world units a unit of the drawings below
ENGINE_POWER = 100000000 * SIZE * SIZE
WHEEL_MOMENT_OF_INERTIA = 4000 * SIZE * SIZE
FRICTION_LIMIT = 1000000 * SIZE * SIZE
WHEEL_R = 27
WHEEL_W = 14
WHEELPOS = ((-55, +80), (+55, +80), (-55, -82), (+55, -82))
HULL_POLY1 = ((-60, +130), (+60, +130), (+60, +110), (-60, +110))
HULL_POLY2 = ((-15, +120), (+15, +120), (+20, +20), (-20, 20))
HULL_POLY3 = ((+25, +20), (+50, -10), (+50, -40), (+20, -90), (-20, -90), (-50, -40), (-50, -10), (-25, +20))
HULL_POLY4 = ((-50, -120), (+50, -120), (+50, -90), (-50, -90))
WHEEL_COLOR = (0, 0, 0)
WHEEL_WHITE = (77, 77, 77)
MUD_COLOR = (102, 102, 0)

HULL_COLOR = (204, 0, 0)  # (0.8, 0, 0)

SKID_PARTICLES = 30  # Gymnasium's deque(maxlen=30) of skid marks
SKID_POINTS = 30  # a mark takes points until it has this many


class Rules(NamedTuple):
    """When a lap is over."""

    lap_complete_percent: float = 0.95
    crossing: bool = False  # tile 0 ends a lap whenever a wheel comes onto it, not only when it is new


class Tracks(NamedTuple):
    """One track a lane; `track.generate` fills a lane, contacts change `plain` and `visited`."""

    count: np.ndarray  # type: ignore[assignment]  # int32 (N,) tiles of the lane's track (hides tuple.count)
    centre: np.ndarray  # float64 (N,M,4) Gymnasium's env.track rows: alpha, beta, x, y
    road: np.ndarray  # float64 (N,M,4,2) corners road1_l, road1_r, road2_r, road2_l
    borders: np.ndarray  # int32 (N,) border quads
    border: np.ndarray  # float64 (N,M,4,2) corners b1_l, b1_r, b2_r, b2_l
    border_tile: np.ndarray  # int32 (N,M) tile a border belongs to: white if even, red if odd; drawn after that tile
    plain: np.ndarray  # bool (N,M) a contact has reset the tile's colour to road_color (before: + 0.01*(i%3)*255)
    visited: np.ndarray  # bool (N,M) a wheel has touched the tile
    road_color: np.ndarray  # float64 (N,3) 0..255
    bg_color: np.ndarray  # float64 (N,3) 0..255
    grass_color: np.ndarray  # float64 (N,3) 0..255
    polygon: np.ndarray  # float32 (N,M,4,2) the quad as b2PolygonShape holds it: convex hull, counter-clockwise
    corners: np.ndarray  # int32 (N,M) vertices of that polygon, 3 or 4
    box: np.ndarray  # float32 (N,M,4) its bounds: lower x, lower y, upper x, upper y


class Cars(NamedTuple):
    """One car a lane; `physics.place` sets a lane up, `physics.move` moves it."""

    position: np.ndarray  # float32 (N,5,2) body origins (b2Transform.p)
    angle: np.ndarray  # float32 (N,5) body angles
    transform_sc: np.ndarray  # float32 (N,5,2) sine, cosine of b2Transform.q
    velocity: np.ndarray  # float32 (N,5,2) of the centres of mass, units/s
    spin: np.ndarray  # float32 (N,5) angular velocity, rad/s
    mass_centre: np.ndarray  # float32 (N,5,2) centres of mass in the world (b2Sweep.c)
    impulse: np.ndarray  # float32 (N,4,4) joint impulses x, y, limit, motor (kept to start the next step warm)
    limit: np.ndarray  # int8 (N,4) joint limit state: -1 at lower, 0 inactive, 1 at upper
    sleep_time: np.ndarray  # float32 (N,5) seconds below Box2D's sleep tolerances
    omega: np.ndarray  # float64 (N,4) rolling speed, rad/s
    phase: np.ndarray  # float64 (N,4) rolling angle
    gas: np.ndarray  # float64 (N,4) 0..1
    brake: np.ndarray  # float64 (N,4) 0..1, from 0.9 on the wheel locks
    steer: np.ndarray  # float64 (N,4) wanted joint angle
    joint_angle: np.ndarray  # float32 (N,4) what w.joint.angle would answer now
    on_road: np.ndarray  # bool (N,4) whether a wheel touches any tile (Gymnasium's w.tiles is not empty)
    on_start: np.ndarray  # bool (N,4) whether a wheel touches tile 0 (kept up to date for the lap rule "crossing" only)
    near: np.ndarray  # int32 (N,M) tiles within reach of the car around near_centre (exact superset for contacts)
    near_count: np.ndarray  # int32 (N,) how many of them; -1: to be gathered again
    near_centre: np.ndarray  # float32 (N,2) where the car was when they were gathered
    time: np.ndarray  # float64 (N,) Gymnasium's env.t
    reward: np.ndarray  # float64 (N,) Gymnasium's env.reward: the sum that the frame shows
    prev_reward: np.ndarray  # float64 (N,) the sum one step before
    visited_count: np.ndarray  # int32 (N,) tiles visited
    new_lap: np.ndarray  # bool (N,) tile 0 was reached with enough of the track covered
    steps: np.ndarray  # int32 (N,) steps with an action since the reset
    # Skid marks. Particle number p lies in slot p % 30; the slots hold the youngest 30, oldest first from
    # max(0, skid_total - 30).
    skid_point: np.ndarray  # float32 (N,30,30,2)
    skid_length: np.ndarray  # int32 (N,30) points of each polyline
    skid_grass: np.ndarray  # bool (N,30) MUD_COLOR instead of WHEEL_COLOR
    skid_total: np.ndarray  # int32 (N,) particles made since the reset
    wheel_skid: np.ndarray  # int32 (N,4) number of the particle a wheel is drawing, -1 none
    wheel_skid_length: np.ndarray  # int32 (N,4) its points (the particle may have left the slots already)
    wheel_skid_grass: np.ndarray  # bool (N,4)
    skid_started: np.ndarray  # bool (N,4) Gymnasium's w.skid_start is set (a live view of the wheel's position)


def allocate(num_envs: int) -> tuple[Tracks, Cars]:
    """Zeroed, C-contiguous arrays for `num_envs` lanes, in Gymnasium's default colours."""
    n, m = num_envs, MAX_TILES
    f32, f64, i32 = np.float32, np.float64, np.int32
    tracks = Tracks(
        count=np.zeros(n, i32),
        centre=np.zeros((n, m, 4), f64),
        road=np.zeros((n, m, 4, 2), f64),
        borders=np.zeros(n, i32),
        border=np.zeros((n, m, 4, 2), f64),
        border_tile=np.zeros((n, m), i32),
        plain=np.zeros((n, m), np.bool_),
        visited=np.zeros((n, m), np.bool_),
        road_color=np.tile(np.array(ROAD_COLOR), (n, 1)),
        bg_color=np.tile(np.array(BG_COLOR), (n, 1)),
        grass_color=np.tile(np.array(GRASS_COLOR), (n, 1)),
        polygon=np.zeros((n, m, 4, 2), f32),
        corners=np.zeros((n, m), i32),
        box=np.zeros((n, m, 4), f32),
    )
    cars = Cars(
        position=np.zeros((n, 5, 2), f32),
        angle=np.zeros((n, 5), f32),
        transform_sc=np.zeros((n, 5, 2), f32),
        velocity=np.zeros((n, 5, 2), f32),
        spin=np.zeros((n, 5), f32),
        mass_centre=np.zeros((n, 5, 2), f32),
        impulse=np.zeros((n, 4, 4), f32),
        limit=np.zeros((n, 4), np.int8),
        sleep_time=np.zeros((n, 5), f32),
        omega=np.zeros((n, 4), f64),
        phase=np.zeros((n, 4), f64),
        gas=np.zeros((n, 4), f64),
        brake=np.zeros((n, 4), f64),
        steer=np.zeros((n, 4), f64),
        joint_angle=np.zeros((n, 4), f32),
        on_road=np.zeros((n, 4), np.bool_),
        on_start=np.zeros((n, 4), np.bool_),
        near=np.zeros((n, m), i32),
        near_count=np.full(n, -1, i32),
        near_centre=np.zeros((n, 2), f32),
        time=np.zeros(n, f64),
        reward=np.zeros(n, f64),
        prev_reward=np.zeros(n, f64),
        visited_count=np.zeros(n, i32),
        new_lap=np.zeros(n, np.bool_),
        steps=np.zeros(n, i32),
        skid_point=np.zeros((n, SKID_PARTICLES, SKID_POINTS, 2), f32),
        skid_length=np.zeros((n, SKID_PARTICLES), i32),
        skid_grass=np.zeros((n, SKID_PARTICLES), np.bool_),
        skid_total=np.zeros(n, i32),
        wheel_skid=np.full((n, 4), -1, i32),
        wheel_skid_length=np.zeros((n, 4), i32),
        wheel_skid_grass=np.zeros((n, 4), np.bool_),
        skid_started=np.zeros((n, 4), np.bool_),
    )
    return tracks, cars
