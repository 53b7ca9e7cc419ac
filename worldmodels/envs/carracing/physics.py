"""The car of CarRacing-v3, bit for bit: Gymnasium's `Car` in float64, Box2D's world in float32, rewards and endings.

A step is Gymnasium's: pedals and tyres (`_drive`), then Box2D finds the tiles under the car at the positions it has
(`_collide`) and moves it (`box2d`). Friction therefore feels a tile one step late, as it does there. Every lane is
computed by itself: results do not depend on the number of lanes, their order or the number of threads.

Legend: N lanes, 4 wheels in Gymnasium's order. Units as in state.py.
"""

import math

import numpy as np
from numba import njit

from worldmodels.envs.carracing import box2d, contact
from worldmodels.envs.carracing.state import (
    FPS,
    PLAYFIELD,
    SIZE,
    SKID_PARTICLES,
    SKID_POINTS,
    WHEEL_R,
    WHEELPOS,
    Cars,
    Rules,
    Tracks,
)

# Gymnasium 1.4.0, car_dynamics.py
ENGINE_POWER = 100000000 * SIZE * SIZE
WHEEL_MOMENT_OF_INERTIA = 4000 * SIZE * SIZE
FRICTION_LIMIT = 1000000 * SIZE * SIZE

DT = 1.0 / FPS  # s
WHEEL_RAD = 1.0 * WHEEL_R * SIZE
GRIP = 205000 * SIZE * SIZE  # force per unit/s of slip, until the tyre slides
BRAKE_FORCE = 15  # rad/s per step
WHEEL_OFFSET = np.array(WHEELPOS) * SIZE  # (4,2)


@njit(cache=True)
def off_playfield(x, y):
    """Whether a hull at (x, y) has left the playfield."""
    return abs(x) > PLAYFIELD or abs(y) > PLAYFIELD


def place(tracks: Tracks, cars: Cars, lane: int, tile: int, speed: float) -> None:
    """Put a new car on a tile of a lane's track, heading along it at `speed` units/s with its wheels rolling.

    Tile 0 at speed 0 is Gymnasium's start: there the wheels hang at offsets that are not turned with the hull, and the
    first step pulls them in. Elsewhere they start where they belong.
    """
    for array in cars:
        array[lane] = 0
    cars.near_count[lane] = cars.wheel_skid[lane] = -1
    _place(tracks, cars, lane, tile, speed)


@njit(cache=True)
def _place(tracks, cars, lane, tile, speed):
    """What is not zero of a new car."""
    beta, x, y = tracks.centre[lane, tile, 1], tracks.centre[lane, tile, 2], tracks.centre[lane, tile, 3]
    turn = beta if tile != 0 or speed != 0.0 else 0.0
    angle = np.float32(beta)
    cars.angle[lane] = angle
    cars.velocity[lane, :, 0] = np.float32(-math.sin(beta) * speed)
    cars.velocity[lane, :, 1] = np.float32(math.cos(beta) * speed)
    sine, cosine = math.sin(angle), math.cos(angle)
    cars.mass_centre[lane, 0, 0] = (cosine * box2d.CENTRE_X - sine * box2d.CENTRE_Y) + np.float32(x)
    cars.mass_centre[lane, 0, 1] = (sine * box2d.CENTRE_X + cosine * box2d.CENTRE_Y) + np.float32(y)
    for j in range(4):
        dx, dy = WHEEL_OFFSET[j, 0], WHEEL_OFFSET[j, 1]
        cars.mass_centre[lane, j + 1, 0] = np.float32(x + (math.cos(turn) * dx - math.sin(turn) * dy))
        cars.mass_centre[lane, j + 1, 1] = np.float32(y + (math.sin(turn) * dx + math.cos(turn) * dy))
    box2d.synchronise(cars, lane)
    cars.position[lane, 0, 0], cars.position[lane, 0, 1] = np.float32(x), np.float32(y)
    cars.omega[lane] = speed / WHEEL_RAD


@njit(cache=True)
def move(tracks: Tracks, cars: Cars, controls: np.ndarray, lanes: np.ndarray, rules: Rules) -> None:
    """Move the cars of `lanes` int64 (L,) by one step of 1/50 s with steer, gas, brake, float64 (N,3).

    Rewards for new tiles are added to cars.reward; the cost of time is left to `settle`.
    """
    for first in range(0, len(lanes), box2d.BLOCK):
        _move_block(tracks, cars, controls, lanes[first : first + box2d.BLOCK], rules)


