"""Pictures of docs/results.md that are drawn from its own tables.

    python -m experiments.pictures [--output docs/images]

ablations.png has a dot for every seed; speed.png a bar for every ratio; dream_rounds.png a step for every row.
"""

import argparse
import re
from pathlib import Path

from worldmodels.cli import as_a_command

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS.parent / "images")
    output = parser.parse_args().output

    import matplotlib

    matplotlib.use("Agg")
    text = RESULTS.read_text(encoding="utf-8")
    ablations(table(text, "Ablations"), output / "ablations.png")
    speed(table(text, "Speed of the pipeline"), output / "speed.png")
    dream_rounds(table(text, "Driving learned in the dream", number=4), output / "dream_rounds.png")


def table(text: str, title: str, number: int = 1) -> list[list[str]]:
    """Table `number` under a heading, counted from 1: its rows, without the head."""
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.M)
    rows = [line.strip("|").split("|") for line in tables[number - 1].splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def numbers(cell: str) -> list[float]:
    """Every number of a cell; minus signs are typographic."""
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", cell.replace("−", "-"))]


def ablations(rows: list[list[str]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for y, (_, seeds, _, paper, article) in enumerate(rows):
        found = numbers(seeds)
        axes.scatter(found, [y] * len(found), color="C0", label="here, 25 generations" if y == 0 else None)
        for cell, below, marker, colour, name in (
            (paper, 0.2, "D", "C7", "paper, finished"),
            (article, 0.32, "s", "C1", "ReScience article, finished"),
        ):
            if cell:
                (mean, spread), label = numbers(cell), name if y == 0 else None
                axes.errorbar(mean, y + below, xerr=spread, fmt=marker, markersize=4, color=colour, label=label)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("mean of 100 tracks")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", fontsize="small")
    figure.savefig(path, dpi=110)


def dream_rounds(rows: list[list[str]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, (laps, sums) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    steps = [numbers(row[1].replace(",", ""))[0] / 1000 for row in rows]
    laps.plot(steps, [numbers(row[3])[0] for row in rows], "o-", markersize=4, label="population, noise included")
    laps.axhline(865.8, color="C1", linewidth=1, label="C in the end, 100 held-out tracks")
    laps.axhline(789, color="C7", linewidth=1, linestyle=":", label="best published check")
    laps.set(xlabel="thousand real steps", ylabel="whole laps", ylim=(0, 950))
    for column, name in ((4, "dreamed"), (5, "real")):
        sums.plot(steps, [numbers(row[column])[0] for row in rows], "o-", markersize=4, label=name)
    sums.set(xlabel="thousand real steps", ylabel="reward of 60 steps", ylim=(0, None))
    for axes in (laps, sums):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110)


def speed(rows: list[list[str]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 2.2), layout="constrained")
    works, ratios = [row[0] for row in rows], [numbers(row[4])[0] for row in rows]
    bars = axes.barh(works, ratios)
    axes.bar_label(bars, [f"{ratio:g} ×" for ratio in ratios], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(1, 1500)
    axes.set_xlabel("times as fast as ctallec's port")
    axes.invert_yaxis()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    with as_a_command():
        main()
