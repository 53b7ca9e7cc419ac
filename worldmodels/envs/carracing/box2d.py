"""The part of Box2D 2.3 that CarRacing needs, in float32 and in Box2D's order of operations.

One island: a hull and four wheels, each held by a revolute joint with motor and limit. Road tiles are sensors, so there
are no contacts to solve and the whole of `b2Island::Solve` is: integrate forces, 180 velocity iterations over the four
joints, integrate positions, up to 60 position iterations, sleep.

A wheel's joint sits in its centre of mass, so the lever arm r_B of every formula of b2RevoluteJoint is zero; the terms
it would add are exact zeros and are left out. No two operations are fused or reordered: results are bit-equal to
Box2D's as compiled for x86-64.

The velocity iterations are nearly all of the arithmetic. They run for BLOCK lanes side by side (row r of the lane in
slot s lies at `block[r * BLOCK + s]`), so that the compiler uses vector instructions; each lane sees the same float32
operations as alone.

Legend: A the hull, B a wheel, j joint or wheel 0..3, s slot of a lane in its block.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing.shapes import ANCHOR, F0, F1, HULL_CENTRE, I_A, I_B, M_A, M_B, F
from worldmodels.envs.carracing.state import FPS, SIZE

BLOCK = 16
"""Lanes solved side by side: two vectors of eight float32."""

H = F(1.0 / FPS)  # s, the time step
VELOCITY_ITERATIONS = 6 * 30  # car_racing.py: world.Step(1.0 / FPS, 6 * 30, 2 * 30)
POSITION_ITERATIONS = 2 * 30

# b2Settings.h
PI = F(3.14159265359)
LINEAR_SLOP = F(0.005)
ANGULAR_SLOP = F(2.0) / F(180.0) * PI
MAX_ANGULAR_CORRECTION = F(8.0) / F(180.0) * PI
MAX_TRANSLATION = F(2.0)  # units a step: no body is faster than 100 units/s
MAX_ROTATION = F(0.5) * PI  # radians a step
TIME_TO_SLEEP = F(0.5)
LINEAR_SLEEP_TOLERANCE = F(0.01)
ANGULAR_SLEEP_TOLERANCE = F(2.0) / F(180.0) * PI

# car_dynamics.py, revoluteJointDef
LOWER_ANGLE = F(-0.4)
UPPER_ANGLE = F(+0.4)
MAX_MOTOR_TORQUE = F(180 * 900 * SIZE * SIZE)
MAX_MOTOR_IMPULSE = H * MAX_MOTOR_TORQUE

CENTRE_X, CENTRE_Y = HULL_CENTRE
K33 = I_A + I_B  # the corner of the effective mass matrix that is the same for all joints
MOTOR_MASS = F1 / K33


# Rows of a block
HULL = 0  # vx, vy, w of the hull
WHEEL = 3  # + 3 j: vx, vy, w of a wheel
IMPULSE = 15  # + 4 j: x, y, limit, motor
JOINT = 31  # + 13 j: what the iterations read and do not change:
R_X, R_Y = 0, 1  # lever arm r_A
K11, K12, K22, K13, K23 = 2, 3, 4, 5, 6  # effective mass matrix
DET22, DET33 = 7, 8  # inverse determinants
CROSS_X, CROSS_Y, CROSS_Z = 9, 10, 11  # second × third column
SPEED = 12  # motor speed
LIMIT = 83  # + j: -1 at the lower limit, 0 free, 1 at the upper
ROWS = 87


@njit(cache=True)
def new_block():
    """Zeroed rows for BLOCK lanes: float32 (ROWS * BLOCK,)."""
    return np.zeros(ROWS * BLOCK, np.float32)


@njit(cache=True, forceinline=True)
def load(cars, lane, force, motor_speed, block, s):
    """Integrate forces and prepare the joints (b2RevoluteJoint::InitVelocityConstraints) of one lane.

    force float32 (4,2) on the wheels, motor_speed float32 (4,) of the joints.
    """
    sine, cosine = cars.transform_sc[lane, 0, 0], cars.transform_sc[lane, 0, 1]
    vx, vy, w = cars.velocity[lane, 0, 0], cars.velocity[lane, 0, 1], cars.spin[lane, 0]
    for j in range(4):
        wheel = (WHEEL + 3 * j) * BLOCK + s
        block[wheel] = cars.velocity[lane, j + 1, 0] + H * (M_B * force[j, 0])
        block[wheel + BLOCK] = cars.velocity[lane, j + 1, 1] + H * (M_B * force[j, 1])
        block[wheel + 2 * BLOCK] = cars.spin[lane, j + 1]

    for j in range(3, -1, -1):  # Box2D walks its list of joints from the youngest
        wheel = (WHEEL + 3 * j) * BLOCK + s
        impulse = (IMPULSE + 4 * j) * BLOCK + s
        row = (JOINT + 13 * j) * BLOCK + s
        rx = cosine * ANCHOR[j, 0] - sine * ANCHOR[j, 1]
        ry = sine * ANCHOR[j, 0] + cosine * ANCHOR[j, 1]
        k11 = M_A + M_B + ry * ry * I_A
        k12 = -ry * rx * I_A
        k22 = M_A + M_B + rx * rx * I_A
        k13 = -ry * I_A
        k23 = rx * I_A
        # columns of the mass matrix: (k11, k12, k13), (k12, k22, k23), (k13, k23, K33)
        cross_x = k22 * K33 - k23 * k23
        cross_y = k23 * k13 - k12 * K33
        cross_z = k12 * k23 - k22 * k13
        block[row + R_X * BLOCK] = rx
        block[row + R_Y * BLOCK] = ry
        block[row + K11 * BLOCK] = k11
        block[row + K12 * BLOCK] = k12
        block[row + K22 * BLOCK] = k22
        block[row + K13 * BLOCK] = k13
        block[row + K23 * BLOCK] = k23
        block[row + DET22 * BLOCK] = F1 / (k11 * k22 - k12 * k12)
        block[row + DET33 * BLOCK] = F1 / (k11 * cross_x + k12 * cross_y + k13 * cross_z)
        block[row + CROSS_X * BLOCK] = cross_x
        block[row + CROSS_Y * BLOCK] = cross_y
        block[row + CROSS_Z * BLOCK] = cross_z
        block[row + SPEED * BLOCK] = motor_speed[j]

        angle = cars.angle[lane, j + 1] - cars.angle[lane, 0]
        limit = -1 if angle <= LOWER_ANGLE else (1 if angle >= UPPER_ANGLE else 0)
        px, py, motor = cars.impulse[lane, j, 0], cars.impulse[lane, j, 1], cars.impulse[lane, j, 3]
        pz = cars.impulse[lane, j, 2] if limit != 0 and limit == cars.limit[lane, j] else F0
        cars.limit[lane, j] = limit
        block[(LIMIT + j) * BLOCK + s] = np.float32(limit)
        block[impulse] = px
        block[impulse + BLOCK] = py
        block[impulse + 2 * BLOCK] = pz
        block[impulse + 3 * BLOCK] = motor

        vx -= M_A * px
        vy -= M_A * py
        w -= I_A * ((rx * py - ry * px) + motor + pz)
        block[wheel] += M_B * px
        block[wheel + BLOCK] += M_B * py
        block[wheel + 2 * BLOCK] += I_B * (motor + pz)
    block[HULL * BLOCK + s] = vx
    block[(HULL + 1) * BLOCK + s] = vy
    block[(HULL + 2) * BLOCK + s] = w


@njit(cache=True, forceinline=True)
def run_motor(block, wheel, impulse, row, s):
    """The motor's part of a joint in slot s: the hull's and the wheel's w after its impulse."""
    w_a, w_b = block[2 * BLOCK + s], block[wheel + 2 * BLOCK + s]
    old = block[impulse + 3 * BLOCK + s]
    new = old + -MOTOR_MASS * (w_b - w_a - block[row + SPEED * BLOCK + s])
    new = new if new < MAX_MOTOR_IMPULSE else MAX_MOTOR_IMPULSE  # b2Clamp: NaN becomes the maximum
    new = new if new > -MAX_MOTOR_IMPULSE else -MAX_MOTOR_IMPULSE
    block[impulse + 3 * BLOCK + s] = new
    return w_a - I_A * (new - old), w_b + I_B * (new - old)


