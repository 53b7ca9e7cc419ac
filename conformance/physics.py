"""Our tracks and physics beside Gymnasium's, bit for bit.

    python -m conformance.physics        # 1,000 seeds, 200 episodes of 1,000 steps: minutes
    python -m conformance.physics --tracks 50 --episodes 10

Gymnasium drives, undrawn (its physics alone runs thousands of steps per second), and everything it holds is noted after
every step; then our lanes replay the same actions, all episodes of a driver side by side, and every number must be the
same. Endings are noted but do not stop an episode, so that each has its full length. The episodes of a driver are
resets of one environment, of which only the first is seeded.

Legend: E episodes of a driver (= our lanes), S steps, T tiles.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W, CarRacing
from gymnasium.utils import seeding

from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs.carracing import track
from worldmodels.envs.carracing.batch import GYMNASIUMS, Batch, Start, View
from worldmodels.envs.carracing.state import SKID_PARTICLES, Cars, Rules, Tracks, allocate

BLANK = np.zeros((STATE_H, STATE_W, 3), np.uint8)
SPARSE = 25  # tile colours and skid marks are long to read: compared every so many steps, and at the end


class UndrawnCarRacing(CarRacing):
    """Gymnasium's CarRacing without its renderer."""

    def _render(self, mode: str) -> np.ndarray:
        return BLANK


# ------------------------------------------------------------------------------------------------ drivers

Driver = Iterator[Any]
"""Yields actions of Gymnasium's environment: float32 (3,) or an int."""


def random_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Every action uniform over the action space."""
    while True:
        yield rng.uniform([-1, 0, 0], 1).astype(np.float32)


def brownian_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """A clipped random walk."""
    action = np.zeros(3)
    while True:
        action = np.clip(action + rng.normal(0, 0.14, 3), [-1, 0, 0], 1)
        yield action.astype(np.float32)


def bang_bang_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Full deflections only, held for a while."""
    while True:
        action = np.array([rng.integers(-1, 2), rng.integers(2), rng.random() < 0.2], np.float32)
        yield from [action] * int(rng.integers(2, 40))


def brake_lock_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Speed up, then lock all wheels while steering."""
    while True:
        steer = rng.uniform(-1, 1)
        yield from [np.array([0.1 * steer, 1, 0], np.float32)] * int(rng.integers(40, 120))
        yield from [np.array([steer, 0, 1], np.float32)] * int(rng.integers(20, 90))


def grass_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Off the road in the first bend, then circles on the grass with sliding tyres."""
    yield from [np.array([0.0, 0.6, 0], np.float32)] * 120
    while True:
        action = np.array([rng.uniform(-1, 1), rng.uniform(0.3, 1), 0.3 * (rng.random() < 0.2)], np.float32)
        yield from [action] * int(rng.integers(10, 120))


def playfield_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Straight away from the middle until the playfield ends, and on."""
    while True:
        x, y = env.car.hull.position
        error = _angle(math.atan2(-x, y) - env.car.hull.angle)
        yield np.array([np.clip(-2 * error, -0.4, 0.4) + rng.normal(0, 0.01), 1, 0], np.float32)


def standstill_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """A little drive, a stop, rest until the bodies sleep, and again."""
    yield from [np.zeros(3, np.float32)] * int(rng.integers(0, 100))
    while True:
        yield from [np.array([rng.uniform(-1, 1), rng.uniform(0, 1), 0], np.float32)] * int(rng.integers(1, 60))
        yield from [np.array([0, 0, 1], np.float32)] * int(rng.integers(60, 300))
        yield from [np.zeros(3, np.float32)] * int(rng.integers(60, 200))


def discrete_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """The five actions of the discrete environment, held for a while."""
    while True:
        yield from [int(rng.choice(5, p=[0.1, 0.15, 0.15, 0.5, 0.1]))] * int(rng.integers(1, 30))


def wild_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Numbers outside the action space; NaN and infinity where Gymnasium survives them (not NaN gas)."""
    values = np.array([0.0, -0.0, 0.5, 1.0, -1.0, 3.0, -7.0, 1e-30, np.inf, -np.inf, np.nan])
    while True:
        action = rng.choice(values, 3)
        action[1] = 0.7 if np.isnan(action[1]) else action[1]
        yield from [action.astype(np.float32)] * int(rng.integers(1, 40))


