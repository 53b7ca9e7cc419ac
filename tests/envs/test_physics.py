"""The car beside Gymnasium's and Box2D's, and what holds for any number of lanes and threads."""

import math

import Box2D
import numpy as np
import pytest
from gymnasium.utils import seeding

from conformance.physics import DRIVERS, UndrawnCarRacing, first_difference, record, run_driver
from worldmodels.envs.carracing import contact, physics, shapes, track
from worldmodels.envs.carracing.batch import Batch, Start, View
from worldmodels.envs.carracing.state import FPS, Rules, allocate

F = np.float32


# ------------------------------------------------------------------------------------- beside Gymnasium


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_episode_is_gymnasiums(driver):
    row = run_driver(driver, episodes=2 if driver == "random" else 1, steps=1000)
    assert row["differing"] == 0, row["first difference"]
    assert row["tiles"] > 4 and row["skid marks"] > 0
    if driver == "laps":
        assert row["laps"] > 0
    if driver == "leaving the playfield":
        assert row["left the playfield"] > 0
    if driver == "standing still":
        assert row["asleep"] > 0


def test_the_lap_rule_is_gymnasiums():
    """With lap_complete_percent 0, tile 0 completes the lap at once."""
    env = UndrawnCarRacing(lap_complete_percent=0.0)
    episode = record(env, "random", 5, np.random.default_rng(5), 30)
    assert all(episode.terminated[1:]) and episode.lap_finished
    assert first_difference([episode], seeding.np_random(5)[0], rules=Rules(0.0)) == ""


# ----------------------------------------------------------------------------------------- beside Box2D


def test_masses_are_box2ds():
    env = UndrawnCarRacing()
    env.reset(seed=0)
    for body, inverse_mass, inverse_inertia, centre in (
        (env.car.hull, shapes.M_A, shapes.I_A, shapes.HULL_CENTRE),
        (env.car.wheels[0], shapes.M_B, shapes.I_B, np.zeros(2, F)),
    ):
        np.testing.assert_array_equal(np.array(body.localCenter, F), centre)
        assert inverse_mass == F(1) / F(body.mass)
        about_origin = F(1) / inverse_inertia + F(body.mass) * (centre[0] * centre[0] + centre[1] * centre[1])
        assert about_origin == pytest.approx(body.inertia, rel=1e-7)
    for fixture, polygon in zip(env.car.hull.fixtures, shapes.HULL_POLYGONS, strict=True):
        mass, middle, inertia = shapes.mass_data(polygon, F(1))
        theirs = fixture.massData
        assert (mass, *middle, inertia) == (theirs.mass, *theirs.center, theirs.I)


def test_touching_is_box2ds():
    """A tile is moved to within a hair of the threshold of each polygon of the car, and Box2D asked for its verdict."""
    rng = np.random.default_rng(6)
    tracks, _ = allocate(1)
    track.generate(rng, tracks, 0)
    world = Box2D.b2World((0, 0))  # must outlive its bodies
    body, ground = world.CreateDynamicBody(), world.CreateStaticBody()
    polygon, corners = np.zeros((1, 4, 2), F), np.array([4], np.int32)
    scratch, verdicts = np.empty((4, 2), F), []
    for _ in range(3000):
        shape = int(rng.integers(5))
        tile = tracks.polygon[0, rng.integers(tracks.count[0])]
        if len(np.unique(tile, axis=0)) < 4:
            continue
        body.transform = (tile.mean(0) + rng.normal(0, 8, 2)).tolist(), rng.uniform(-math.pi, math.pi)
        car = Box2D.b2PolygonShape(vertices=shapes_of_the_car()[shape])
        for aim in range(3):  # close in on the threshold: 0.02 between the polygons, 0 between their skins
            road = Box2D.b2PolygonShape(vertices=tile.tolist())
            answer = _box2d_distance(road, car, ground, body, skins=False)
            direction = np.array(answer.pointB) - np.array(answer.pointA)
            if answer.distance < 1e-3:
                break
            gap = 0.02 + rng.uniform(-3e-5, 3e-5) if aim == 2 else 0.02
            tile = (tile + direction * (1 - gap / answer.distance)).astype(F)
        polygon[0, : shapes.convex_hull(tile.astype(np.float64), polygon[0])] = polygon[0]
        theirs = _box2d_distance(Box2D.b2PolygonShape(vertices=tile.tolist()), car, ground, body, skins=True).distance
        sine, cosine = F(body.transform.q.s), F(body.transform.q.c)
        x, y = (F(v) for v in body.position)
        assert contact._distance(polygon[0], 4, x, y, sine, cosine, shape) == F(theirs)
        box = np.array([[*polygon[0].min(0) - F(0.01), *polygon[0].max(0) + F(0.01)]], F)
        touching = contact.touches(polygon, corners, box, 0, x, y, sine, cosine, shape, scratch)
        assert touching == (theirs < 10 * Box2D.b2_epsilon)
        verdicts.append(touching)
    assert 0.2 < np.mean(verdicts) < 0.8 and len(verdicts) > 2500


def shapes_of_the_car():
    return [polygon.tolist() for polygon in contact.SHAPES]


