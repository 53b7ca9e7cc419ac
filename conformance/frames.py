"""Our frames beside Gymnasium's at identical states: the table of errors, and the side-by-side picture.

    python -m conformance.frames --frames 3500
    python -m conformance.frames --picture docs/images/carracing_renderers.png
    python -m conformance.frames --speed

Gymnasium drives; at chosen steps its state is copied into our arrays and both draw that instant. Neither our physics
nor our tracks take part, so a difference seen here is a difference of drawing.

Legend: F frames, S = 96 or 64 pixels.
"""

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gymnasium.envs.box2d import car_racing

from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs.carracing.render import Painter
from worldmodels.envs.carracing.state import PLAYFIELD, SIZE, WHEELPOS, Cars, Tracks, allocate
from worldmodels.envs.carracing.video import draw_video

CAR_CROP = (slice(65, 79), slice(42, 54))
"""Rows and columns of the 96x96 frame around the car once the camera has zoomed in."""

MEAN_LIMIT = 0.10  # of 255, mean absolute error of all pixels and channels
OFF_LIMIT = 0.1  # per cent of pixels with a channel off by more than 16
CAR_LIMIT = 2.5  # of 255, mean absolute error inside CAR_CROP


class Episode(NamedTuple):
    """How Gymnasium is driven while frames are taken."""

    name: str
    seed: int
    policy: str  # a key of POLICIES
    steps: int
    domain_randomize: bool = False
    score: float = 0.0  # added to the score that the frame shows


EPISODES = (
    Episode("lap", 1, "lap", 1000),
    Episode("fast, skidding", 2, "fast", 800),
    Episode("random walk", 3, "brown", 500),
    Episode("spinning", 4, "spin", 500),
    Episode("off the playfield", 5, "leave", 900),
    Episode("long grass", 6, "grass", 600, score=-350.0),
    Episode("random colours", 7, "lap", 600, domain_randomize=True, score=900.0),
    Episode("random colours, fast", 8, "fast", 500, domain_randomize=True),
    Episode("anywhere", 9, "anywhere", 400),
    Episode("anywhere, random colours", 10, "anywhere", 400, domain_randomize=True),
)


class Row(NamedTuple):
    """One line of the table; errors are absolute, of 255, and those of the fast frames, but for `exact`."""

    name: str
    frames: int
    exact: int  # pixels of all exact frames, of 96 and of 64, that differ at all
    mean_96: float
    mean_64: float
    off_96: float  # per cent of pixels with a channel off by more than 16
    off_64: float
    bar: float  # mean over the bar at the bottom
    car: float  # mean over CAR_CROP
    video: float  # mean over the 600x400 pictures compared (every 20th frame)


def follow(env: car_racing.CarRacing, cruise: float) -> np.ndarray:
    """Steer for the centreline some tiles ahead at about `cruise` units/s; action (3,) float32."""
    hull = env.car.hull
    track = np.array(env.track)[:, 2:4]
    nearest = int(np.argmin(np.hypot(*(track - np.array(hull.position)).T)))
    target = track[(nearest + 6) % len(track)] - np.array(hull.position)
    bearing = math.atan2(-target[0], target[1]) - hull.angle
    bearing = (bearing + math.pi) % (2 * math.pi) - math.pi
    speed = math.hypot(*hull.linearVelocity)
    return np.array([np.clip(-1.5 * bearing, -1, 1), 0.3 * (speed < cruise), 0.3 * (speed > cruise * 1.3)], np.float32)