def lap_driver(env: CarRacing, rng: np.random.Generator) -> Driver:
    """Round the track by looking at the car's state: aims ahead, slows down for bends, wavers a little."""
    centre = np.array(env.track)  # (T,4) alpha, beta, x, y
    turn = np.abs(_angle(np.diff(centre[:, 1], append=centre[0, 1])))
    pace, at, waver = rng.uniform(1.0, 1.2), 0, 0.0
    while True:
        hull = env.car.hull
        ahead = np.arange(at, at + 15) % len(centre)
        at = int(ahead[np.argmin(np.hypot(*(centre[ahead, 2:] - hull.position).T))])
        speed = math.hypot(*hull.linearVelocity)
        dx, dy = centre[(at + 2 + int(speed / 13)) % len(centre), 2:] - hull.position
        error = _angle(math.atan2(-dx, dy) - hull.angle)
        bend = turn[(at + np.arange(10)) % len(centre)].mean()
        wanted = pace * np.clip(85 - 270 * bend, 42, 85)  # units/s
        waver = 0.9 * waver + rng.normal(0, 0.02)
        steer = np.clip(-1.2 * error + 0.15 * hull.angularVelocity + waver, -1, 1)
        gas, brake = np.clip(0.05 * (wanted - speed), 0, 0.6), np.clip(0.05 * (speed - wanted - 3), 0, 0.5)
        yield np.array([steer, gas, brake], np.float32)


def _angle(radians: Any) -> Any:
    return (radians + math.pi) % (2 * math.pi) - math.pi


DRIVERS: dict[str, Callable[[CarRacing, np.random.Generator], Driver]] = {
    "laps": lap_driver,
    "random": random_driver,
    "brownian": brownian_driver,
    "bang-bang": bang_bang_driver,
    "brake lock": brake_lock_driver,
    "long grass": grass_driver,
    "leaving the playfield": playfield_driver,
    "standing still": standstill_driver,
    "discrete": discrete_driver,
    "out-of-range actions": wild_driver,
}


# ---------------------------------------------------------------------------------------------- recording


