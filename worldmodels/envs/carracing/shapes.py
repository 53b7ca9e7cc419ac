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
F0, F1, HALF = F(0.0), F(1.0), F(0.5)
POLYGON_RADIUS = F(0.01)  # b2_polygonRadius: the skin of every polygon
WELD_SQUARED = (HALF * F(0.005)) * (HALF * F(0.005))  # vertices nearer than b2_linearSlop / 2 are one
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


def mass_data(polygon, density):
    """b2PolygonShape::ComputeMass: mass, centre float32 (2,), inertia about the body origin; polygon float32 (V,2)."""
    inv3 = F1 / F(3.0)
    s = np.zeros(2, F)
    for vertex in polygon:
        s = s + vertex
    s = s * (F1 / F(len(polygon)))
    area, inertia, centre = F0, F0, np.zeros(2, F)
    for i in range(len(polygon)):
        e1, e2 = polygon[i] - s, polygon[(i + 1) % len(polygon)] - s
        d = e1[0] * e2[1] - e1[1] * e2[0]
        triangle = HALF * d
        area = area + triangle
        centre = centre + (triangle * inv3) * (e1 + e2)
        x2 = e1[0] * e1[0] + e2[0] * e1[0] + e2[0] * e2[0]
        y2 = e1[1] * e1[1] + e2[1] * e1[1] + e2[1] * e2[1]
        inertia = inertia + (F(0.25) * inv3 * d) * (x2 + y2)
    mass = density * area
    centre = centre * (F1 / area)
    middle = centre + s
    shift = (middle[0] * middle[0] + middle[1] * middle[1]) - (centre[0] * centre[0] + centre[1] * centre[1])
    return mass, middle, density * inertia + mass * shift


def body_mass(polygons, density):
    """b2Body::ResetMassData, fixtures from the youngest on: inverse mass, inverse inertia, centre float32 (2,)."""
    mass, inertia, centre = F0, F0, np.zeros(2, F)
    for polygon in reversed(polygons):
        m, c, i = mass_data(polygon, density)
        mass, centre, inertia = mass + m, centre + m * c, inertia + i
    inv_mass = F1 / mass
    centre = centre * inv_mass
    inertia = inertia - mass * (centre[0] * centre[0] + centre[1] * centre[1])
    return inv_mass, F1 / inertia, centre


HULL_POLYGONS = tuple(drawing(corners) for corners in (HULL_POLY1, HULL_POLY2, HULL_POLY3, HULL_POLY4))
WHEEL_POLYGON = drawing(((-WHEEL_W, +WHEEL_R), (+WHEEL_W, +WHEEL_R), (+WHEEL_W, -WHEEL_R), (-WHEEL_W, -WHEEL_R)))
M_A, I_A, HULL_CENTRE = body_mass(HULL_POLYGONS, F1)  # inverse mass and inertia of the hull, its centre of mass
M_B, I_B, _ = body_mass((WHEEL_POLYGON,), F(0.1))  # of a wheel; its centre of mass is exactly zero
ANCHOR = np.array([(x * SIZE, y * SIZE) for x, y in WHEELPOS], F) - HULL_CENTRE  # (4,2) joints from the centre of mass
