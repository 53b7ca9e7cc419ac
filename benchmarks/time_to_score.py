"""Score against wall time, from nothing: what a driver would have reached, had its training stopped earlier.

    python -m benchmarks.time_to_score RUN [RUN …] --output docs/images/time_to_score.png

Each RUN is the run directory of a finished `worldmodels run`, one a seed. The distribution's mean is rebuilt at every
tenth generation (ask and tell are replayed) and drives 100 held-out tracks (from seed 1,200,000) of our simulator, on
which scores are Gymnasium's within their error (docs/carracing.md). Time is what V, M and C took, earlier iterations
included; collecting (seconds) is left out. Prints a table and draws a curve a run.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.experiments import draw
from worldmodels import checkpoint, evolution, logs
from worldmodels.config import CARRACING
from worldmodels.population import Crew, Setting
from worldmodels.rollout import Episode

FIRST, TRACKS = 1_200_000, 100


def means(logdir: Path, every: int) -> tuple[list[int], np.ndarray]:
    """Generations, and the distribution's mean after each as C's parameters, float32 (generations, n)."""
    tensors, meta = checkpoint.load(logdir / "ctrl" / "last.safetensors")
    history, basis, asked = tensors["history"].numpy(), tensors["basis"].numpy(), meta["settings"]
    strategy = evolution.make(
        asked["strategy"], len(basis), asked["pop_size"], asked["sigma"], asked["seed"], asked["sigma_decay"]
    )
    generations, points = [], []
    for generation, mean in enumerate(evolution.replay(strategy, history), start=1):
        if generation % every == 0 or generation == len(history):
            generations.append(generation)
            points.append(mean @ basis)
    return generations, np.array(points, dtype=np.float32)


def curve(logdir: Path, every: int, already: float = 0.0) -> tuple[list[tuple[float, float, float]], float]:
    """(minutes, mean, standard deviation) of the run's drivers, earlier iterations first; and its seconds in all."""
    points: list[tuple[float, float, float]] = []
    if (logdir / "previous").exists():
        points, already = curve(logdir / "previous", every, already)
    for stage in ("vae", "mdrnn"):
        already += logs.read(logdir / stage / "metrics.jsonl")[-1]["seconds"]
    rows = {row["generation"]: row for row in logs.read(logdir / "ctrl" / "metrics.jsonl")}
    generations, population = means(logdir, every)
    crew = Crew(Setting(str(logdir), CARRACING, "zh", False, 0, 128, ("cpu",)))
    episodes = [Episode(FIRST + track, driver) for driver in range(len(population)) for track in range(TRACKS)]
    scores, _ = crew.scores(population, episodes)
    for generation, own in zip(generations, scores.reshape(len(population), TRACKS), strict=True):
        minutes = (already + rows[generation]["seconds"]) / 60
        points.append((minutes, own.mean(), own.std(ddof=1)))
        print(f"{logdir}  {minutes:6.1f} min  generation {generation:>3}  {own.mean():6.1f} ± {own.std(ddof=1):.1f}")
    return points, already + rows[generations[-1]]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("time_to_score.png"))
    parser.add_argument("--every", type=int, default=10, help="generations between two points")
    asked = parser.parse_args()
    curves = {run.name: [np.array(curve(run, asked.every)[0])[:, :2]] for run in asked.runs}
    draw(asked.output, curves, "minutes from nothing, two cores", "mean of 100 held-out tracks")


if __name__ == "__main__":
    main()