@dataclass
class Episode:
    """What Gymnasium did: one entry per step; step 0 is the step without action inside `reset`."""

    generator_state: dict
    controls: list[np.ndarray] = field(default_factory=list)  # float64 (3,) steer, gas, brake
    states: list[dict[str, np.ndarray]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    lap_finished: bool = False
    left: bool = False
    slept: int = 0  # steps after which the bodies were asleep


def record(env: CarRacing, name: str, seed: int | None, rng: np.random.Generator, steps: int) -> Episode:
    """One episode of Gymnasium; seed None goes on with the environment's own generator."""
    env.reset(seed=seed)
    episode = Episode(env.np_random.bit_generator.state)
    driver = DRIVERS[name](env, rng)
    _note(env, episode, np.zeros(3), 0.0, False, steps)
    for _ in range(steps):
        action = next(driver)
        _, reward, terminated, _, info = env.step(action)
        _note(env, episode, _controls(action), reward, terminated, steps)
        episode.lap_finished |= info.get("lap_finished", False)
        episode.left |= not info.get("lap_finished", True)
    return episode


def _controls(action: Any) -> np.ndarray:
    """Steer, gas, brake as Gymnasium reads an action of either kind."""
    if isinstance(action, int):
        return np.array([0.6 * (action == 1) - 0.6 * (action == 2), 0.2 * (action == 3), 0.8 * (action == 4)])
    return action.astype(np.float64)


def _note(
    env: CarRacing, episode: Episode, controls: np.ndarray, reward: float, terminated: bool, steps: int
) -> None:  # fmt: skip
    sparse = len(episode.states) % SPARSE == 0 or len(episode.states) == steps
    episode.controls.append(controls)
    episode.states.append(_state(env, sparse))
    episode.rewards.append(float(reward))
    episode.terminated.append(bool(terminated))
    episode.slept += not env.car.hull.awake


def _state(env: CarRacing, sparse: bool) -> dict[str, np.ndarray]:
    """Everything that must be the same, under the names of `state.Cars` and `state.Tracks`."""
    wheels = env.car.wheels
    bodies = [env.car.hull, *wheels]
    state = {
        "position": np.array([tuple(b.position) for b in bodies], np.float32),
        "angle": np.array([b.angle for b in bodies], np.float32),
        "transform_sc": np.array([(b.transform.q.s, b.transform.q.c) for b in bodies], np.float32),
        "velocity": np.array([tuple(b.linearVelocity) for b in bodies], np.float32),
        "spin": np.array([b.angularVelocity for b in bodies], np.float32),
        "joint_angle": np.array([w.joint.angle for w in wheels], np.float32),
        "omega": np.array([w.omega for w in wheels], np.float64),
        "phase": np.array([w.phase for w in wheels], np.float64),
        "gas": np.array([w.gas for w in wheels], np.float64),
        "on_road": np.array([len(w.tiles) > 0 for w in wheels]),
        "skid_started": np.array([w.skid_start is not None for w in wheels]),
        "reward": np.array(env.reward),
        "time": np.array(env.t),
        "visited_count": np.array(env.tile_visited_count),
        "new_lap": np.array(env.new_lap),
    }
    if sparse:
        state["visited"] = np.array([t.road_visited for t in env.road])
        state["plain"] = np.array([(t.color == env.road_color).all() for t in env.road])
        for i, particle in enumerate(env.car.particles):
            state[f"skid {i}"] = np.array([*particle.poly, (particle.grass, particle.grass)], np.float32)
    return state


# ----------------------------------------------------------------------------------------------- comparing


def _ours(tracks: Tracks, cars: Cars, lane: int, name: str) -> np.ndarray:
    """Our counterpart of an entry of `_state`."""
    count = tracks.count[lane]
    if name == "visited":
        return tracks.visited[lane, :count]
    if name == "gas":  # the rear wheels drive
        return np.repeat([0.0, cars.gas[lane]], 2)
    if name == "plain":  # every third tile has the plain colour from the start
        return tracks.plain[lane, :count] | (np.arange(count) % 3 == 0)
    if name.startswith("skid "):
        slot = (max(0, cars.skid_total[lane] - SKID_PARTICLES) + int(name[5:])) % SKID_PARTICLES
        grass = cars.skid_grass[lane, slot]
        return np.array([*cars.skid_point[lane, slot, : cars.skid_length[lane, slot]], (grass, grass)], np.float32)
    return getattr(cars, name)[lane]


def first_difference(
    episodes: list[Episode], generator: np.random.Generator, num_threads: int = 1, rules: Rules = GYMNASIUMS
) -> str:
    """Replay episodes (E) in E lanes of a batch; where the first lane first differs from Gymnasium, or "".

    The generator goes through all the resets.
    """
    batch = Batch(len(episodes), rules=rules, view=View("state"), num_threads=num_threads)
    lanes = np.ones(len(episodes), np.bool_)
    for lane, episode in enumerate(episodes):
        batch.begin(np.arange(len(episodes)) == lane, [generator] * len(episodes), Start())
        if generator.bit_generator.state != episode.generator_state:
            return f"episode {lane}: the random generator"
    for step in range(len(episodes[0].states)):
        rewards, terminated = np.zeros(len(lanes)), ~lanes
        if step > 0:
            rewards, terminated = batch.advance(np.stack([episode.controls[step] for episode in episodes]), lanes)
        for lane, episode in enumerate(episodes):
            if rewards[lane] != episode.rewards[step] or terminated[lane] != episode.terminated[step]:
                return f"episode {lane}, step {step}: reward or ending"
            for name, theirs in episode.states[step].items():
                if not np.array_equal(_ours(batch.tracks, batch.cars, lane, name), theirs):
                    return f"episode {lane}, step {step}: {name}"
            if episode.states[step].keys() >= {"visited"}:
                marks = sum(name.startswith("skid ") for name in episode.states[step])
                if marks != min(batch.cars.skid_total[lane], SKID_PARTICLES):
                    return f"episode {lane}, step {step}: number of skid marks"
    return ""


def track_difference(env: CarRacing, tracks: Tracks, lane: int) -> str:
    """Compare a lane's track with the one that an environment has just been reset to; what differs, or ""."""
    count, borders = tracks.count[lane], tracks.borders[lane]
    if count != len(env.track):
        return "the number of tiles"
    if not np.array_equal(tracks.centre[lane, :count], np.array(env.track)):
        return "the centreline"
    quads, colors = zip(*env.road_poly, strict=True)
    is_border = np.array([isinstance(color, tuple) for color in colors])
    if not np.array_equal(tracks.road[lane, :count], np.array(quads)[~is_border]):
        return "the road quads"
    if borders != is_border.sum() or not np.array_equal(tracks.border[lane, :borders], np.array(quads)[is_border]):
        return "the border quads"
    follows = np.cumsum(~is_border)[is_border] - 1
    white = np.array([color == (255, 255, 255) for color in colors if isinstance(color, tuple)], np.bool_)
    if not np.array_equal(tracks.border_tile[lane, :borders], follows) or not np.array_equal(follows % 2 == 0, white):
        return "the tiles of the borders"
    for i, tile in enumerate(env.road):
        polygon = tracks.polygon[lane, i, : tracks.corners[lane, i]]
        if not np.array_equal(polygon, np.array(tile.fixtures[0].shape.vertices, np.float32)):
            return "a tile's Box2D polygon"
    return ""


# ------------------------------------------------------------------------------------------------- running


def run_tracks(seeds: int, repeats: int = 3) -> list[dict[str, Any]]:
    """Tracks of `seeds` seeds, `repeats` resets of one environment each: one table row."""
    env = UndrawnCarRacing()
    tracks, _ = allocate(1)
    differing, first, tiles = 0, "", []
    for seed in range(seeds):
        generator, _ = seeding.np_random(seed)
        for repeat in range(repeats):
            env.reset(seed=None if repeat else seed)
            tiles.append(track.generate(generator, tracks, 0))
            difference = track_difference(env, tracks, 0)
            if generator.bit_generator.state != env.np_random.bit_generator.state:
                difference = "the random generator"
            differing += bool(difference)
            first = first or (difference and f"seed {seed}, reset {repeat}: {difference}")
    env.close()
    resets = f"{seeds} seeds x {repeats} resets"
    return [
        {"tracks": resets, "tiles": f"{min(tiles)}-{max(tiles)}", "differing": differing, "first difference": first}
    ]


def run_driver(name: str, episodes: int, steps: int, num_threads: int = 1) -> dict[str, Any]:
    """Episodes of one driver: a table row. "differing" is 1 if anything differs; the first difference is named."""
    number = list(DRIVERS).index(name)
    env = UndrawnCarRacing(continuous=name != "discrete")
    rng = np.random.default_rng(number)
    recorded = [record(env, name, None if i else number, rng, steps) for i in range(episodes)]
    env.close()
    difference = first_difference(recorded, seeding.np_random(number)[0], num_threads)
    return {
        "driver": name,
        "episodes": episodes,
        "steps": steps * episodes,
        "laps": sum(e.lap_finished for e in recorded),
        "left the playfield": sum(e.left for e in recorded),
        "asleep": sum(e.slept for e in recorded),
        "tiles": sum(int(e.states[-1]["visited_count"]) for e in recorded),
        "skid marks": sum(sum(k.startswith("skid ") for k in e.states[-1]) for e in recorded),
        "differing": int(difference != ""),
        "first difference": difference,
    }


def run(episodes: int, steps: int, num_threads: int = 1) -> list[dict[str, Any]]:
    """At least `episodes` episodes of `steps` steps, divided over the drivers: a table row per driver."""
    return [run_driver(name, -(-episodes // len(DRIVERS)), steps, num_threads) for name in DRIVERS]


def main() -> None:
    """Print both tables; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=count, default=1000, help="seeds")
    parser.add_argument("--episodes", type=count, default=200)
    parser.add_argument("--steps", type=count, default=1000, help="per episode")
    args = parser.parse_args()
    rows = run_tracks(args.tracks) + run(args.episodes, args.steps)
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
    raise SystemExit(any(row["differing"] for row in rows))


if __name__ == "__main__":
    with as_a_command():
        main()
