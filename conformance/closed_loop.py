"""Closed loop: a driver that steers by the pixels it sees, whole episodes, on Gymnasium's CarRacing and on ours.

    python -m conformance.closed_loop --tracks 20

Open-loop agreement is not enough: a frame that differs by one grey level may turn into another action, and from there
two drives part. So the same driver drives each track on Gymnasium, on ours, and as controls twice more on Gymnasium:
with noise in the last bit of each action, and seeing frames with our renderer's error taken off instead of added (what
ours draws at that very state is known: our environment follows, step by step). If ours is faithful, its scores
scatter around Gymnasium's as the controls' do.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import worldmodels  # noqa: F401  (registers worldmodels/CarRacing-v3)
from conformance.arguments import count
from worldmodels.cli import as_a_command

OURS, THEIRS = "worldmodels/CarRacing-v3", "CarRacing-v3"
Policy = Callable[[np.ndarray], np.ndarray]  # frame uint8 (96,96,3) -> action float32 (3,)


def drive(frame: np.ndarray, pace: float = 1.0) -> np.ndarray:
    """Steer, gas, brake float32 (3,) from a frame uint8 (96,96,3): follow the grey, slow down where it bends.

    At pace 1 it scores about 880 and hardly ever slides; faster, it slides, spins and loses the road.
    """
    darkest, brightest = frame.min(axis=2).astype(np.int64), frame.max(axis=2).astype(np.int64)
    road = (brightest - darkest < 10) & (brightest > 90) & (brightest < 120)
    path, centre = [], 47.5  # columns of the road's middle, from just before the car to as far as it can be seen
    for row in range(64, 10, -2):
        columns = np.flatnonzero(road[row])
        columns = columns[np.abs(columns - centre) <= 13]
        if len(columns) < 2:
            break
        centre = columns.mean()
        path.append(centre)
    if len(path) < 3:
        return np.array([0, 0.1, 0], np.float32)
    speed = frame[84:94, 12:15].sum() / 255 * 2.63  # the white bar's area, in units/s
    look = min(len(path) - 1, 4 + int(speed / 13.5))
    bend = min(np.abs(np.array(path) - 47.5).max(), 40)
    target = pace * (70 - 1.1 * bend if len(path) >= 22 else min(70 - 1.1 * bend, 43))
    steer = 2.2 * (path[look] - 47.5) / (2 * look + 8)
    gas, brake = 0.053 * (target - speed), 0.026 * (speed - target - 4)
    return np.clip(np.array([steer, gas, brake]), [-1, 0, 0], [1, 0.6, 0.5]).astype(np.float32)


@dataclass
class Drive:
    """One episode of T steps, everything the driver saw and did."""

    frames: np.ndarray  # uint8 (T + 1,96,96,3), what each action was chosen from, and the last one
    actions: np.ndarray  # float32 (T,3)
    rewards: np.ndarray  # float64 (T,)

    @property
    def score(self) -> float:
        return float(self.rewards.sum())


def episode(
    env_id: str,
    seed: int,
    policy: Policy,
    noise: np.random.Generator | None = None,
    mirrored: bool = False,
    **view: Any,
) -> Drive:
    """One whole episode.

    Args:
        env_id: where.
        seed: the track.
        policy: who.
        noise: moves each number of each action by one unit in the last place, up or down.
        mirrored: the driver sees 2 x the frame - ours at the same state.
        view: arguments of the environment's constructor.
    """
    env, shadow = gymnasium.make(env_id, **view), gymnasium.make(OURS)
    frame, _ = env.reset(seed=seed)
    ours, _ = shadow.reset(seed=seed)
    frames, actions, rewards = [], [], []
    ended = False
    while not ended:
        if mirrored:
            frame = np.clip(2 * frame.astype(np.int64) - ours, 0, 255).astype(np.uint8)
        action = policy(frame)
        if noise is not None:
            action = np.nextafter(action, noise.choice(np.array([-2, 2], np.float32), 3))
        frames.append(frame)
        actions.append(action)
        frame, reward, terminated, truncated, _ = env.step(action)
        if mirrored:
            ours = shadow.step(action)[0]
        rewards.append(reward)
        ended = terminated or truncated
    env.close()
    return Drive(np.stack([*frames, frame]), np.stack(actions), np.array(rewards))


def first_difference(a: np.ndarray, b: np.ndarray) -> int | None:
    """First step at which two records differ (None: nowhere)."""
    steps = min(len(a), len(b))
    differs = (a[:steps] != b[:steps]).reshape(steps, -1).any(axis=1)
    if differs.any():
        return int(differs.argmax())
    return None if len(a) == len(b) else steps


@dataclass
class Row:
    """One track: the same driver on Gymnasium, on the two controls, and on ours."""

    seed: int
    gymnasium: float
    noisy: float
    mirrored: float
    ours: float
    frame: int | None
    """First step at which a pixel of ours differs from Gymnasium's."""
    action: int | None
    """First step at which the driver does something else."""
    reward: int | None
    """First step at which the reward differs."""
    replayed: bool
    """Gymnasium's own actions, replayed on ours, earn Gymnasium's rewards to the last bit."""


