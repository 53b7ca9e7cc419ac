"""What comes with the package, made anew in this checkout: a driver's weights, and the drives that its page shows.

    python -m experiments.shipped weights RUN carracing     the best V, M and C of a run, in 16-bit floats
    python -m experiments.shipped drives carracing          the starts and the long drive of the playground

The drives are twenty short ones on as many tracks, where the starts of the shipped page lie, and one of ten seconds.
The shipped driver drives our simulator on training tracks, so that no held-out track is spent.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from worldmodels import envs, load_pretrained, pretrained
from worldmodels.cli import as_a_command
from worldmodels.errors import UserError
from worldmodels.playground.starts import DRIVE, HERE, WARM_UP, choose, sprite
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import write_atomically

STARTS = 256  # states from which the package's drivers dream, 1.1 kB each
TRACKS = range(800_000, 800_100)  # training tracks (below 900,000)
ZOOMED = 60  # steps until the camera has come down to the car


def pack(logdir: Path, into: Path) -> None:
    """Copy the best V, M and C of the run `logdir`, and starts for dreams, into the folder `into`, in 16-bit floats.

    Raises:
        UserError: one of them is missing.
    """
    trained = {stage: checkpoint.load(RunDir.of(logdir).trained(stage)) for stage in ("vae", "mdrnn", "ctrl")}
    starts = logdir / "mdrnn" / "starts.safetensors"
    known = checkpoint.load(starts)[0] if starts.exists() else {}
    for stage, (tensors, meta) in trained.items():  # a driver of that name keeps its parts where one is missing here
        checkpoint.save(into / stage / "best.safetensors", {k: t.half() for k, t in tensors.items()}, meta)
    if known:
        few = {name: tensor[:STARTS].half() for name, tensor in known.items()}
        checkpoint.save(into / "mdrnn" / "starts.safetensors", few, {"starts": len(few["z"])})


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


def cut(rollout: Rollout, start: int, stop: int) -> Rollout:
    """Steps start … stop − 1 of a rollout, with the frames before and after each."""
    span = slice(start, stop)
    return Rollout(
        rollout.frames[start : stop + 1], rollout.actions[span], rollout.rewards[span], rollout.terminals[span]
    )


def write(path: Path, clips: list[Rollout], quality: int) -> None:
    """A sprite of all the frames, and the actions beside it."""
    write_atomically(path, sprite(np.concatenate([clip.frames for clip in clips]), quality))
    actions = [np.round(clip.actions, 4).tolist() for clip in clips]
    write_atomically(path.with_suffix(".json"), (json.dumps({"actions": actions}) + "\n").encode())
    print(f"{path}: {len(clips)} × {len(clips[0].frames)} frames, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = parser.add_subparsers(dest="made", required=True)
    weights, drives = made.add_parser("weights"), made.add_parser("drives")
    weights.add_argument("run", type=Path)
    for part in (weights, drives):
        part.add_argument("name", help="of the driver in the package")
    asked = parser.parse_args()
    if not asked.name.isidentifier():
        raise UserError(f"{asked.name!r} is no name of a driver: take letters, digits and underscores.")
    if asked.made == "weights":
        pack(asked.run, pretrained.HERE / asked.name)
    else:
        record(asked.name)


if __name__ == "__main__":
    with as_a_command():
        main()