@njit(cache=True, forceinline=True)
def iterate_free(block, j):
    """b2RevoluteJoint::SolveVelocityConstraints of joint j in a block where no lane has it at a limit."""
    wheel = (WHEEL + 3 * j) * BLOCK
    impulse = (IMPULSE + 4 * j) * BLOCK
    row = (JOINT + 13 * j) * BLOCK
    for s in range(BLOCK):
        w_a, w_b = run_motor(block, wheel, impulse, row, s)
        # point to point
        rx, ry = block[row + s], block[row + BLOCK + s]
        bx = -(block[wheel + s] - block[s] + w_a * ry)
        by = -(block[wheel + BLOCK + s] - block[BLOCK + s] - w_a * rx)
        k12, det = block[row + K12 * BLOCK + s], block[row + DET22 * BLOCK + s]
        px = det * (block[row + K22 * BLOCK + s] * bx - k12 * by)
        py = det * (block[row + K11 * BLOCK + s] * by - k12 * bx)
        block[impulse + s] += px
        block[impulse + BLOCK + s] += py
        block[s] -= M_A * px
        block[BLOCK + s] -= M_A * py
        block[2 * BLOCK + s] = w_a - I_A * (rx * py - ry * px)
        block[wheel + s] += M_B * px
        block[wheel + BLOCK + s] += M_B * py
        block[wheel + 2 * BLOCK + s] = w_b


