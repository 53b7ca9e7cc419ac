"""The trained driver that comes with the package, whole episodes, on Gymnasium's CarRacing and on our exact frames.

    python -m conformance.driver --tracks 20

One car at a time in 32-bit floats: every frame, action, reward and therefore score must be the same.
"""

import argparse
import sys
from typing import NamedTuple

import gymnasium
import numpy as np

import worldmodels
from conformance.closed_loop import OURS, THEIRS, first_difference
from worldmodels.cli import as_a_command, count


class Drive(NamedTuple):
    """One episode of T steps."""

    frames: np.ndarray  # uint8 (T + 1,96,96,3)
    actions: np.ndarray  # float32 (T,3)
    rewards: np.ndarray  # float64 (T,)


def drive(env: gymnasium.Env, seed: int) -> Drive:
    """The whole episode of one track."""
    agent = worldmodels.load_pretrained("carracing")
    agent.reset()
    frame, _ = env.reset(seed=seed)
    frames, actions, rewards = [frame], [], []
    ended = False
    while not ended:
        actions.append(agent(frames[-1]))
        frame, reward, terminated, truncated, _ = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        ended = terminated or truncated
    return Drive(np.stack(frames), np.stack(actions), np.array(rewards))


def run(tracks: int, first_seed: int = 500) -> list[str]:
    """Print a line per track; what differs."""
    theirs, ours = gymnasium.make(THEIRS), gymnasium.make(OURS, frames="exact")
    found = []
    for seed in range(first_seed, first_seed + tracks):
        a, b = drive(theirs, seed), drive(ours, seed)
        differing = [name for name in Drive._fields if first_difference(getattr(a, name), getattr(b, name)) is not None]
        scores = f"{float(a.rewards.sum())!r} on Gymnasium, {float(b.rewards.sum())!r} on ours"
        print(f"track {seed}: {scores}; differing: {', '.join(differing) or 'nothing'}", flush=True)
        found += [f"track {seed}: {name} differ" for name in differing]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=count, default=20)
    parser.add_argument("--first-seed", type=int, default=500)
    arguments = parser.parse_args()
    return int(bool(run(arguments.tracks, arguments.first_seed)))


if __name__ == "__main__":
    with as_a_command():
        sys.exit(main())
