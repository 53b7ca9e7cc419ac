"""The trained driver that comes with the package, whole episodes, on Gymnasium's CarRacing and on our exact frames.

    python -m conformance.driver --tracks 20

One car at a time in 32-bit floats: every frame, action, reward and therefore score must be the same.
"""

import argparse
import sys
from typing import Any

import worldmodels
from conformance.arguments import count
from conformance.closed_loop import OURS, THEIRS, Drive, episode, first_difference
from worldmodels.cli import as_a_command


def drive(env_id: str, seed: int, **view: Any) -> Drive:
    """The whole episode of one track."""
    return episode(env_id, seed, worldmodels.load_pretrained("carracing"), **view)


def run(tracks: int, first_seed: int = 500) -> list[str]:
    """Print a line per track; what differs."""
    found = []
    for seed in range(first_seed, first_seed + tracks):
        a, b = drive(THEIRS, seed), drive(OURS, seed, frames="exact")
        differing = [name for name in vars(a) if first_difference(getattr(a, name), getattr(b, name)) is not None]
        scores = f"{a.score!r} on Gymnasium, {b.score!r} on ours"
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