@njit(cache=True, forceinline=True)
def iterate_limited(block, j):
    """The same of a joint that some lane has at a limit: there the limit is solved together with the point."""
    wheel = (WHEEL + 3 * j) * BLOCK
    impulse = (IMPULSE + 4 * j) * BLOCK
    row = (JOINT + 13 * j) * BLOCK
    for s in range(BLOCK):
        w_a, w_b = run_motor(block, wheel, impulse, row, s)
        # velocity error of the point and of the angle
        rx, ry = block[row + s], block[row + BLOCK + s]
        cx = block[wheel + s] - block[s] + w_a * ry
        cy = block[wheel + BLOCK + s] - block[BLOCK + s] - w_a * rx
        cz = w_b - w_a
        k11, k12, k22 = block[row + K11 * BLOCK + s], block[row + K12 * BLOCK + s], block[row + K22 * BLOCK + s]
        k13, k23 = block[row + K13 * BLOCK + s], block[row + K23 * BLOCK + s]
        # b2Mat33::Solve33
        det = block[row + DET33 * BLOCK + s]
        px = -(
            det
            * (
                cx * block[row + CROSS_X * BLOCK + s]
                + cy * block[row + CROSS_Y * BLOCK + s]
                + cz * block[row + CROSS_Z * BLOCK + s]
            )
        )
        py = -(det * (k11 * (cy * K33 - cz * k23) + k12 * (cz * k13 - cx * K33) + k13 * (cx * k23 - cy * k13)))
        pz = -(det * (k11 * (k22 * cz - k23 * cy) + k12 * (k23 * cx - k12 * cz) + k13 * (k12 * cy - k22 * cx)))
        # the limit only pushes; where it would pull, or is not reached, the point is solved alone
        limit, held = block[(LIMIT + j) * BLOCK + s], block[impulse + 2 * BLOCK + s]
        bx, by = -cx + held * k13, -cy + held * k23
        det = block[row + DET22 * BLOCK + s]
        pushes = limit * (held + pz) <= F0 if limit != F0 else False
        px = px if pushes else det * (k22 * bx - k12 * by)
        py = py if pushes else det * (k11 * by - k12 * bx)
        pz = pz if pushes else -held
        block[impulse + s] += px
        block[impulse + BLOCK + s] += py
        block[impulse + 2 * BLOCK + s] = held + pz
        block[s] -= M_A * px
        block[BLOCK + s] -= M_A * py
        block[2 * BLOCK + s] = w_a - I_A * ((rx * py - ry * px) + pz)
        block[wheel + s] += M_B * px
        block[wheel + BLOCK + s] += M_B * py
        block[wheel + 2 * BLOCK + s] = w_b + I_B * pz


@njit(cache=True)
def iterate(block, limited):
    """The velocity iterations of a block; limited bool (4,): joints that some lane has at a limit."""
    for _ in range(VELOCITY_ITERATIONS):
        if limited[3]:
            iterate_limited(block, 3)
        else:
            iterate_free(block, 3)
        if limited[2]:
            iterate_limited(block, 2)
        else:
            iterate_free(block, 2)
        if limited[1]:
            iterate_limited(block, 1)
        else:
            iterate_free(block, 1)
        if limited[0]:
            iterate_limited(block, 0)
        else:
            iterate_free(block, 0)


@njit(cache=True, forceinline=True)
def store(cars, lane, block, s):
    """Integrate positions, solve the position constraints, synchronise transforms and let a resting car sleep."""
    x = np.empty((5, 2), np.float32)
    a = np.empty(5, np.float32)
    for body in range(5):
        row = 3 * body * BLOCK + s
        vx, vy, w = block[row], block[row + BLOCK], block[row + 2 * BLOCK]
        dx, dy = H * vx, H * vy
        if dx * dx + dy * dy > MAX_TRANSLATION * MAX_TRANSLATION:
            ratio = MAX_TRANSLATION / math.sqrt(dx * dx + dy * dy)
            vx *= ratio
            vy *= ratio
        turn = H * w
        if turn * turn > MAX_ROTATION * MAX_ROTATION:
            w *= MAX_ROTATION / abs(turn)
        x[body, 0] = cars.mass_centre[lane, body, 0] + H * vx
        x[body, 1] = cars.mass_centre[lane, body, 1] + H * vy
        a[body] = cars.angle[lane, body] + H * w
        cars.velocity[lane, body, 0], cars.velocity[lane, body, 1], cars.spin[lane, body] = vx, vy, w
    for j in range(4):
        for k in range(4):
            cars.impulse[lane, j, k] = block[(IMPULSE + 4 * j + k) * BLOCK + s]

    solved = False
    for _ in range(POSITION_ITERATIONS):
        solved = True
        for j in range(3, -1, -1):
            solved &= _solve_position(x, a, j, cars.limit[lane, j])
        if solved:
            break

    for body in range(5):
        cars.mass_centre[lane, body, 0], cars.mass_centre[lane, body, 1] = x[body, 0], x[body, 1]
        cars.angle[lane, body] = a[body]
    synchronise(cars, lane)
    _sleep(cars, lane, solved)


