"""How fast can a lap be? Planning over the simulator's own physics with the true state, beside the shipped driver.

    python -m experiments.ceiling OUTPUT --tracks 20             # resumes; OUTPUT/ceiling.json
    python -m experiments.ceiling OUTPUT --tracks 20 --picture docs/images/ceiling.webp
    python -m experiments.ceiling OUTPUT --tracks 1 --gymnasium  # the same actions in Gymnasium's environment

The cross-entropy method plans a second and a half ahead: samples of the next controls are driven in copies of the
car, the best of them give mean and spread of the next samples, and the first tenth of a second of the best plan is
driven in earnest. What it drives is a lower bound of what is possible: a lap by Gymnasium's rules, with its score.
Development tracks.

Shapes: K samples, P knots of a plan, T steps of a lap. Lengths in tiles of the track (3.5 units).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

import worldmodels
from worldmodels.envs.carracing.batch import Batch, Start, View
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.runs.files import read_json, write_json

FIRST = DEVELOPMENT + 300
KNOT = 5  # steps that one control is held
TILE = 3.5  # units
LIMIT = 1000  # steps of an episode
AHEAD = 60  # tiles within which a plan ends
DEBUG = False
PACE = 0.6  # tiles per step that a plan gains which is over before its time: faster than any lap


@dataclass(frozen=True)
class Planner:
    """Settings of the cross-entropy method."""

    samples: int = 96  # K
    knots: int = 15  # P
    rounds: int = 3
    best: int = 10
    smooth: float = 0.2  # share of the old mean and spread that is kept
    spread: float = 0.5  # of the controls at the start of each plan
    glide: float = 15.0  # steps for which the speed along the road counts on behind the plan's end
    missed: float = 50.0  # tiles that a tile left out costs: without it the lap never ends


@dataclass
class Lap:
    """What was driven on one track."""

    score: float
    actions: np.ndarray  # float64 (T,3)
    line: np.ndarray  # float32 (T,3) x, y, speed in units/s


def begin(cars: Batch, seed: int) -> None:
    """All lanes at the start of the track `seed`."""
    cars.begin(cars.everyone, [seeding.np_random(seed)[0] for _ in range(cars.num_envs)], Start())


def copy_state(one: Batch, many: Batch) -> None:
    """Every lane of `many` becomes the car of `one`; they are on the same track already."""
    for there, here in zip(many.cars, one.cars, strict=True):
        there[:] = here[0]
    many.tracks.visited[:] = one.tracks.visited[0]


def controls(plans: np.ndarray) -> np.ndarray:
    """(K,2) steering and pedal in −1…1 → steering, gas, brake float64 (K,3)."""
    steer, pedal = plans.T
    return np.ascontiguousarray(np.stack([steer, pedal.clip(0, 1), (-pedal).clip(0, 1)], axis=1))


class Road:
    """Where cars are along the centreline of their track."""

    def __init__(self, cars: Batch):
        self.count = int(cars.tracks.count[0])
        self.centre = cars.tracks.centre[0, : self.count, 2:4].copy()
        self.along = np.roll(self.centre, -1, axis=0) - self.centre  # to the next tile

    def near(self, points: np.ndarray, first: int, ahead: int) -> np.ndarray:
        """Index of the tile nearest to each of points (K,2), among those from `first` on, as a distance from tile 0."""
        tiles = np.arange(first, first + ahead)
        gaps = points[:, None] - self.centre[tiles % self.count]
        return tiles[np.square(gaps).sum(2).argmin(1)]

    def progress(self, points: np.ndarray, first: int) -> np.ndarray:
        """The same between the tiles, float64 (K,)."""
        near = self.near(points, first, AHEAD)
        along = self.along[near % self.count]
        gaps = points - self.centre[near % self.count]
        return near + (gaps * along).sum(1) / np.square(along).sum(1)

    def speed(self, cars: Batch, near: np.ndarray) -> np.ndarray:
        """Tiles per step along the road, (K,)."""
        along = self.along[near % self.count]
        return (cars.cars.velocity[:, 0] * along).sum(1) / np.square(along).sum(1) / 50

    def missed(self, cars: Batch, first: int, near: np.ndarray) -> np.ndarray:
        """Tiles between `first` and two before the cars that they have not visited, (K,)."""
        tiles = np.arange(max(first, 0), first + AHEAD)
        behind = tiles[None] < near[:, None] - 1
        return (behind & ~cars.tracks.visited[:, tiles % self.count]).sum(1)


def value(cars: Batch, road: Road, plans: np.ndarray, first: int, planner: Planner) -> np.ndarray:
    """What plans (K,P,2) are worth from the state that the cars are in, in tiles: progress, and where it leads to."""
    lanes, left = cars.everyone.copy(), np.zeros(len(plans))
    finished = np.zeros(len(plans), bool)
    for knot in range(planner.knots):
        _, over = cars.advance(controls(plans[:, knot]), lanes)
        x, y = np.abs(cars.cars.position[:, 0]).T
        finished |= over & (np.maximum(x, y) < 300)
        lanes &= ~over
        left[over] = LIMIT - cars.cars.steps[over]
        if not lanes.any():
            break
    now = cars.cars.steps.max() if lanes.any() else cars.cars.steps.min() + planner.knots * KNOT
    points = cars.cars.position[:, 0].astype(np.float64)
    progress = road.progress(points, first)
    near = progress.astype(int)
    worth = progress + planner.glide * road.speed(cars, near) - planner.missed * road.missed(cars, first, near)
    spared = now - cars.cars.steps  # steps that were not needed
    return np.where(finished, road.count + PACE * (spared + planner.glide), worth)


def race(seed: int, planner: Planner = Planner()) -> Lap:
    """Plan and drive one lap."""
    rng = np.random.default_rng(seed)
    view = View(observation="state")
    car, copies = Batch(1, view=view, num_threads=1), Batch(planner.samples, view=view, frame_skip=KNOT, num_threads=1)
    begin(car, seed)
    begin(copies, seed)
    road, score, at, over = Road(car), 0.0, 0, False
    actions, line = [], []
    mean = np.zeros((planner.knots, 2))
    mean[:, 1] = 1.0  # gas
    while not over and len(actions) < LIMIT:
        spread = np.full_like(mean, planner.spread)
        best, most = mean, -np.inf
        for _ in range(planner.rounds):
            plans = (mean + spread * rng.standard_normal((planner.samples, *mean.shape))).clip(-1, 1)
            plans[0], plans[1] = mean.clip(-1, 1), best
            copy_state(car, copies)
            worth = value(copies, road, plans, at - 3, planner)
            chosen = plans[np.argsort(-worth)[: planner.best]]
            mean = planner.smooth * mean + (1 - planner.smooth) * chosen.mean(0)
            spread = planner.smooth * spread + (1 - planner.smooth) * chosen.std(0)
            if worth.max() > most:
                best, most = chosen[0], worth.max()
        for _ in range(KNOT):
            action = controls(best[:1])
            reward, ended = car.advance(action, car.everyone)
            score, over = score + float(reward[0]), bool(ended[0])
            actions.append(action[0])
            line.append([*car.cars.position[0, 0], np.hypot(*car.cars.velocity[0, 0])])
            if over or len(actions) == LIMIT:
                break
        DEBUG and print(len(actions), at, most.round(1), line[-1][2].round(0), best[0].round(2), worth.min().round(1), flush=True)
        at = int(road.near(car.cars.position[:, 0].astype(np.float64), at - 3, AHEAD)[0])
        mean = np.concatenate([best[1:], best[-1:]])
    return Lap(score, np.array(actions), np.array(line, np.float32))


def shipped(seed: int) -> Lap:
    """The same track by the driver of the package, on Gymnasium's own frames."""
    agent, env = worldmodels.load_pretrained("carracing"), gymnasium.make("worldmodels/CarRacing-v3", frames="exact")
    agent.reset()
    frame, _ = env.reset(seed=seed)
    cars = env.unwrapped.batch.cars
    score, over, actions, line = 0.0, False, [], []
    while not over:
        actions.append(agent(frame))
        frame, reward, terminated, truncated, _ = env.step(actions[-1])
        score, over = score + float(reward), terminated or truncated
        line.append([*cars.position[0, 0], np.hypot(*cars.velocity[0, 0])])
    return Lap(score, np.array(actions, np.float64), np.array(line, np.float32))