def replay(seed: int, actions: np.ndarray) -> np.ndarray:
    """Rewards float64 (T,) of given actions float32 (T,3) on our environment."""
    env = gymnasium.make(OURS)
    env.reset(seed=seed)
    rewards = [float(env.step(action)[1]) for action in actions]
    env.close()
    return np.array(rewards)


def compare(seed: int, policy: Policy = drive) -> Row:
    """Drive one track four times."""
    theirs = episode(THEIRS, seed, policy)
    noisy = episode(THEIRS, seed, policy, noise=np.random.default_rng(seed))
    mirrored = episode(THEIRS, seed, policy, mirrored=True)
    ours = episode(OURS, seed, policy)
    return Row(
        seed,
        theirs.score,
        noisy.score,
        mirrored.score,
        ours.score,
        first_difference(theirs.frames, ours.frames),
        first_difference(theirs.actions, ours.actions),
        first_difference(theirs.rewards, ours.rewards),
        np.array_equal(replay(seed, theirs.actions), theirs.rewards),
    )


def run(tracks: int = 20, first_seed: int = 500, policy: Policy = drive, name: str = "steady") -> list[Row]:
    """Print the table for `tracks` tracks, return its rows."""
    print(f"closed loop, {name} driver: scores, and the first step at which ours differs from Gymnasium")
    print("  seed  gymnasium  last-bit noise  mirrored error      ours | frame  action  reward  replay exact")
    rows = []
    for seed in range(first_seed, first_seed + tracks):
        row = compare(seed, policy)
        rows.append(row)
        steps = ["-" if step is None else str(step) for step in (row.frame, row.action, row.reward)]
        print(
            f"{row.seed:6d} {row.gymnasium:10.1f} {row.noisy:15.1f} {row.mirrored:15.1f} {row.ours:9.1f} | "
            f"{steps[0]:>5} {steps[1]:>7} {steps[2]:>7}  {'yes' if row.replayed else 'NO'}",
            flush=True,
        )
    scores = np.array([[row.gymnasium, row.noisy, row.mirrored, row.ours] for row in rows])
    for column, title in enumerate(("gymnasium", "last-bit noise", "mirrored error", "ours")):
        change = scores[:, column] - scores[:, 0]
        print(
            f"  {title:15} mean {scores[:, column].mean():6.1f} ± {scores[:, column].std():5.1f}; from Gymnasium's: "
            f"mean {change.mean():+6.1f} ± {change.std() / max(1, len(rows) - 1) ** 0.5:.1f} (standard error), "
            f"median |change| {np.median(np.abs(change)):.1f}, above 50 on {(np.abs(change) > 50).sum()} tracks"
        )
    return rows


def marginal(frame: np.ndarray) -> np.ndarray:
    """The driver at a pace at which it slides and often loses the road: small causes, large effects."""
    return drive(frame, pace=1.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=count, default=20)
    parser.add_argument("--first-seed", type=int, default=500)
    arguments = parser.parse_args()
    run(arguments.tracks, arguments.first_seed)
    run(arguments.tracks, arguments.first_seed, marginal, "marginal")


if __name__ == "__main__":
    with as_a_command():
        main()