@njit(cache=True, forceinline=True)
def _solve_position(x, a, j, limit):
    """b2RevoluteJoint::SolvePositionConstraints of joint j: moves centres x (5,2), angles a (5,); whether it held."""
    b = j + 1
    angular_error = F0
    if limit != 0:
        if limit < 0:
            c = a[b] - a[0] - LOWER_ANGLE
            angular_error = -c
            c = max(-MAX_ANGULAR_CORRECTION, min(c + ANGULAR_SLOP, F0))
        else:
            c = a[b] - a[0] - UPPER_ANGLE
            angular_error = c
            c = max(F0, min(c - ANGULAR_SLOP, MAX_ANGULAR_CORRECTION))
        impulse = -MOTOR_MASS * c
        a[0] -= I_A * impulse
        a[b] += I_B * impulse

    sine, cosine = math.sin(a[0]), math.cos(a[0])
    rx = cosine * ANCHOR[j, 0] - sine * ANCHOR[j, 1]
    ry = sine * ANCHOR[j, 0] + cosine * ANCHOR[j, 1]
    cx = x[b, 0] - x[0, 0] - rx
    cy = x[b, 1] - x[0, 1] - ry
    k11 = M_A + M_B + I_A * ry * ry
    k12 = -I_A * rx * ry
    k22 = M_A + M_B + I_A * rx * rx
    det = F1 / (k11 * k22 - k12 * k12)
    px = -(det * (k22 * cx - k12 * cy))
    py = -(det * (k11 * cy - k12 * cx))
    x[0, 0] -= M_A * px
    x[0, 1] -= M_A * py
    a[0] -= I_A * (rx * py - ry * px)
    x[b, 0] += M_B * px
    x[b, 1] += M_B * py
    return math.sqrt(cx * cx + cy * cy) <= LINEAR_SLOP and angular_error <= ANGULAR_SLOP


@njit(cache=True, forceinline=True)
def synchronise(cars, lane):
    """b2Body::SynchronizeTransform of all bodies and the joint angles, from mass_centre and angle."""
    for body in range(5):
        sine, cosine = math.sin(cars.angle[lane, body]), math.cos(cars.angle[lane, body])
        cars.transform_sc[lane, body, 0], cars.transform_sc[lane, body, 1] = sine, cosine
        x, y = cars.mass_centre[lane, body, 0], cars.mass_centre[lane, body, 1]
        if body == 0:
            x -= cosine * CENTRE_X - sine * CENTRE_Y
            y -= sine * CENTRE_X + cosine * CENTRE_Y
        cars.position[lane, body, 0], cars.position[lane, body, 1] = x, y
    for j in range(4):
        cars.joint_angle[lane, j] = cars.angle[lane, j + 1] - cars.angle[lane, 0]


@njit(cache=True, forceinline=True)
def _sleep(cars, lane, solved):
    """End of b2Island::Solve: half a second of rest puts the island to sleep, which zeroes its velocities.

    The motors wake all bodies again at the next step, with their clocks at zero.
    """
    shortest = TIME_TO_SLEEP
    for body in range(5):
        vx, vy, w = cars.velocity[lane, body, 0], cars.velocity[lane, body, 1], cars.spin[lane, body]
        if (
            w * w > ANGULAR_SLEEP_TOLERANCE * ANGULAR_SLEEP_TOLERANCE
            or vx * vx + vy * vy > LINEAR_SLEEP_TOLERANCE * LINEAR_SLEEP_TOLERANCE
        ):
            cars.sleep_time[lane, body] = F0
        else:
            cars.sleep_time[lane, body] += H
        shortest = min(shortest, cars.sleep_time[lane, body])
    if shortest >= TIME_TO_SLEEP and solved:
        cars.sleep_time[lane] = F0
        cars.velocity[lane] = F0
        cars.spin[lane] = F0