@njit(cache=True)
def _move_block(tracks, cars, controls, lanes, rules):
    """One step of up to BLOCK lanes."""
    block = box2d.new_block()
    limited = np.zeros(4, np.bool_)
    force = np.empty((4, 2), np.float32)
    motor_speed = np.empty(4, np.float32)
    corner = np.empty((4, 2), np.float32)
    for s, lane in enumerate(lanes):
        _pedals(cars, lane, controls[lane])
        for j in range(4):
            motor_speed[j] = _steer(cars, lane, j)
            force[j, 0], force[j, 1] = _tyre(cars, lane, j)
        _collide(tracks, cars, lane, rules, corner)
        box2d.load(cars, lane, force, motor_speed, block, s)
        limited |= cars.limit[lane] != 0
    box2d.iterate(block, limited)
    for s, lane in enumerate(lanes):
        box2d.store(cars, lane, block, s)
        cars.time[lane] += DT


@njit(cache=True, forceinline=True)
def _pedals(cars, lane, action):
    """Car.steer, Car.gas and Car.brake: rear wheels drive, front wheels steer; gas comes gradually and goes at once."""
    cars.steer[lane] = -action[0]
    cars.gas[lane] += min(min(max(action[1], 0.0), 1.0) - cars.gas[lane], 0.1)
    cars.brake[lane] = action[2]


@njit(cache=True, forceinline=True)
def _steer(cars, lane, j):
    """The speed that the joint's motor is asked for, rad/s."""
    wanted = (cars.steer[lane] if j < 2 else 0.0) - cars.joint_angle[lane, j]
    speed = 50.0 * abs(wanted)
    if speed > 3.0:
        speed = 3.0
    return np.float32(np.sign(wanted) * speed)


@njit(cache=True, forceinline=True)
def _tyre(cars, lane, j):
    """Car.step of one wheel: engine, brake, roll, slip; the force on the wheel's centre, rounded to float32."""
    grass = not cars.on_road[lane, j]
    friction_limit = FRICTION_LIMIT * 0.6 if grass else FRICTION_LIMIT * 1.0
    sine, cosine = np.float64(cars.transform_sc[lane, j + 1, 0]), np.float64(cars.transform_sc[lane, j + 1, 1])
    vx, vy = np.float64(cars.velocity[lane, j + 1, 0]), np.float64(cars.velocity[lane, j + 1, 1])
    vf = -sine * vx + cosine * vy  # forward speed
    vs = cosine * vx + sine * vy  # side speed

    omega = cars.omega[lane, j]
    gas, brake = cars.gas[lane] if j >= 2 else 0.0, cars.brake[lane]
    omega += DT * ENGINE_POWER * gas / WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
    if brake >= 0.9:
        omega = 0.0
    elif brake > 0:
        omega += -np.sign(omega) * min(BRAKE_FORCE * brake, abs(omega))
    cars.phase[lane, j] += omega * DT

    f_force = (-vf + omega * WHEEL_RAD) * GRIP
    p_force = -vs * GRIP
    force = math.sqrt(f_force * f_force + p_force * p_force)
    _skid(cars, lane, j, force > 2.0 * friction_limit, grass)
    if force > friction_limit:
        f_force = f_force / force * friction_limit
        p_force = p_force / force * friction_limit
    cars.omega[lane, j] = omega - DT * f_force * WHEEL_RAD / WHEEL_MOMENT_OF_INERTIA
    return np.float32(p_force * cosine + f_force * -sine), np.float32(p_force * sine + f_force * cosine)


@njit(cache=True, forceinline=True)
def _skid(cars, lane, j, skids, grass):
    """Skid marks: a wheel that slides hard draws a polyline, a new one after 30 points or a change of ground.

    Gymnasium keeps w.skid_start as a live view of the wheel's position, so the first two points of a mark coincide.
    """
    if not skids:
        cars.skid_started[lane, j] = False
        cars.wheel_skid[lane, j] = -1
        return
    x, y = cars.position[lane, j + 1, 0], cars.position[lane, j + 1, 1]
    number, length = cars.wheel_skid[lane, j], cars.wheel_skid_length[lane, j]
    if number >= 0 and cars.wheel_skid_grass[lane, j] == grass and length < SKID_POINTS:
        cars.wheel_skid_length[lane, j] = length + 1
        if number >= cars.skid_total[lane] - SKID_PARTICLES:  # else pushed out of Gymnasium's deque
            slot = number % SKID_PARTICLES
            cars.skid_point[lane, slot, length, 0], cars.skid_point[lane, slot, length, 1] = x, y
            cars.skid_length[lane, slot] = length + 1
    elif not cars.skid_started[lane, j]:
        cars.skid_started[lane, j] = True
    else:
        number = cars.skid_total[lane]
        slot = number % SKID_PARTICLES
        for point in range(2):
            cars.skid_point[lane, slot, point, 0], cars.skid_point[lane, slot, point, 1] = x, y
        cars.skid_length[lane, slot] = 2
        cars.skid_grass[lane, slot] = grass
        cars.skid_total[lane] = number + 1
        cars.wheel_skid[lane, j] = number
        cars.wheel_skid_length[lane, j] = 2
        cars.wheel_skid_grass[lane, j] = grass
        cars.skid_started[lane, j] = False