def on_gymnasium(seed: int, actions: np.ndarray) -> float:
    """The score of the same actions in Gymnasium's environment."""
    env = gymnasium.make("CarRacing-v3")
    env.reset(seed=seed)
    return sum(float(env.step(action)[1]) for action in actions)


def run(output: Path, tracks: int, check: bool) -> dict[str, Any]:
    """Drive what has not been driven; print a line per track, and what they come to."""
    file = output / "ceiling.json"
    found: dict[str, Any] = read_json(file) if file.exists() else {}
    for seed in range(FIRST, FIRST + tracks):
        if str(seed) not in found:
            laps = {"planned": race(seed), "shipped": shipped(seed)}
            found[str(seed)] = {
                name: {"score": lap.score, "actions": lap.actions.tolist(), "line": lap.line.tolist()}
                for name, lap in laps.items()
            }
            output.mkdir(parents=True, exist_ok=True)
            write_json(file, found)
        planned, driver = (found[str(seed)][name] for name in ("planned", "shipped"))
        steps = f"{len(planned['actions'])} steps, shipped {driver['score']:.1f} in {len(driver['actions'])}"
        said = f"track {seed}: planned {planned['score']:.1f} in {steps}"
        if check:
            said += f"; on Gymnasium {on_gymnasium(seed, np.array(planned['actions'])):.1f}"
        print(said, flush=True)
    scores = np.array([[found[str(FIRST + i)][name]["score"] for name in ("planned", "shipped")] for i in range(tracks)])
    for name, column in zip(("planned", "shipped", "regret"), (*scores.T, scores[:, 0] - scores[:, 1]), strict=True):
        error = column.std(ddof=1) / tracks**0.5 if tracks > 1 else np.nan
        print(f"{name}: {column.mean():.1f} ± {column.std(ddof=min(1, tracks - 1)):.1f}, standard error {error:.1f}, "
              f"{column.min():.1f} to {column.max():.1f}")  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tracks", type=int, default=20)
    parser.add_argument("--gymnasium", action="store_true")
    asked = parser.parse_args()
    run(asked.output, asked.tracks, asked.gymnasium)
