"""What an evaluation says: the content of evaluation.json, and its table for the terminal."""

from typing import Any

import numpy as np

from worldmodels.envs import describe
from worldmodels.runs.book import Book
from worldmodels.runs.versions import versions

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def summarise(book: Book, command: str) -> dict[str, Any]:
    """The content of evaluation.json, when every episode of the book is driven; `command` repeats it.

    `std` is the sample standard deviation (n − 1) over the episodes, `stderr` that of the mean; both are None for a
    single one, which has no spread. `lap_rate` and `crash_rate` are shares of the episodes; None where there are no
    laps, or episodes are cut.
    """
    scores = np.array([episode.score for episode in book.driven])
    laps = describe(book.key["env"]).laps and not book.key["max_steps"]
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
    return {
        "env": book.key["env"],
        "episodes": len(scores),
        "mean": float(scores.mean()),
        "std": spread,
        "stderr": None if spread is None else spread / len(scores) ** 0.5,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "percentiles": {str(q): float(np.percentile(scores, q)) for q in PERCENTILES},
        "lap_rate": float(np.mean([episode.ending == "lap" for episode in book.driven])) if laps else None,
        "crash_rate": float(np.mean([episode.crashed for episode in book.driven])) if laps else None,
        "command": command,
        **book.key,
        "commit": versions().get("commit"),
        "video": book.video,
        **book.columns(),
    }


def table(result: dict[str, Any], columns: int = 10) -> str:
    """Every score, ten a line, and what they come to."""
    seeds, scores, one = result["seeds"], result["scores"], describe(result["env"]).episode
    columns = min(columns, len(scores))
    width = max(len(str(seeds[-1])), len(one))
    lines = [f"{one:>{width}} │" + "".join(f"{f'+{i}':>8}" for i in range(columns))]
    lines.append("─" * width + "─┼" + "─" * 8 * columns)
    for i in range(0, len(scores), columns):
        row = "".join(f"{score:8.1f}" for score in scores[i : i + columns])
        lines.append(f"{seeds[i]:>{width}} │{row}")
    return "\n".join([*lines, "", *headlines(result, one)])


def headlines(result: dict[str, Any], one: str) -> list[str]:
    """Mean ± standard deviation, how sure that is, and over what; then percentiles, laps and crashes."""
    driven = f"{result['episodes']} {one}{'s' if result['episodes'] > 1 else ''} of {result['env']}"
    driven += " on Gymnasium's own frames" if result["kwargs"].get("frames") == "exact" else ""
    driven += f", cut after {result['max_steps']} steps" if result["max_steps"] else ""
    if result["std"] is None:
        return [f"{result['mean']:.1f} on {driven}"]
    found = result["percentiles"]
    more = f"median {found['50']:.1f}, 5th percentile {found['5']:.1f}, 95th {found['95']:.1f}"
    if result["lap_rate"] is not None:
        more += f"; laps finished {result['lap_rate']:.1%}, crashes {result['crash_rate']:.1%}"
    return [
        f"{result['mean']:.1f} ± {result['std']:.1f} over {driven} (standard error {result['stderr']:.1f}, "
        f"lowest {result['min']:.1f}, highest {result['max']:.1f})",
        more,
    ]
