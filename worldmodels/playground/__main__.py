"""`python -m worldmodels.playground carracing` records the drives that come with the package.

Twenty short ones on as many tracks, where the starts of the shipped page lie, and one of ten seconds. The shipped
driver drives our simulator on training tracks, so that no held-out track is spent.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from worldmodels import envs, load_pretrained
from worldmodels.cli import as_a_command
from worldmodels.errors import UserError
from worldmodels.playground.starts import DRIVE, HERE, WARM_UP, choose, cut, sprite
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs.files import write_atomically

TRACKS = range(800_000, 800_100)  # training tracks (below 900,000)
ZOOMED = 60  # steps until the camera has come down to the car


def record(name: str) -> None:
    """Drive, choose and write `<name>/starts.webp` and `<name>/drive.webp` with their actions.

    Raises:
        UserError: the package has no driver of that name, or one of another environment.
    """
    agent, world = load_pretrained(name), envs.World(envs.CARRACING)
    if agent.env_id != envs.CARRACING:
        raise UserError(f"{name} drives in {agent.env_id}: only drives of {envs.CARRACING} come with the package.")
    driven: dict[int, Rollout] = {}
    env = envs.make(world, len(TRACKS), max_steps=ZOOMED + DRIVE + 100)
    episodes = [Episode(seed) for seed in TRACKS]
    drive(env, agent.actions, agent, episodes, on_rollout=driven.__setitem__)
    longest = [rollout for _, rollout in sorted(driven.items()) if len(rollout.actions) >= ZOOMED + DRIVE]
    # One moment of each track, later on each: all of them together show what a lap shows.
    moments = [ZOOMED + (37 * index) % DRIVE for index in range(len(longest))]
    short = [cut(rollout, t - WARM_UP, t) for rollout, t in zip(longest, moments, strict=True)]
    chosen = {start.frame.tobytes() for start in choose(agent, short)[0]}
    write(HERE / name / "starts.webp", [clip for clip in short if clip.frames[-1].tobytes() in chosen], quality=80)
    busiest = max(longest, key=lambda rollout: float(np.abs(rollout.actions[ZOOMED : ZOOMED + DRIVE, 0]).mean()))
    write(HERE / name / "drive.webp", [cut(busiest, ZOOMED, ZOOMED + DRIVE - 1)], quality=80)


def write(path: Path, clips: list[Rollout], quality: int) -> None:
    """A sprite of all the frames, and the actions beside it."""
    write_atomically(path, sprite(np.concatenate([clip.frames for clip in clips]), quality))
    actions = [np.round(clip.actions, 4).tolist() for clip in clips]
    write_atomically(path.with_suffix(".json"), (json.dumps({"actions": actions}) + "\n").encode())
    print(f"{path}: {len(clips)} × {len(clips[0].frames)} frames, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a driver of the package: carracing")
    record(parser.parse_args().name)


if __name__ == "__main__":
    with as_a_command():
        main()
