"""Polygons and masses as Box2D holds them, in float32: convex hulls, the car's five bodies, their inverse masses.

Legend: V vertices of a polygon.
"""

import numpy as np
from numba import njit

from worldmodels.envs.carracing.state import SIZE, WHEEL_R, WHEELPOS

# Gymnasium 1.4.0, car_dynamics.py
WHEEL_W = 14
HULL_POLY1 = ((-60, +130), (+60, +130), (+60, +110), (-60, +110))
HULL_POLY2 = ((-15, +120), (+15, +120), (+20, +20), (-20, 20))
HULL_POLY3 = ((+25, +20), (+50, -10), (+50, -40), (+20, -90), (-20, -90), (-50, -40), (-50, -10), (-25, +20))
HULL_POLY4 = ((-50, -120), (+50, -120), (+50, -90), (-50, -90))

F = np.float32
F0, F1 = F(0.0), F(1.0)
POLYGON_RADIUS = F(0.01)  # b2_polygonRadius: the skin of every polygon
WELD_SQUARED = F(0.0025) * F(0.0025)  # vertices nearer than b2_linearSlop / 2 are one
MAX_VERTICES = 8


@njit(cache=True)
def convex_hull(vertices, polygon):
    """b2PolygonShape::Set: weld, then gift-wrap counter-clockwise from the right-most point.

    vertices float64 (V,2) in, polygon float32 (V or more,2) out; the number of vertices of the hull. Box2D makes a unit
    box of fewer than three distinct vertices; tiles are 3.5 units long and never that thin, so that is not followed.
    """
    ps = np.empty((MAX_VERTICES, 2), np.float32)
    n = 0
    for i in range(len(vertices)):
        x, y = np.float32(vertices[i, 0]), np.float32(vertices[i, 1])
        unique = True
        for j in range(n):
            dx, dy = x - ps[j, 0], y - ps[j, 1]
            if dx * dx + dy * dy < WELD_SQUARED:
                unique = False
        if unique:
            ps[n, 0], ps[n, 1] = x, y
            n += 1

    start = 0
    for i in range(1, n):
        if ps[i, 0] > ps[start, 0] or (ps[i, 0] == ps[start, 0] and ps[i, 1] < ps[start, 1]):
            start = i
    m = 0
    here = start
    while m < n:
        polygon[m, 0], polygon[m, 1] = ps[here, 0], ps[here, 1]
        m += 1
        ahead = 0
        for j in range(1, n):
            if ahead == here:
                ahead = j
                continue
            rx, ry = ps[ahead, 0] - ps[here, 0], ps[ahead, 1] - ps[here, 1]
            vx, vy = ps[j, 0] - ps[here, 0], ps[j, 1] - ps[here, 1]
            c = rx * vy - ry * vx
            if c < F0 or (c == F0 and vx * vx + vy * vy > rx * rx + ry * ry):
                ahead = j
        here = ahead
        if here == start:
            break
    return m


def drawing(corners):
    """A drawing of car_dynamics.py as Box2D's polygon: float32 (V,2)."""
    polygon = np.empty((MAX_VERTICES, 2), F)
    return polygon[: convex_hull.py_func(np.array([(x * SIZE, y * SIZE) for x, y in corners]), polygon)]


HULL_POLYGONS = tuple(drawing(corners) for corners in (HULL_POLY1, HULL_POLY2, HULL_POLY3, HULL_POLY4))
WHEEL_POLYGON = drawing(((-WHEEL_W, +WHEEL_R), (+WHEEL_W, +WHEEL_R), (+WHEEL_W, -WHEEL_R), (-WHEEL_W, -WHEEL_R)))
# What b2Body::ResetMassData makes of them (tests ask Box2D): inverse mass and inertia of the hull (A), of density 1,
# and of a wheel (B), 0.1; the hull's centre of mass. A wheel's is exactly zero.
M_A, I_A, M_B, I_B = F(0.14164306), F(0.05490802), F(16.53439), F(134.06262)
HULL_CENTRE = np.array([1.4774524e-09, -0.082530886], F)
ANCHOR = np.array([(x * SIZE, y * SIZE) for x, y in WHEELPOS], F) - HULL_CENTRE  # (4,2) joints from the centre of mass
