"""Score against all environment steps from nothing, of runs whose C learned in the dream.

    python -m experiments.sample_efficiency RUN [RUN …] [--output docs/images/sample_efficiency.png]

Each RUN is the run directory of a `worldmodels run --preset dream`. A point is the mean of the population's whole laps
over five rounds, noise on its weights and actions included; a dot the average of C on the selection tracks. All real
steps count: the frames of V, the episodes of every round, and selection. Beside them what `laptop` and a port of
DreamerV3 have (docs/results.md). Prints the points and draws them.
"""

import argparse
from pathlib import Path

import numpy as np

from worldmodels.cli import as_a_command
from worldmodels.errors import UserError
from worldmodels.runs import metrics

BLOCK = 5  # rounds of a point
LAPTOP = ((40, 240), (200, 404), (459, 560), (736, 687), (2600, 821))  # thousand steps, V's 54 not among them; score
DREAMERV3 = ((350, 885), (600, 915))  # one seed, training returns


def curve(rows: list[metrics.Row]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the population and dots of selection: thousand real steps and score, float64 (points, 2) each."""
    blocks = [rows[i : i + BLOCK] for i in range(0, len(rows) - BLOCK + 1, BLOCK)]
    points = [(float(block[-1]["env_steps"] or 0) / 1000, np.mean([row["mean"] for row in block])) for block in blocks]
    dots = [(float(row["env_steps"] or 0) / 1000, row["selected"]) for row in rows if row["selected"] is not None]
    return np.array(points, dtype=float).reshape(-1, 2), np.array(dots, dtype=float).reshape(-1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs/images/sample_efficiency.png"))
    asked = parser.parse_args()
    for run in asked.runs:
        if not metrics.read(run / "ctrl" / "metrics.jsonl", "generation"):
            raise UserError(f"{run} holds no C that has learned: nothing was drawn.")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for number, run in enumerate(asked.runs):
        points, dots = curve(metrics.read(run / "ctrl" / "metrics.jsonl", "generation"))
        print(run, *(f"{steps:.0f}k {score:.0f}" for steps, score in points), sep="  ")
        print("  selection", *(f"{steps:.0f}k {score:.0f}" for steps, score in dots), sep="  ")
        first = number == 0
        axes.plot(*points.T, "-", color="C0", label="dream: population, noise included" if first else None)
        axes.plot(*dots.T, "o", color="C0", label="dream: C's average, selection tracks" if first else None)
    axes.plot(*np.array(LAPTOP, dtype=float).T, "s--", color="C7", markersize=4, label="laptop, steps of V not counted")
    axes.plot(*np.array(DREAMERV3, dtype=float).T, "D", color="C1", label="a port of DreamerV3")
    axes.set(xscale="log", xlabel="thousand environment steps", ylabel="score", ylim=(0, 950))
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(asked.output, dpi=110)


if __name__ == "__main__":
    with as_a_command():
        main()
