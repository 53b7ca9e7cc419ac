"""Random tracks, bit-equal to those of Gymnasium 1.4.0 `CarRacing-v3` and drawn from the same random numbers.

A track is a closed chain of quads ("tiles"). Gymnasium steers a point past 12 random checkpoints for about five laps
and keeps the second-last lap; where head and tail do not meet it starts over with new checkpoints. Every attempt takes
exactly 24 uniform numbers. All of it is float64 in Gymnasium's order of operations; Box2D sees the quads as float32
convex hulls (`b2PolygonShape::Set`).

Legend: M = MAX_TILES, T tiles of this track, P points of the centreline.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.shapes import POLYGON_RADIUS, convex_hull
from worldmodels.envs.carracing.state import MAX_TILES, SCALE, Tracks

# Gymnasium 1.4.0, car_racing.py
TRACK_RAD = 900 / SCALE  # the track is a morphed circle of this radius
TRACK_DETAIL_STEP = 21 / SCALE  # length of a tile along the centreline
TRACK_TURN_RATE = 0.31  # radians a tile at most
TRACK_WIDTH = 40 / SCALE  # half the width of the road
BORDER = 8 / SCALE  # width of the red and white border
BORDER_MIN_COUNT = 4  # tiles of steady turning before a border appears

CHECKPOINTS = 12
START_ALPHA = 2 * math.pi * (-0.5) / CHECKPOINTS  # a lap begins where the centreline crosses this angle
MAX_POINTS = 2500  # Gymnasium's no_freeze: the centreline ends after so many points
MAX_LAPS = 4  # ... or in the fifth lap
FAILED = 0  # head and tail do not meet: another attempt
TOO_LONG = -1  # more tiles than MAX_TILES


def generate(generator: np.random.Generator, tracks: Tracks, lane: int) -> int:
    """Fill one lane with the next track of `generator` and return its number of tiles.

    Consumes what Gymnasium's `reset` consumes (24 numbers an attempt, 1.07 attempts on average) and so leaves the
    generator in the same state. Colours are not touched. Raises RuntimeError if a track has more than MAX_TILES tiles.
    """
    count = FAILED
    while count == FAILED:
        count = _attempt(generator.random(2 * CHECKPOINTS), tracks, lane)
    if count == TOO_LONG:
        raise RuntimeError(f"a track has more than {MAX_TILES} tiles: raise MAX_TILES in state.py")
    return count


@njit(cache=True)
def _attempt(numbers, tracks, lane):
    """One pass of Gymnasium's `_create_track`: numbers float64 (24,) in [0, 1); tiles, FAILED or TOO_LONG."""
    points = np.empty((MAX_POINTS, 4))  # (P,4) alpha, beta, x, y
    first, last = _second_last_lap(points, _centreline(_checkpoints(numbers), points))
    if last == 0:
        return FAILED
    count = last - first
    if count > MAX_TILES:
        return TOO_LONG
    centre = tracks.centre[lane, :count]  # so that index -1 is the last tile
    centre[:] = points[first:last]
    if _gap(centre) > TRACK_DETAIL_STEP:
        return FAILED
    tracks.count[lane] = count
    tracks.plain[lane] = False
    tracks.visited[lane] = False
    _lay_tiles(centre, tracks.road[lane], tracks.polygon[lane], tracks.corners[lane], tracks.box[lane])
    tracks.borders[lane] = _lay_borders(centre, tracks.border[lane], tracks.border_tile[lane])
    return count


@njit(cache=True)
def _checkpoints(numbers):
    """Twelve angles around the origin at random radii, the first and last of them fixed: float64 (12,3) alpha, x, y."""
    checkpoints = np.empty((CHECKPOINTS, 3))
    for c in range(CHECKPOINTS):
        noise = (2 * math.pi * 1 / CHECKPOINTS) * numbers[2 * c]  # Generator.uniform(0, high)
        alpha = 2 * math.pi * c / CHECKPOINTS + noise
        rad = TRACK_RAD / 3 + (TRACK_RAD - TRACK_RAD / 3) * numbers[2 * c + 1]  # Generator.uniform(low, high)
        if c == 0:
            alpha = 0.0
            rad = 1.5 * TRACK_RAD
        if c == CHECKPOINTS - 1:
            alpha = 2 * math.pi * c / CHECKPOINTS
            rad = 1.5 * TRACK_RAD
        checkpoints[c, 0] = alpha
        checkpoints[c, 1] = rad * math.cos(alpha)
        checkpoints[c, 2] = rad * math.sin(alpha)
    return checkpoints