def _box2d_distance(road, car, ground, body, skins):
    return Box2D.b2Distance(
        shapeA=road, idxA=0, shapeB=car, idxB=0, transformA=ground.transform, transformB=body.transform, useRadii=skins
    )


# ------------------------------------------------------------------------- lanes, threads, our own starts


def _drive(seeds, steps, threads=1, reused=None, start=None):
    """Lanes with a seed each for track, start and random actions; the batch after so many steps."""
    batch = reused or Batch(len(seeds), view=View("state"), num_threads=threads)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    for lane in range(len(seeds)):
        batch.begin(np.arange(len(seeds)) == lane, rngs, Start(start, (0.0, 60.0)))
    for step in range(steps):
        if step % 10 == 0:
            held = np.stack([rng.uniform([-1, -0.2, -2], 1) for rng in rngs])
        batch.advance(held, batch.everyone)
    return batch


def _assert_lanes_equal(state, lanes, other, other_lanes):
    """All that a step depends on or a frame shows; slots of skid marks beyond those in use may hold anything."""
    for ours, theirs in ((state.tracks, other.tracks), (state.cars, other.cars)):
        for name, a, b in zip(ours._fields, ours, theirs, strict=True):
            if name == "near" or name.startswith(("skid_point", "skid_length", "skid_grass", "wheel_skid_")):
                continue
            if name in ("centre", "road", "border", "border_tile", "polygon", "corners", "box"):
                continue  # rows beyond the tiles of a track may hold anything; the cars would have diverged
            np.testing.assert_array_equal(a[lanes], b[other_lanes], err_msg=name)


def test_results_do_not_depend_on_lanes_or_threads():
    seeds = np.arange(40)
    alone = [_drive([seed], 120) for seed in seeds[:3]]
    batch = _drive(seeds, 120)
    for lane, single in enumerate(alone):
        _assert_lanes_equal(batch, [lane], single, [0])
    order = np.random.default_rng(0).permutation(40)
    _assert_lanes_equal(_drive(seeds[order], 120, threads=2), np.arange(40), batch, order)


def test_a_lane_forgets_its_last_episode():
    """A lane that has lived through other tracks, skids and all, goes on like a fresh one."""
    for steps in (1, 200):
        used = _drive([3, 4], 300)
        used = _drive([12, 23], 3, reused=used, start=0)  # these begin in the same place: no tile of theirs may stay
        fresh, used = _drive([1, 2], steps, start=0), _drive([1, 2], steps, reused=used, start=0)
        _assert_lanes_equal(fresh, [0, 1], used, [0, 1])
    for lane in range(2):
        marks = range(min(30, fresh.cars.skid_total[lane]))
        assert len(marks) > 5
        for slot in marks:
            length = fresh.cars.skid_length[lane, slot]
            assert length == used.cars.skid_length[lane, slot] >= 2
            for name in ("skid_point", "skid_grass"):
                a, b = getattr(fresh.cars, name)[lane, slot], getattr(used.cars, name)[lane, slot]
                np.testing.assert_array_equal(a[:length] if a.ndim else a, b[:length] if b.ndim else b)


def test_lanes_left_out_rest():
    batch = _drive([1, 2, 3], 50)
    before = [array.copy() for array in (*batch.tracks, *batch.cars)]
    lanes = np.array([False, True, False])
    rewards, terminated = batch.advance(np.full((3, 3), 0.5), lanes)
    assert rewards[0] == rewards[2] == 0 and rewards[1] != 0 and not terminated.any()
    for array, old in zip((*batch.tracks, *batch.cars), before, strict=True):
        np.testing.assert_array_equal(array[~lanes], old[~lanes])
    assert (50 * batch.cars.time).round().tolist() == [51, 52, 51], "steps, the reset's included"


@pytest.mark.parametrize("tile, speed", [(0, 50.0), (17, 0.0), (150, 35.0)])
def test_a_car_starts_rolling_along_its_tile(tile, speed):
    """In place from the first step on: heading, joints and speed hold, the wheels roll without slip."""
    batch = Batch(1, view=View("state"))
    batch.begin(batch.everyone, [np.random.default_rng(8)], Start(tile, (speed, speed)))
    tracks, cars = batch.tracks, batch.cars
    x, y, beta = *tracks.centre[0, tile, 2:], tracks.centre[0, tile, 1]
    for step in range(1, 6):  # `begin` has made the first
        if step > 1:
            batch.advance(np.zeros((1, 3)), batch.everyone)
        assert cars.on_road[0].all()
        travelled = speed * step / FPS
        expected = x - math.sin(beta) * travelled, y + math.cos(beta) * travelled
        np.testing.assert_allclose(cars.position[0, 0], expected, atol=2e-3 * (1 + travelled))
        np.testing.assert_allclose(cars.angle[0], beta, atol=1e-3)
        np.testing.assert_allclose(np.hypot(*cars.velocity[0].T), speed, rtol=2e-3, atol=1e-3)
        np.testing.assert_allclose(cars.omega[0] * physics.WHEEL_RAD, speed, rtol=5e-3, atol=1e-3)
    assert cars.visited_count[0] == tracks.visited[0].sum() > 0 and tracks.visited[0, tile]
    assert cars.reward[0] == pytest.approx(1000.0 / tracks.count[0] * cars.visited_count[0] - 0.1 * 4)
