"""The whole pipeline in order, each stage where the last one stopped.

worldmodels run --preset laptop --logdir exp_dir
worldmodels run --iterations 2 --logdir exp_dir      (the paper's iterative procedure, section 5)
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodels.commands import collect, evaluate, report, train_controller, train_mdrnn, train_vae
from worldmodels.runs import record
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import Report, Run, check, previous, stages

Stage = tuple[str, str, Callable[..., None], Any]  # title, command, its main, its settings


def main(cfg: Run, begin: Callable[[], None] = lambda: None) -> None:
    """Run every stage; `begin` is called when the first is known to be good."""
    check(cfg)
    started = time.perf_counter()
    scoring: Stage = ("Evaluating on held-out tracks", "evaluate", evaluate.main, stages(cfg).evaluate)
    todo = [*training(cfg), scoring]
    for number, (title, command, stage, settings) in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {title}  ({time.perf_counter() - started:.0f} s so far)")
        if command.startswith("train"):
            stage(settings, begin=remember(command, settings, cfg))
        else:
            stage(settings)
        if number == 1:
            begin()
    report.main(Report(logdir=cfg.logdir))
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {RunDir.of(cfg.logdir).report}")


def training(cfg: Run) -> list[Stage]:
    """The stages that make V, M and C, after those of the iteration before, until its driver has begun to collect."""
    todo = stages(cfg)
    before: list[Stage] = []
    who = "at random" if todo.collect.policy != "agent" else f"with the driver of {todo.collect.logdir}"
    if cfg.iterations > 1:
        if (Path(todo.collect.rootdir) / "collect.json").exists():
            who += ", which stays as it is"
        else:
            before = training(previous(cfg))
    return [
        *before,
        (f"Collecting episodes {who}", "collect", collect.main, todo.collect),
        ("Training V", "train-vae", train_vae.main, todo.vae),
        ("Training M", "train-mdrnn", train_mdrnn.main, todo.mdrnn),
        ("Evolving C", "train-controller", train_controller.main, todo.controller),
    ]


def remember(command: str, settings: Any, cfg: Run) -> Callable[[], None]:
    """So that the single command continues with the same settings."""
    preset = record.read("run", RunDir.of(cfg.logdir)).get("preset")
    return lambda: record.write(command, settings, preset)