@njit(cache=True)
def _centreline(checkpoints, points):
    """Steer from checkpoint to checkpoint, filling points (P,4); the number of points."""
    x, y, beta = 1.5 * TRACK_RAD, 0.0, 0.0
    target = 0
    laps = 0
    visited_other_side = False
    for n in range(MAX_POINTS):
        alpha = math.atan2(y, x)
        if visited_other_side and alpha > 0:
            laps += 1
            visited_other_side = False
        if alpha < 0:
            visited_other_side = True
            alpha += 2 * math.pi

        while alpha > checkpoints[target % CHECKPOINTS, 0]:  # the next checkpoint ahead; past the last one, unwind
            target += 1
            if target % CHECKPOINTS == 0:
                alpha -= 2 * math.pi

        r1x = math.cos(beta)
        r1y = math.sin(beta)
        dest_dx = checkpoints[target % CHECKPOINTS, 1] - x
        dest_dy = checkpoints[target % CHECKPOINTS, 2] - y
        proj = r1x * dest_dx + r1y * dest_dy  # how far the checkpoint lies to the side
        while beta - alpha > 1.5 * math.pi:
            beta -= 2 * math.pi
        while beta - alpha < -1.5 * math.pi:
            beta += 2 * math.pi
        prev_beta = beta
        proj *= SCALE
        if proj > 0.3:
            beta -= min(TRACK_TURN_RATE, abs(0.001 * proj))
        if proj < -0.3:
            beta += min(TRACK_TURN_RATE, abs(0.001 * proj))
        x += -r1y * TRACK_DETAIL_STEP
        y += r1x * TRACK_DETAIL_STEP
        points[n, 0] = alpha
        points[n, 1] = prev_beta * 0.5 + beta * 0.5
        points[n, 2] = x
        points[n, 3] = y
        if laps > MAX_LAPS:
            return n + 1
    return MAX_POINTS


@njit(cache=True)
def _second_last_lap(points, n):
    """The half-open range of points between the last two crossings of START_ALPHA; (0, 0) if there are not two."""
    last = 0
    for i in range(n - 1, 0, -1):
        if points[i, 0] > START_ALPHA and points[i - 1, 0] <= START_ALPHA:
            if last == 0:
                last = i
            else:
                return i, last - 1  # Gymnasium leaves out the last point
    return 0, 0


@njit(cache=True)
def _gap(centre):
    """Distance of head and tail, each axis weighted with the heading of the head."""
    perp_x = math.cos(centre[0, 1])
    perp_y = math.sin(centre[0, 1])
    dx = perp_x * (centre[0, 2] - centre[-1, 2])
    dy = perp_y * (centre[0, 3] - centre[-1, 3])
    return math.sqrt(dx * dx + dy * dy)


@njit(cache=True)
def _lay_tiles(centre, road, polygon, corners, box):
    """Tile i spans centreline points i and i - 1: its quad (Gymnasium's corners), its Box2D polygon and bounds."""
    for i in range(len(centre)):
        for end in range(2):
            beta, x, y = centre[i - end, 1], centre[i - end, 2], centre[i - end, 3]
            dx, dy = TRACK_WIDTH * math.cos(beta), TRACK_WIDTH * math.sin(beta)
            left, right = (0, 1) if end == 0 else (3, 2)
            road[i, left, 0], road[i, left, 1] = x - dx, y - dy
            road[i, right, 0], road[i, right, 1] = x + dx, y + dy
        corners[i] = convex_hull(road[i], polygon[i])
        _bounds(polygon[i], corners[i], box[i])


@njit(cache=True)
def _lay_borders(centre, border, border_tile):
    """Red and white quads outside hard turns; their number."""
    count = len(centre)
    hard = np.zeros(count, np.bool_)
    for i in range(count):
        good = True
        oneside = 0.0
        for neg in range(BORDER_MIN_COUNT):
            turn = centre[i - neg, 1] - centre[i - neg - 1, 1]
            good &= abs(turn) > TRACK_TURN_RATE * 0.2
            oneside += np.sign(turn)
        hard[i] = good and abs(oneside) == BORDER_MIN_COUNT
    for i in range(count):
        for neg in range(BORDER_MIN_COUNT):
            hard[i - neg] |= hard[i]

    borders = 0
    for i in range(count):
        if not hard[i]:
            continue
        side = np.sign(centre[i - 1, 1] - centre[i, 1])
        for end in range(2):
            beta, x, y = centre[i - end, 1], centre[i - end, 2], centre[i - end, 3]
            inner, outer = (0, 1) if end == 0 else (3, 2)
            border[borders, inner, 0] = x + side * TRACK_WIDTH * math.cos(beta)
            border[borders, inner, 1] = y + side * TRACK_WIDTH * math.sin(beta)
            border[borders, outer, 0] = x + side * (TRACK_WIDTH + BORDER) * math.cos(beta)
            border[borders, outer, 1] = y + side * (TRACK_WIDTH + BORDER) * math.sin(beta)
        border_tile[borders] = i
        borders += 1
    return borders


@njit(cache=True)
def _bounds(polygon, corners, box):
    """Bounds of a polygon with its skin: box float32 (4,) lower x, lower y, upper x, upper y."""
    box[0], box[1] = polygon[0, 0], polygon[0, 1]
    box[2], box[3] = polygon[0, 0], polygon[0, 1]
    for i in range(1, corners):
        box[0], box[1] = min(box[0], polygon[i, 0]), min(box[1], polygon[i, 1])
        box[2], box[3] = max(box[2], polygon[i, 0]), max(box[3], polygon[i, 1])
    box[0] -= POLYGON_RADIUS
    box[1] -= POLYGON_RADIUS
    box[2] += POLYGON_RADIUS
    box[3] += POLYGON_RADIUS