def brown(env: car_racing.CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that favours the throttle; action (3,) float32."""
    return np.array([rng.uniform(-1, 1), rng.uniform(0, 1), rng.uniform(0, 0.15)], np.float32)


def anywhere(env: car_racing.CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Put the car somewhere, mostly near the track, at any angle and any time of the zoom; action (3,) float32."""
    spot = np.array(env.track[rng.integers(len(env.track))][2:4]) + rng.normal(0, 8, 2)
    if rng.random() < 0.2:
        spot = rng.uniform(-PLAYFIELD, PLAYFIELD, 2)
    hull, angle = env.car.hull, float(rng.uniform(-7, 7))
    hull.position, hull.angle = spot.tolist(), angle
    hull.linearVelocity, hull.angularVelocity = rng.normal(0, 30, 2).tolist(), float(rng.normal(0, 2))
    for wheel, (x, y) in zip(env.car.wheels, WHEELPOS, strict=True):
        wheel.position = hull.GetWorldPoint((x * SIZE, y * SIZE))
        wheel.angle = angle + float(rng.uniform(-0.4, 0.4)) * (y > 0)
        wheel.omega, wheel.phase = float(rng.normal(0, 60)), float(rng.uniform(-50, 50))
    env.t = float(rng.uniform(0, 1)) if rng.random() < 0.3 else 2.0
    env.reward = float(rng.uniform(-200, 1200))
    return np.zeros(3, np.float32)


POLICIES = {
    "lap": lambda env, step, rng: follow(env, 45.0),
    "fast": lambda env, step, rng: follow(env, 95.0),
    "brown": brown,
    "spin": lambda env, step, rng: np.array([1.0 if step % 200 < 120 else -1.0, 1.0, 0.0], np.float32),
    "leave": lambda env, step, rng: np.array([0.12 if step < 60 else 0.0, 0.4, 0.0], np.float32),
    "anywhere": anywhere,
    "grass": lambda env, step, rng: np.array([0.3 * math.sin(step / 40), 1.0, 0.95 * (step % 150 > 140)], np.float32),
}


class Posing(car_racing.CarRacing):
    """Gymnasium's CarRacing that draws only the steps it is asked for (drawing is 99% of its time)."""

    wanted = False
    state_copy: tuple[Tracks, Cars] | None = None

    def _render(self, mode: str) -> np.ndarray:
        if mode != "state_pixels":
            return super()._render(mode)
        if not self.wanted:
            return np.zeros((96, 96, 3), np.uint8)
        self.state_copy = allocate(1)
        copy_state(self, *self.state_copy, 0)
        return super()._render(mode)


def copy_state(env: car_racing.CarRacing, tracks: Tracks, cars: Cars, lane: int) -> None:
    """Write what Gymnasium's environment would draw now into one lane of our arrays."""
    count = len(env.track)
    tracks.count[lane] = count
    tracks.centre[lane, :count] = env.track
    tile = border = 0
    for corners, color in env.road_poly:
        if isinstance(color, tuple):  # a border: a constant colour; a tile: the body's own array
            tracks.border[lane, border] = corners
            tracks.border_tile[lane, border] = tile - 1
            border += 1
        else:
            tracks.road[lane, tile] = corners
            tracks.plain[lane, tile] = bool(np.all(color == env.road_color)) and tile % 3 != 0
            tile += 1
    tracks.borders[lane] = border
    tracks.road_color[lane], tracks.bg_color[lane] = env.road_color, env.bg_color
    tracks.grass_color[lane] = env.grass_color
    for index, body in enumerate([env.car.hull, *env.car.wheels]):
        cars.position[lane, index] = body.transform.position
        cars.angle[lane, index] = body.angle
        cars.transform_sc[lane, index] = body.transform.q.s, body.transform.q.c
        cars.velocity[lane, index] = body.linearVelocity
        cars.spin[lane, index] = body.angularVelocity
    for index, wheel in enumerate(env.car.wheels):
        cars.omega[lane, index], cars.phase[lane, index] = wheel.omega, wheel.phase
        cars.joint_angle[lane, index] = wheel.joint.angle
    cars.time[lane], cars.reward[lane] = env.t, env.reward
    for index, particle in enumerate(env.car.particles):
        points = particle.poly
        cars.skid_point[lane, index, : len(points)] = points
        cars.skid_length[lane, index] = len(points)
        cars.skid_grass[lane, index] = particle.grass
    cars.skid_total[lane] = len(env.car.particles)


def steps_to_draw(steps: int, frames: int) -> set[int]:
    """About `frames` steps of an episode, a fifth of them in the first second, where the camera zooms."""
    early = np.linspace(0, 52, max(1, frames // 5)).astype(int)
    late = np.linspace(53, steps - 1, max(1, frames - len(early))).astype(int)
    return {*early.tolist(), *late.tolist()}


def pose(episode: Episode, frames: int) -> Iterator[tuple[int, np.ndarray, Tracks, Cars, car_racing.CarRacing]]:
    """Drive an episode; yield step, Gymnasium's frame (96,96,3) uint8, the state it was drawn from, the environment."""
    env = Posing(domain_randomize=episode.domain_randomize)
    rng = np.random.default_rng(episode.seed)
    chosen = steps_to_draw(episode.steps, frames)
    env.reset(seed=episode.seed)
    env.reward = env.prev_reward = episode.score
    for step in range(episode.steps):
        env.wanted = step in chosen
        frame = env.step(POLICIES[episode.policy](env, step, rng))[0]
        if env.wanted:
            yield step, frame, *env.state_copy, env
        if max(abs(env.car.hull.position[0]), abs(env.car.hull.position[1])) > PLAYFIELD:
            break
    env.close()


def average_64(frames: np.ndarray) -> np.ndarray:
    """uint8 (F,96,96,3) to (F,64,64,3): each pixel the mean of the 1.5 x 1.5 pixels it covers, rounded half up."""
    start, pixel = 1.5 * np.arange(64)[:, None], np.arange(96)[None]
    cover = np.clip(np.minimum(start + 1.5, pixel + 1) - np.maximum(start, pixel), 0, 1)  # (64, 96)
    rows = np.tensordot(2 * cover, frames.astype(np.float64), (1, 1))  # (64, F, 96, 3)
    ninths = np.tensordot(rows, 2 * cover, (2, 1)).transpose(1, 0, 3, 2)
    return np.floor(ninths / 9 + 0.5 + 1e-9).astype(np.uint8)


@functools.cache
def painter(size: int, exact: bool = False) -> Painter:
    """Kept because its tables take a moment."""
    return Painter(size, exact)


def differing(frame: np.ndarray, tracks: Tracks, cars: Cars) -> int:
    """Pixels of our exact frames that are not Gymnasium's."""
    at_96 = painter(96, exact=True).draw(tracks, cars, 0) != frame
    at_64 = painter(64, exact=True).draw(tracks, cars, 0) != average_64(frame[None])[0]
    return int(at_96.any(axis=-1).sum() + at_64.any(axis=-1).sum())


def compare(frame: np.ndarray, tracks: Tracks, cars: Cars) -> np.ndarray:
    """Errors of one fast frame in the order of Row's fields from mean_96 to car: float64 (6,)."""
    at_96 = np.abs(painter(96).draw(tracks, cars, 0).astype(int) - frame)
    at_64 = np.abs(painter(64).draw(tracks, cars, 0).astype(int) - average_64(frame[None])[0])
    off = [100 * (error.max(axis=-1) > 16).mean() for error in (at_96, at_64)]
    return np.array([at_96.mean(), at_64.mean(), *off, at_96[84:].mean(), at_96[CAR_CROP].mean()])


def run(frames: int) -> list[Row]:
    """Compare about `frames` frames; a row per episode, one for the first second of all, one for all."""
    rows, every, early = [], [], []
    videos: list[float] = []
    exact = exact_early = 0
    for episode in EPISODES:
        errors, video, off = [], [], 0
        for _, frame, tracks, cars, env in pose(episode, max(2, round(frames / len(EPISODES) * 1.25))):
            errors.append(compare(frame, tracks, cars))
            here = differing(frame, tracks, cars)
            off += here
            if cars.time[0] < 1.0 and episode.policy != "anywhere":
                early.append(errors[-1])
                exact_early += here
            if len(errors) % 20 == 1:
                copy_state(env, tracks, cars, 0)
                picture = env._render("rgb_array")
                video.append(float(np.abs(picture.astype(int) - draw_video(tracks, cars, 0)).mean()))
        exact += off
        rows.append(Row(episode.name, len(errors), off, *np.mean(errors, axis=0), float(np.mean(video))))
        every += errors
        videos += video
    rows.append(Row("all in their first second", len(early), exact_early, *np.mean(early, axis=0), math.nan))
    rows.append(Row("all", len(every), exact, *np.mean(every, axis=0), float(np.mean(videos))))
    return rows


def failures(rows: list[Row]) -> list[str]:
    """What of the last row, all frames, lies beyond its limit."""
    limits = {"exact": 0, "mean_96": MEAN_LIMIT, "mean_64": MEAN_LIMIT}
    limits |= {"off_96": OFF_LIMIT, "off_64": OFF_LIMIT, "car": CAR_LIMIT}
    return [
        f"{name} {getattr(rows[-1], name):.3f} > {limit}"
        for name, limit in limits.items()
        if getattr(rows[-1], name) > limit
    ]


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'episode':26s} frames  exact  mean 96  mean 64  >16 at 96  >16 at 64     bar     car   video"]
    for row in rows:
        lines.append(
            f"{row.name:26s} {row.frames:6d} {row.exact:6d} {row.mean_96:8.4f} {row.mean_64:8.4f} {row.off_96:9.4f}%"
            f" {row.off_64:9.4f}% {row.bar:7.3f} {row.car:7.3f} {row.video:7.4f}"
        )
    return "\n".join(lines)


def side_by_side(episode: Episode, wanted: int) -> np.ndarray:
    """Gymnasium's frame, ours, and eight times their difference, one below the other, uint8 (300,100,3)."""
    for step, frame, tracks, cars, _ in pose(episode, episode.steps // 2):
        if step >= wanted:
            ours = painter(96).draw(tracks, cars, 0)
            difference = np.minimum(8 * np.abs(ours.astype(int) - frame), 255).astype(np.uint8)
            parts = [np.pad(part, ((0, 4), (0, 4), (0, 0)), constant_values=255) for part in (frame, ours, difference)]
            return np.concatenate(parts)
    raise ValueError(f"{episode.name} ends before step {wanted}")


def save_picture(path: Path) -> None:
    """Four typical instants: Gymnasium's frame above, ours in the middle, their difference (x 8) below."""
    from PIL import Image

    instants = ((EPISODES[0], 30), (EPISODES[0], 420), (EPISODES[3], 300), (EPISODES[6], 300))
    columns = [side_by_side(episode, wanted) for episode, wanted in instants]
    picture = Image.fromarray(np.concatenate(columns, axis=1)[:-4, :-4])
    picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    picture.save(temporary, optimize=True)
    os.replace(temporary, path)


def print_speed() -> None:
    """Frames per second on one core (processor time): 64 instants past the zoom, drawn over and over."""
    lanes = []
    for episode in EPISODES[:8]:
        lanes += [(tracks, cars) for _, _, tracks, cars, _ in pose(episode, 16) if cars.time[0] >= 1.0][:8]
    for exact, size in ((False, 96), (False, 64), (True, 96), (True, 64)):
        seconds = []
        for _ in range(100):
            start = time.process_time()
            for tracks, cars in lanes:
                painter(size, exact).draw(tracks, cars, 0)
            seconds.append((time.process_time() - start) / len(lanes))
        best, middle = min(seconds[1:]), float(np.median(seconds))
        name = f"{'exact' if exact else 'fast'} {size}x{size}"
        print(f"{name}: {1 / middle:,.0f} frames/s ({1e6 * middle:.1f} us; at best {1e6 * best:.1f} us)")


def main() -> int:
    """Command line; exit code 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=count, default=3500)
    parser.add_argument("--picture", type=Path, help="write the side-by-side picture instead")
    parser.add_argument("--speed", action="store_true", help="time the renderer instead")
    options = parser.parse_args()
    if options.speed:
        print_speed()
        return 0
    if options.picture:
        save_picture(options.picture)
        return 0
    rows = run(options.frames)
    print(table(rows))
    print("\n".join(failures(rows)) or "within the limits")
    return 1 if failures(rows) else 0


if __name__ == "__main__":
    with as_a_command():
        sys.exit(main())
