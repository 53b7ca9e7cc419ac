"""Which road tiles a wheel or the hull touches: the sensor contacts of Box2D, without its broad phase.

Two polygons touch when they are no farther apart than the sum of their skins (`b2TestOverlap`). Separating axes decide
nearly every pair; within MARGIN of the threshold Box2D's own GJK decides, with its float32 rounding.

Legend: A the tile, in world coordinates; B a polygon of the car, in its body's.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.shapes import F0, F1, HULL_POLYGONS, MAX_VERTICES, POLYGON_RADIUS, WHEEL_POLYGON, F

RADIUS_SUM = POLYGON_RADIUS + POLYGON_RADIUS
EPSILON = F(1.192092896e-07)  # FLT_EPSILON
TOUCHING = F(10.0) * EPSILON  # b2TestOverlap: distance between the skins below which polygons touch
MARGIN = F(1e-3)  # far above the rounding of separating axes (about 2e-5 at |coordinate| 250)
GJK_ITERATIONS = 20

REACH = F(4.0)  # no corner of the car is farther from its hull's origin
SLACK = F(8.0)  # the hull may move this far before the tiles within reach are gathered again

WHEEL_SHAPE = 4
SHAPES = (*HULL_POLYGONS, WHEEL_POLYGON)  # 0..3 the hull, 4 a wheel
CORNERS = np.array([len(shape) for shape in SHAPES])
POLYGONS = np.zeros((5, MAX_VERTICES, 2), F)
NORMALS = np.zeros((5, MAX_VERTICES, 2), F)  # outward, of unit length; edge i runs from corner i to i + 1
RADII = np.zeros(5, F)  # of the circle around the body's origin that holds the polygon and both skins
for _i, _shape in enumerate(SHAPES):
    _edge = np.roll(_shape, -1, axis=0) - _shape
    POLYGONS[_i, : len(_shape)] = _shape
    RADII[_i] = np.hypot(*_shape.T).max() + RADIUS_SUM + MARGIN
    NORMALS[_i, : len(_shape)] = np.stack([_edge[:, 1], -_edge[:, 0]], 1) / np.hypot(*_edge.T)[:, None]


@njit(cache=True, forceinline=True)
def gather(tracks, cars, lane):
    """Keep `near` a superset of the tiles that the car of a lane can touch."""
    x, y = cars.position[lane, 0, 0], cars.position[lane, 0, 1]
    if cars.near_count[lane] >= 0:
        dx, dy = x - cars.near_centre[lane, 0], y - cars.near_centre[lane, 1]
        if dx * dx + dy * dy <= SLACK * SLACK:
            return
    far = REACH + SLACK
    box = tracks.box[lane]
    n = 0
    for tile in range(tracks.count[lane]):
        if box[tile, 0] - far <= x <= box[tile, 2] + far and box[tile, 1] - far <= y <= box[tile, 3] + far:
            cars.near[lane, n] = tile
            n += 1
    cars.near_count[lane] = n
    cars.near_centre[lane, 0], cars.near_centre[lane, 1] = x, y


@njit(cache=True)
def touches(polygon, corners, box, tile, px, py, sine, cosine, shape, corner):
    """Whether a polygon of the car touches a tile.

    polygon float32 (M,4,2), corners int32 (M,) and box float32 (M,4) of the lane's track; the body's origin, sine and
    cosine; shape 0..4 its polygon; corner float32 (4,2) scratch.
    """
    radius = RADII[shape]
    if px + radius < box[tile, 0] or px - radius > box[tile, 2]:
        return False
    if py + radius < box[tile, 1] or py - radius > box[tile, 3]:
        return False
    for i in range(corners[tile]):  # the tile in the body's coordinates
        dx, dy = polygon[tile, i, 0] - px, polygon[tile, i, 1] - py
        corner[i, 0], corner[i, 1] = cosine * dx + sine * dy, cosine * dy - sine * dx
    separation = _separation(corner, corners[tile], shape)
    if separation > RADIUS_SUM + MARGIN:
        return False
    if separation < -MARGIN:
        return True
    return _distance(polygon[tile], corners[tile], px, py, sine, cosine, shape) < TOUCHING


@njit(cache=True)
def _separation(corner, corners, shape):
    """Largest separation along the edge normals of both polygons; early out once they are surely apart."""
    largest = -np.float32(np.inf)
    for k in range(CORNERS[shape]):
        nx, ny = NORMALS[shape, k, 0], NORMALS[shape, k, 1]
        least = np.float32(np.inf)
        for i in range(corners):
            apart = nx * (corner[i, 0] - POLYGONS[shape, k, 0]) + ny * (corner[i, 1] - POLYGONS[shape, k, 1])
            least = apart if apart < least else least
        largest = least if least > largest else largest
        if largest > RADIUS_SUM + MARGIN:
            return largest
    for i in range(corners):
        following = i + 1 if i + 1 < corners else 0
        nx, ny = corner[following, 1] - corner[i, 1], corner[i, 0] - corner[following, 0]
        least = np.float32(np.inf)
        for k in range(CORNERS[shape]):
            apart = nx * (POLYGONS[shape, k, 0] - corner[i, 0]) + ny * (POLYGONS[shape, k, 1] - corner[i, 1])
            least = apart if apart < least else least
        least /= math.sqrt(nx * nx + ny * ny)
        largest = least if least > largest else largest
        if largest > RADIUS_SUM + MARGIN:
            return largest
    return largest


@njit(cache=True)
def _distance(polygon, corners, px, py, sine, cosine, shape):
    """b2Distance with radii, started without a cache: GJK over w = B - A; the distance between the skins."""
    a_xy, b_xy, w = np.empty((3, 2), np.float32), np.empty((3, 2), np.float32), np.empty((3, 2), np.float32)
    weight = np.zeros(3, np.float32)
    index = np.zeros((3, 2), np.int64)  # corners of A and B that a simplex vertex is made of
    saved = np.zeros((3, 2), np.int64)
    _vertex(polygon, px, py, sine, cosine, shape, 0, 0, a_xy, b_xy, w, index, 0)
    weight[0] = F1
    count = 1
    for _ in range(GJK_ITERATIONS):
        saved_count = count
        for i in range(count):
            saved[i, 0], saved[i, 1] = index[i, 0], index[i, 1]
        count = _reduce(a_xy, b_xy, w, weight, index, count)
        if count == 3:  # the origin lies within the triangle
            break
        dx, dy = _search_direction(w, count)
        if dx * dx + dy * dy < EPSILON * EPSILON:
            break
        support_a = _support(polygon, corners, -dx, -dy)
        support_b = _support(POLYGONS[shape], CORNERS[shape], cosine * dx + sine * dy, -sine * dx + cosine * dy)
        _vertex(polygon, px, py, sine, cosine, shape, support_a, support_b, a_xy, b_xy, w, index, count)
        duplicate = False
        for i in range(saved_count):
            duplicate |= saved[i, 0] == support_a and saved[i, 1] == support_b
        if duplicate:
            break
        count += 1

    if count == 3:
        return F0
    ax, ay, bx, by = a_xy[0, 0], a_xy[0, 1], b_xy[0, 0], b_xy[0, 1]
    if count == 2:
        ax = weight[0] * a_xy[0, 0] + weight[1] * a_xy[1, 0]
        ay = weight[0] * a_xy[0, 1] + weight[1] * a_xy[1, 1]
        bx = weight[0] * b_xy[0, 0] + weight[1] * b_xy[1, 0]
        by = weight[0] * b_xy[0, 1] + weight[1] * b_xy[1, 1]
    distance = math.sqrt((ax - bx) * (ax - bx) + (ay - by) * (ay - by))
    if distance > RADIUS_SUM and distance > EPSILON:
        return distance - RADIUS_SUM
    return F0


@njit(cache=True)
def _vertex(polygon, px, py, sine, cosine, shape, i, k, a_xy, b_xy, w, index, slot):
    """Put corner i of A and corner k of B into a slot of the simplex."""
    a_xy[slot, 0], a_xy[slot, 1] = polygon[i, 0], polygon[i, 1]
    x, y = POLYGONS[shape, k, 0], POLYGONS[shape, k, 1]
    b_xy[slot, 0] = (cosine * x - sine * y) + px
    b_xy[slot, 1] = (sine * x + cosine * y) + py
    w[slot, 0], w[slot, 1] = b_xy[slot, 0] - a_xy[slot, 0], b_xy[slot, 1] - a_xy[slot, 1]
    index[slot, 0], index[slot, 1] = i, k


@njit(cache=True)
def _support(polygon, corners, dx, dy):
    """b2DistanceProxy::GetSupport: the first corner farthest along (dx, dy)."""
    best, most = 0, polygon[0, 0] * dx + polygon[0, 1] * dy
    for i in range(1, corners):
        value = polygon[i, 0] * dx + polygon[i, 1] * dy
        if value > most:
            best, most = i, value
    return best


@njit(cache=True)
def _search_direction(w, count):
    """b2Simplex::GetSearchDirection: towards the origin."""
    if count == 1:
        return -w[0, 0], -w[0, 1]
    ex, ey = w[1, 0] - w[0, 0], w[1, 1] - w[0, 1]
    if ex * -w[0, 1] - ey * -w[0, 0] > F0:
        return -ey, ex
    return ey, -ex


@njit(cache=True)
def _move(a_xy, b_xy, w, index, to, origin):
    for xy in range(2):
        a_xy[to, xy], b_xy[to, xy], w[to, xy] = a_xy[origin, xy], b_xy[origin, xy], w[origin, xy]
        index[to, xy] = index[origin, xy]


@njit(cache=True)
def _reduce(a_xy, b_xy, w, weight, index, count):
    """b2Simplex::Solve2 and Solve3: keep the part of the simplex nearest to the origin; its number of vertices."""
    if count == 1:
        return 1
    w1x, w1y, w2x, w2y = w[0, 0], w[0, 1], w[1, 0], w[1, 1]
    e12x, e12y = w2x - w1x, w2y - w1y
    d12_1 = w2x * e12x + w2y * e12y
    d12_2 = -(w1x * e12x + w1y * e12y)
    if count == 2:
        if d12_2 <= F0:
            weight[0] = F1
            return 1
        if d12_1 <= F0:
            weight[0] = F1
            _move(a_xy, b_xy, w, index, 0, 1)
            return 1
        inverse = F1 / (d12_1 + d12_2)
        weight[0], weight[1] = d12_1 * inverse, d12_2 * inverse
        return 2

    w3x, w3y = w[2, 0], w[2, 1]
    e13x, e13y = w3x - w1x, w3y - w1y
    d13_1 = w3x * e13x + w3y * e13y
    d13_2 = -(w1x * e13x + w1y * e13y)
    e23x, e23y = w3x - w2x, w3y - w2y
    d23_1 = w3x * e23x + w3y * e23y
    d23_2 = -(w2x * e23x + w2y * e23y)
    n123 = e12x * e13y - e12y * e13x
    d123_1 = n123 * (w2x * w3y - w2y * w3x)
    d123_2 = n123 * (w3x * w1y - w3y * w1x)
    d123_3 = n123 * (w1x * w2y - w1y * w2x)
    if d12_2 <= F0 and d13_2 <= F0:
        weight[0] = F1
        return 1
    if d12_1 > F0 and d12_2 > F0 and d123_3 <= F0:
        inverse = F1 / (d12_1 + d12_2)
        weight[0], weight[1] = d12_1 * inverse, d12_2 * inverse
        return 2
    if d13_1 > F0 and d13_2 > F0 and d123_2 <= F0:
        inverse = F1 / (d13_1 + d13_2)
        weight[0], weight[1] = d13_1 * inverse, d13_2 * inverse
        _move(a_xy, b_xy, w, index, 1, 2)
        return 2
    if d12_1 <= F0 and d23_2 <= F0:
        weight[0] = F1
        _move(a_xy, b_xy, w, index, 0, 1)
        return 1
    if d13_1 <= F0 and d23_1 <= F0:
        weight[0] = F1
        _move(a_xy, b_xy, w, index, 0, 2)
        return 1
    if d23_1 > F0 and d23_2 > F0 and d123_1 <= F0:
        inverse = F1 / (d23_1 + d23_2)
        weight[1], weight[0] = d23_1 * inverse, d23_2 * inverse
        _move(a_xy, b_xy, w, index, 0, 2)
        return 2
    return 3
