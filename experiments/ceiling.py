"""How fast can a lap be? Planning over the simulator's own physics with the true state, beside the shipped driver.

    python -m experiments.ceiling OUTPUT --tracks 10             # resumes; OUTPUT/ceiling.json
    python -m experiments.ceiling OUTPUT --tracks 10 --picture docs/images/ceiling.png
    python -m experiments.ceiling OUTPUT --tracks 1 --gymnasium  # the same actions in Gymnasium's environment

A plan is a line over the road and a speed at every point of it; a simple controller follows it. The cross-entropy
method looks two seconds ahead: samples of the plan are driven in copies of the car, the best of them give mean and
spread of the next samples, and a fifth of a second of the best is driven in earnest. Two laps of a track, the second
planned from the first, up to four while none beats the shipped driver; the best counts. It is a lower bound of what is
possible: a lap by Gymnasium's rules, with its score. Development tracks.

Shapes: K samples, S stations of a track, T steps of a lap. Lengths in tiles of the track (3.5 units).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

import worldmodels
from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs.carracing.batch import Batch, Start, View
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.runs.files import read_json, write_json

FIRST = DEVELOPMENT + 300
TILE = 3.5  # units
HALF = 6.67  # units: half of the road's width
LIMIT = 1000  # steps of an episode
AHEAD = 100  # tiles that a plan is looked up in
NEAR = np.arange(-5, 13)  # tiles from where a car was a moment ago
STATION = 5  # tiles from one station to the next
HOLD = 2  # steps between two decisions of the controller
PACE = 0.6  # tiles per step that a plan gains which is over before its time: faster than any lap


@dataclass(frozen=True)
class Planner:
    """Settings of the cross-entropy method and of the controller."""

    laps: tuple[int, int] = (2, 4)  # at least, at most
    samples: int = 48  # K
    rounds: int = 3
    best: int = 6
    steps: int = 110  # looked ahead
    drive: int = 10  # steps driven of the best
    stations: int = 15  # planned at a time
    aside: float = 2.0  # units: spread of the line in the first round
    faster: float = 10.0  # units/s: the same of the speed
    glide: float = 15.0  # steps for which the last velocity counts on behind the plan's end
    leaves: float = 4.0  # tiles that each unit costs by which this leads off the road
    missed: float = 50.0  # tiles that a tile left out costs: without it the lap never ends
    look: tuple[float, float] = (3.0, 0.06)  # tiles ahead of the car to which it steers: at rest, and per unit/s
    steer: float = 0.8  # wheel angle per angle to that point
    pedal: float = 0.15  # per unit/s of speed missing


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


class Road:
    """The centreline of a track, its tiles counted on around the loop."""

    def __init__(self, cars: Batch):
        self.count = int(cars.tracks.count[0])
        self.centre = cars.tracks.centre[0, : self.count, 2:4].copy()
        self.along = (np.roll(self.centre, -1, axis=0) - np.roll(self.centre, 1, axis=0)) / 2
        self.along /= np.linalg.norm(self.along, axis=1, keepdims=True)
        self.left = np.stack([-self.along[:, 1], self.along[:, 0]], axis=1)

    def near(self, points: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The tile nearest to each of points (K,2), among those around the tiles `at` (K,) only: roads come close."""
        tiles = at[:, None] + NEAR
        gaps = points[:, None] - self.centre[tiles % self.count]
        return np.take_along_axis(tiles, np.square(gaps).sum(2).argmin(1)[:, None], axis=1)[:, 0]

    def place(self, points: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(way along the road in tiles, units to the left of its middle) of points (K,2) around the tiles `at`."""
        near = self.near(points, at)
        gaps = points - self.centre[near % self.count]
        along, left = self.along[near % self.count], self.left[near % self.count]
        return near + (gaps * along).sum(1) / TILE, (gaps * left).sum(1)

    def missed(self, cars: Batch, first: int, way: np.ndarray) -> np.ndarray:
        """Tiles from `first` to two before the cars that they have not visited, (K,)."""
        tiles = np.arange(max(first - 8, 0), first + AHEAD)
        behind = tiles[None] < way[:, None] - 2
        return (behind & ~cars.tracks.visited[:, tiles % self.count]).sum(1)


class Controller:
    """Follows K plans from the tile `first` on: plans float64 (K,S,2) have aside in units and speed in units/s."""

    def __init__(self, road: Road, planner: Planner, plans: np.ndarray, first: int):
        self.road, self.planner, self.at = road, planner, np.full(len(plans), first)
        first -= 10  # a car may fall back
        tiles = np.arange(first, first + AHEAD)
        at = (tiles % road.count) / STATION
        low, share = at.astype(int), (at % 1)[None, :, None]
        stations = plans.shape[1]
        between = (1 - share) * plans[:, low % stations] + share * plans[:, (low + 1) % stations]  # (K,AHEAD,2)
        self.line = road.centre[tiles % road.count] + between[..., :1] * road.left[tiles % road.count]
        self.speed = between[..., 1]
        self.rows, self.first = np.arange(len(plans)), first

    def __call__(self, cars: Batch) -> np.ndarray:
        """Steering, gas, brake float64 (K,3)."""
        state, planner = cars.cars, self.planner
        points, velocity = state.position[:, 0].astype(np.float64), state.velocity[:, 0].astype(np.float64)
        speed = np.hypot(*velocity.T)
        self.at = self.road.near(points, self.at)
        near = (self.at - self.first).clip(0, AHEAD - 1)
        look = np.minimum(near + (planner.look[0] + planner.look[1] * speed).astype(int), AHEAD - 1)
        x, y = (self.line[self.rows, look] - points).T
        angle = np.arctan2(-x, y) - state.angle[:, 0]  # to the left of the hull
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        pedal = planner.pedal * (self.speed[self.rows, np.minimum(near + 1, AHEAD - 1)] - speed)
        steer = (-planner.steer * angle).clip(-0.4, 0.4)
        return np.ascontiguousarray(np.stack([steer, pedal.clip(0, 1), (-pedal).clip(0, 0.8)], axis=1))


def value(cars: Batch, road: Road, plans: np.ndarray, first: int, planner: Planner) -> np.ndarray:
    """What plans (K,S,2) are worth from the state that the cars are in, in tiles: progress, and where it leads to."""
    control, lanes = Controller(road, planner, plans, first), cars.everyone.copy()
    begun = float(cars.cars.time[0])
    finished = np.zeros(len(plans), bool)
    for _ in range(planner.steps // HOLD):
        _, over = cars.advance(control(cars), lanes)
        finished |= over & (np.abs(cars.cars.position[:, 0]).max(1) < 300)
        lanes &= ~over
    way, _ = road.place(cars.cars.position[:, 0].astype(np.float64), control.at)
    on = cars.cars.position[:, 0] + cars.cars.velocity[:, 0] * planner.glide / 50.0
    reached, aside = road.place(on.astype(np.float64), control.at)
    leaves = np.maximum(0, np.abs(aside) - HALF + 1)
    worth = reached - planner.leaves * leaves - planner.missed * road.missed(cars, first, way)
    spared = planner.steps - np.rint((cars.cars.time - begun) * 50)  # steps that were not needed
    return np.where(finished, road.count + PACE * (spared + planner.glide), worth)


def first_plan(road: Road) -> np.ndarray:
    """The middle of the road, slower where it bends, (S,2)."""
    heading = np.unwrap(np.arctan2(road.along[:, 1], road.along[:, 0]))
    stations = np.arange(0, road.count, STATION)
    bend = np.array([np.ptp(heading.take(range(s - 3, s + 10), mode="wrap")) % (2 * np.pi) for s in stations])
    return np.stack([np.zeros(len(stations)), (90 - 25 * np.minimum(bend, 2.0))], axis=1)


def race(seed: int, least: float, planner: Planner = Planner()) -> Lap:
    """The best of some laps, each planned from the best before; more of them while none scores `least`."""
    rng = np.random.default_rng(seed)
    view = View(observation="state")
    car, copies = Batch(1, view=view, num_threads=1), Batch(planner.samples, view=view, frame_skip=HOLD, num_threads=1)
    begin(copies, seed)
    kept, best = first_plan(Road(copies)), None
    for number in range(planner.laps[1]):
        if best is not None and number >= planner.laps[0] and best.score >= least:
            break
        begin(car, seed)
        plan = kept.copy()
        driven = lap(car, copies, plan, planner, rng)
        if best is None or driven.score > best.score:
            best, kept = driven, plan
    assert best is not None
    return best


def lap(car: Batch, copies: Batch, plan: np.ndarray, planner: Planner, rng: np.random.Generator) -> Lap:
    """Drive one lap and improve the plan (S,2) ahead of the car on the way."""
    road, score, at, over = Road(car), 0.0, 0, False
    actions, line = [], []
    action = np.zeros((1, 3))
    while not over and len(actions) < LIMIT:
        ahead = (max(at, 0) // STATION + np.arange(planner.stations)) % len(plan)
        mean, spread = plan[ahead].copy(), np.tile([planner.aside, planner.faster], (planner.stations, 1))
        best, most = mean, -np.inf
        for _ in range(planner.rounds):
            samples = mean + spread * rng.standard_normal((planner.samples, planner.stations, 2))
            samples[0], samples[1] = mean, best
            samples[..., 0] = samples[..., 0].clip(-HALF, HALF)
            plans = np.repeat(plan[None], planner.samples, axis=0)
            plans[:, ahead] = samples
            copy_state(car, copies)
            worth = value(copies, road, plans, at, planner)
            order = np.argsort(-worth)
            if worth[order[0]] > most:
                best, most = samples[order[0]], worth[order[0]]
            mean, spread = samples[order[: planner.best]].mean(0), samples[order[: planner.best]].std(0)
        plan[ahead] = best
        control = Controller(road, planner, plan[None], at)
        for step in range(planner.drive):
            action = control(car) if step % HOLD == 0 else action
            reward, ended = car.advance(action, car.everyone)
            score, over = score + float(reward[0]), bool(ended[0])
            actions.append(action[0])
            line.append([*car.cars.position[0, 0], np.hypot(*car.cars.velocity[0, 0])])
            if over or len(actions) == LIMIT:
                break
        at = int(road.near(car.cars.position[:, 0].astype(np.float64), control.at)[0])
    return Lap(score, np.array(actions), np.array(line, np.float32))


def shipped(seed: int) -> Lap:
    """The same track by the driver of the package, on Gymnasium's own frames."""
    agent, env = worldmodels.load_pretrained("carracing"), gymnasium.make("worldmodels/CarRacing-v3", frames="exact")
    agent.reset()
    frame, _ = env.reset(seed=seed)
    cars = env.unwrapped.batch.cars  # type: ignore[attr-defined]  # our simulator's
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
            driver = shipped(seed)
            laps = {"planned": race(seed, driver.score), "shipped": driver}
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
    scores = np.array(
        [[found[str(FIRST + i)][name]["score"] for name in ("planned", "shipped")] for i in range(tracks)]
    )
    for name, column in zip(("planned", "shipped", "regret"), (*scores.T, scores[:, 0] - scores[:, 1]), strict=True):
        error = column.std(ddof=1) / tracks**0.5 if tracks > 1 else np.nan
        print(f"{name}: {column.mean():.1f} ± {column.std(ddof=min(1, tracks - 1)):.1f}, standard error {error:.1f}, "
              f"{column.min():.1f} to {column.max():.1f}")  # fmt: skip
    return found


def draw(path: Path, seed: int, laps: dict[str, Any]) -> None:
    """Both lines over the track, its sharpest corner at large, and both speeds along the road."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.collections import PolyCollection

    cars = Batch(1, view=View(observation="state"), num_threads=1)
    begin(cars, seed)
    road = Road(cars)
    heading = np.unwrap(np.arctan2(road.along[:, 1], road.along[:, 0]))
    sharpest = int(np.abs(heading[8:] - heading[:-8]).argmax()) + 4
    figure, panels = plt.subplot_mosaic(
        [["whole", "corner"], ["speed", "speed"]], figsize=(9, 7.5), height_ratios=(2, 1), layout="constrained"
    )
    for name in ("whole", "corner"):
        panels[name].add_collection(PolyCollection(list(cars.tracks.road[0, : road.count]), facecolors="0.85"))
        panels[name].set_aspect("equal")
        panels[name].axis("off")
    x, y = road.centre[sharpest]
    panels["corner"].set(xlim=(x - 40, x + 40), ylim=(y - 40, y + 40))
    for (name, lap), colour in zip(laps.items(), ("C3", "C0"), strict=True):
        line = np.array(lap["line"])
        label = f"{name}: {lap['score']:.1f}, {len(line)} steps"
        for panel in ("whole", "corner"):
            panels[panel].plot(*line[:, :2].T, color=colour, linewidth=1.3, label=label)
        at = [0]
        for point in line[:, :2].astype(np.float64):
            at.append(int(road.near(point[None], np.array(at[-1:]))[0]))
        panels["speed"].plot(np.array(at[1:]) * TILE, line[:, 2], color=colour, linewidth=1.3)
    panels["whole"].autoscale_view()
    panels["whole"].legend(frameon=False, loc="upper left", fontsize=8)
    panels["speed"].set(xlabel="way along the road, units", ylabel="speed, units/s")
    panels["speed"].grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    print(f"Drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tracks", type=count, default=10)
    parser.add_argument("--gymnasium", action="store_true", help="replay the planned actions there")
    parser.add_argument("--picture", type=Path, help="of the track with the median regret")
    asked = parser.parse_args()
    found = run(asked.output, asked.tracks, asked.gymnasium)
    if asked.picture is not None:
        by_regret = sorted(found, key=lambda seed: found[seed]["planned"]["score"] - found[seed]["shipped"]["score"])
        middle = by_regret[len(by_regret) // 2]
        draw(asked.picture, int(middle), found[middle])


if __name__ == "__main__":
    with as_a_command():
        main()
