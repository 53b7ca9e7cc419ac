"""Strategies, the paper's ablations, and ideas for the evolution: the same V and M, the same environment steps.

    python -m experiments.evolution strategies RUN OUTPUT [--env-steps 1500000 --seeds 3]
    python -m experiments.evolution ablations RUN OUTPUT
    python -m experiments.evolution ideas RUN OUTPUT

RUN is a run directory with rollouts, V and M. Every arm and seed gets a run directory of its own in OUTPUT, and a core
of its own; one that was interrupted continues. At the end the driver of each drives 100 development tracks (from seed
950,000) of our simulator, on which scores are Gymnasium's within their error (docs/carracing.md). Prints a table and
draws OUTPUT/<experiment>.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np

from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.runs import metrics as logs
from worldmodels.workers.places import cores

COMMON = (
    "--pop-size 64 --n-samples 2 --batch-size 128 --start anywhere --max-steps 640 --give-up 100 --whole-after 20 "
    "--select-every 5 --select-tracks 16 --epochs 100000"
)
Arms = dict[str, tuple[str, str]]  # name → (flags of C, models left untrained)
STRATEGIES: Arms = {
    "PGPE with ClipUp": ("--strategy pgpe --sigma-decay 0.985 --directions 64", ""),
    "OpenAI-ES": ("--strategy openai-es --sigma-decay 0.985 --directions 64", ""),
    "separable CMA-ES": ("--strategy sep-cma --directions 64", ""),
    "CMA-ES": ("--strategy cma --directions 64", ""),
    "CMA-ES, all 867 weights": ("--strategy cma", ""),
}
ABLATIONS: Arms = {  # CMA-ES on all weights, as the paper
    "z and h": ("--strategy cma", ""),
    "z": ("--strategy cma --inputs z", ""),
    "z, hidden layer": ("--strategy cma --inputs z --hidden 40", ""),
    "untrained M": ("--strategy cma", "m"),
    "untrained M and V": ("--strategy cma", "vm"),
}
IDEAS: Arms = {  # the fragments' share of the steps is the same, whatever a generation costs
    "2 tracks": ("--strategy cma", ""),
    "1 track": ("--strategy cma --n-samples 1 --whole-after 40", ""),
    "4 tracks": ("--strategy cma --n-samples 4 --whole-after 10", ""),
    "8 tracks": ("--strategy cma --n-samples 8 --whole-after 5", ""),
    "never giving up": ("--strategy cma --give-up 0 --whole-after 15", ""),
    "sampled z": ("--strategy cma --sample-z", ""),
}
TRACKS = f"--env worldmodels/CarRacing-v3 --episodes 100 --seed {DEVELOPMENT}"


def worldmodels(core: int, log: Path, command: str, *flags: str) -> None:
    """Run a command on one core, its output in a file; an error ends the experiment with that file's name."""
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", "worldmodels", *command.split(), *flags], stdout=file, stderr=file,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}), env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"`worldmodels {command}` failed: see {log}")


def share(run: Path, logdir: Path, stage: str) -> None:
    """The run's V or M in another run directory."""
    (logdir / stage).mkdir(parents=True, exist_ok=True)
    shutil.copy(run / stage / "best.safetensors", logdir / stage)
    if stage == "mdrnn" and not (logdir / stage / "latents").exists():
        (logdir / stage / "latents").symlink_to((run / stage / "latents").resolve())


def trial(run: Path, logdir: Path, flags: str, untrained: str, seed: int, env_steps: int, core: int) -> None:
    """Evolve a C on the run's V and M, or on untrained ones, and drive the development tracks."""
    logdir.mkdir(parents=True, exist_ok=True)
    log, where = logdir / "log.txt", ("--logdir", str(logdir))
    for stage, letter, command in (("vae", "v", "train-vae"), ("mdrnn", "m", "train-mdrnn")):
        if letter in untrained:
            worldmodels(core, log, f"{command} --epochs 0 --seed {seed} --rootdir", str(run / "rollouts"), *where)
        else:
            share(run, logdir, stage)
    worldmodels(core, log, f"train-controller {COMMON} {flags} --seed {seed} --env-steps {env_steps}", *where)
    worldmodels(core, log, f"evaluate {TRACKS}", *where)


def on_every_core(work: list[Callable[[int], None]]) -> None:
    """Do the work, one piece a core at a time; each is called with its core."""
    free: Queue[int] = Queue()
    for core in range(cores()):
        free.put(core)

    def do(piece: Callable[[int], None]) -> None:
        core = free.get()
        try:
            piece(core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(do, work))


def compare(run: Path, output: Path, arms: Arms, seeds: int, env_steps: int, title: str) -> None:
    """All arms and seeds, the table, the picture."""
    trials = [(name, seed) for seed in range(seeds) for name in arms]
    folders = {(name, seed): output / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}" for name, seed in trials}

    def piece(name: str, seed: int) -> Callable[[int], None]:
        return lambda core: trial(run, folders[name, seed], *arms[name], seed, env_steps, core)

    on_every_core([piece(*each) for each in trials])
    print(f"{title}: {env_steps:,} environment steps, {seeds} seeds, 100 development tracks each")
    for name in arms:
        results = [json.loads((folders[name, seed] / "evaluation.json").read_text()) for seed in range(seeds)]
        means, spread = [r["mean"] for r in results], np.mean([r["std"] for r in results])
        each = ", ".join(f"{mean:.0f}" for mean in means)
        print(f"{name:<26}{np.mean(means):>7.0f}   seeds {each}   ± {spread:.0f} over tracks")
    curves = {name: [selected(folders[name, seed], "env_steps", 1e-6) for seed in range(seeds)] for name in arms}
    draw(
        output / f"{title.split()[0].lower()}.png",
        curves,
        "million environment steps",
        "mean driver on the selection tracks",
    )


def selected(logdir: Path, axis: str, scale: float) -> np.ndarray:
    """(points, 2): where, and the score of the distribution's mean on the selection tracks."""
    rows = logs.read(logdir / "ctrl" / "metrics.jsonl")
    return np.array([(row[axis] * scale, row["selected"]) for row in rows if row["selected"] is not None])


def draw(path: Path, curves: dict[str, list[np.ndarray]], x_label: str, y_label: str) -> None:
    """One colour an arm: a faint line a seed, a bold one their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (name, seeds) in enumerate(curves.items()):
        grid = np.linspace(max(s[0, 0] for s in seeds), min(s[-1, 0] for s in seeds), 60)
        for points in seeds:
            axes.plot(*points.T, color=f"C{number}", alpha=0.3, linewidth=1)
        mean = np.mean([np.interp(grid, *points.T) for points in seeds], axis=0)
        axes.plot(grid, mean, color=f"C{number}", linewidth=2.2, label=name)
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(-120, 950))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    print(f"Drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("strategies", "ablations", "ideas"))
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--env-steps", type=count, default=1_500_000)
    parser.add_argument("--seeds", type=count, default=3)
    asked = parser.parse_args()
    arms = {"strategies": STRATEGIES, "ablations": ABLATIONS, "ideas": IDEAS}[asked.experiment]
    compare(asked.run, asked.output, arms, asked.seeds, asked.env_steps, asked.experiment.capitalize())


if __name__ == "__main__":
    with as_a_command():
        main()
