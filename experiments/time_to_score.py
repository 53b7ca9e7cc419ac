"""Score against wall time, from nothing: what a driver would have reached, had its training stopped earlier.

    python -m experiments.time_to_score RUN [RUN …] --output docs/images/time_to_score.png
    python -m experiments.time_to_score RUN [RUN …] --gymnasium-every 50

Each RUN is the run directory of a `worldmodels run` that was not interrupted, one per seed. The distribution's mean,
averaged as the run does, is rebuilt at every tenth generation (ask and tell are replayed) and drives 100 development
tracks (from seed 950,100) of our simulator, on which scores are Gymnasium's within their error (docs/carracing.md).
`--gymnasium-every N` then drives the same tracks in Gymnasium's own environment too, at minutes a point. Time counts
from the first episode collected, everything included. Prints a line a point and draws the curves.
"""

import argparse
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conformance.arguments import count
from experiments.evolution import draw
from worldmodels import controller, envs
from worldmodels.cli import as_a_command
from worldmodels.envs import World
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.errors import UserError
from worldmodels.evolution import strategies as evolution
from worldmodels.evolution.fitness import fitness
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json
from worldmodels.runs.metrics import tag
from worldmodels.runs.settings import CARRACING
from worldmodels.workers.driver import Course, Drivers, Models
from worldmodels.workers.places import choose_places
from worldmodels.workers.pool import open_pool

TRACKS = range(DEVELOPMENT + 100, DEVELOPMENT + 200)


def drivers(logdir: Path, every: int) -> tuple[list[int], np.ndarray, dict[str, Any]]:
    """Generations, the driver after each as C's parameters, float32 (generations, n), and C's settings."""
    tensors, meta = checkpoint.load(logdir / "ctrl" / "last.safetensors")
    best, _ = checkpoint.load(logdir / "ctrl" / "best.safetensors")
    history, asked = tensors["history"].numpy(), meta["settings"]
    basis = tensors["basis"].numpy() if "basis" in tensors else None
    searched = len(best["parameters"]) if basis is None else len(basis)
    strategy = evolution.make(
        asked["strategy"], searched, asked["pop_size"], asked["sigma"], asked["seed"], asked["sigma_decay"]
    )
    recent = deque[np.ndarray](maxlen=read_json(logdir / "config.json")["train-controller"]["average"])
    generations, points = [], []
    for generation, mean in enumerate(evolution.replay(strategy, history), start=1):
        recent.append(mean)
        if generation % every == 0:
            generations.append(generation)
            points.append(np.mean(recent, axis=0))
    population = np.reshape(points, (-1, searched))
    return generations, (population if basis is None else population @ basis).astype(np.float32), asked


def clock(logdir: Path) -> dict[int, float]:
    """Generation → when it ended, seconds of the epoch: TensorBoard keeps it."""
    events = EventAccumulator(str(logdir / "ctrl"), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.wall_time for event in events.Scalars(tag("mean"))}


def curve(logdir: Path, every: int, env: str, started: float | None = None) -> list[tuple[float, float]]:
    """(minutes, mean score) of the run's drivers, earlier iterations first, a NaN after each; prints them."""
    points: list[tuple[float, float]] = []
    if started is None:
        collected = list(logdir.glob("**/rollouts/collect.json"))
        if not collected:
            raise UserError(f"{logdir} is no run of `worldmodels run`: its rollouts say when it began.")
        started = max(collected, key=lambda path: len(path.parts)).stat().st_mtime  # written before the first episode
    if (logdir / "previous").exists():
        points = curve(logdir / "previous", every, env, started)
        points += [(points[-1][0], np.nan)] if points else []  # a gap: C starts anew
    ended = clock(logdir)
    generations, population, asked = drivers(logdir, every)
    if not generations:
        return points
    run, batched = RunDir(logdir), envs.find(env).batched
    places = choose_places(torch.device("cpu"), 0, batched)
    shape, _, _ = controller.load(run)
    models = Models.of(run, shape, asked["sample_z"], asked["seed"])
    with open_pool(Drivers(World(env), 64, models), places) as pool:
        scores, _ = fitness(pool, population, TRACKS, Course(), 64)
    for generation, own in zip(generations, scores, strict=True):
        minutes, mean, std = (ended[generation] - started) / 60, own.mean(), own.std(ddof=1)
        points.append((minutes, mean))
        print(f"{logdir}  {minutes:6.1f} min  generation {generation:>3}  {mean:6.1f} ± {std:.1f}", flush=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("time_to_score.png"))
    parser.add_argument("--every", type=count, default=10, help="generations between two points")
    parser.add_argument("--gymnasium-every", type=int, default=0, help="the same on Gymnasium's own (0: not at all)")
    asked = parser.parse_args()
    curves = {}
    for name, env, every in (
        ("our simulator", CARRACING, asked.every),
        ("Gymnasium's CarRacing-v3", "CarRacing-v3", asked.gymnasium_every),
    ):
        if every:
            print(name)
            curves[name] = [np.array(curve(run, every, env)) for run in asked.runs]
            if short := [str(run) for run, points in zip(asked.runs, curves[name], strict=True) if not len(points)]:
                parser.error(f"{', '.join(short)}: fewer than {every} generations, so there is no point to draw.")
            draw(asked.output, curves, "minutes from nothing, two cores", "mean of 100 development tracks")


if __name__ == "__main__":
    with as_a_command():
        main()