@njit(cache=True, forceinline=True)
def _collide(tracks, cars, lane, rules, corner):
    """b2ContactManager::Collide with FrictionDetector's answers, at the positions before the cars move.

    A visited tile is plain already and only matters to a wheel that has no other; a plain one is nothing to the hull.
    """
    contact.gather(tracks, cars, lane)
    polygon, corners, box = tracks.polygon[lane], tracks.corners[lane], tracks.box[lane]
    visited, plain, on_road = tracks.visited[lane], tracks.plain[lane], cars.on_road[lane]
    position, transform_sc = cars.position[lane], cars.transform_sc[lane]
    on_road[:] = False
    for i in range(cars.near_count[lane]):
        tile = cars.near[lane, i]
        for body in range(1, 5):
            if visited[tile] and on_road[body - 1]:
                continue
            x, y, sine, cosine = position[body, 0], position[body, 1], transform_sc[body, 0], transform_sc[body, 1]
            if contact.touches(polygon, corners, box, tile, x, y, sine, cosine, contact.WHEEL_SHAPE, corner):
                on_road[body - 1] = True
                plain[tile] = True
                if not visited[tile]:
                    visited[tile] = True
                    _visit(tracks, cars, lane, tile, rules)
        if tile == 0 and rules.crossing:
            _cross(tracks, cars, lane, rules, corner)
        if plain[tile]:
            continue
        x, y, sine, cosine = position[0, 0], position[0, 1], transform_sc[0, 0], transform_sc[0, 1]
        for shape in range(4):
            plain[tile] |= contact.touches(polygon, corners, box, tile, x, y, sine, cosine, shape, corner)


@njit(cache=True, forceinline=True)
def _visit(tracks, cars, lane, tile, rules):
    """A wheel on a new tile: its reward, and the lap if this is tile 0 and enough of the others were visited."""
    count = tracks.count[lane]
    cars.reward[lane] += 1000.0 / count
    cars.visited_count[lane] += 1
    if tile == 0 and cars.visited_count[lane] / count > rules.lap_complete_percent:
        cars.new_lap[lane] = True


@njit(cache=True, forceinline=True)
def _cross(tracks, cars, lane, rules, corner):
    """The lap rule of Gymnasium's pull request 1670: any wheel that comes onto tile 0 ends a lap of enough tiles."""
    position, transform_sc = cars.position[lane], cars.transform_sc[lane]
    for wheel in range(4):
        x, y = position[wheel + 1, 0], position[wheel + 1, 1]
        sine, cosine = transform_sc[wheel + 1, 0], transform_sc[wheel + 1, 1]
        polygon, corners, box = tracks.polygon[lane], tracks.corners[lane], tracks.box[lane]
        on_start = contact.touches(polygon, corners, box, 0, x, y, sine, cosine, contact.WHEEL_SHAPE, corner)
        if on_start and not cars.on_start[lane, wheel]:
            cars.new_lap[lane] |= cars.visited_count[lane] / tracks.count[lane] > rules.lap_complete_percent
        cars.on_start[lane, wheel] = on_start


@njit(cache=True)
def has_ended(tracks: Tracks, cars: Cars, lane: int) -> bool:
    """Whether a lane's episode is over: a lap is complete, or the car has left the playfield."""
    lap = cars.visited_count[lane] == tracks.count[lane] or cars.new_lap[lane]
    return lap or off_playfield(cars.position[lane, 0, 0], cars.position[lane, 0, 1])


@njit(cache=True)
def settle(tracks: Tracks, cars: Cars, lane: int) -> float:
    """Close a lane's step after its frame was drawn; its reward.

    Time costs 0.1 a step; leaving the playfield pays -100 instead of anything else.
    """
    cars.reward[lane] -= 0.1
    reward = cars.reward[lane] - cars.prev_reward[lane]
    cars.prev_reward[lane] = cars.reward[lane]
    return -100.0 if off_playfield(cars.position[lane, 0, 0], cars.position[lane, 0, 1]) else reward
