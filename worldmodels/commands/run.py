"""The whole pipeline in order, each stage where the last one stopped.

worldmodels run --preset laptop --logdir exp_dir
worldmodels run --iterations 2 --logdir exp_dir      (the paper's iterative procedure, section 5)
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodels.cli import save_config
from worldmodels.commands import collect, evaluate, report, train_controller, train_mdrnn, train_vae
from worldmodels.runs import settings as config

Stage = tuple[str, str, Callable[[Any], None], Any]  # title, command, its main, its settings


def main(cfg: config.Run) -> None:
    config.check(cfg)
    started = time.perf_counter()
    stages = [
        *training(cfg),
        ("Evaluating on held-out tracks", "evaluate", evaluate.main, config.resolve(cfg).evaluate),
    ]
    for number, (title, command, stage, settings) in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {title}  ({time.perf_counter() - started:.0f} s so far)")
        if command.startswith("train"):
            save_config(command, settings)  # so that the single command continues with the same settings
        stage(settings)
    report.main(config.Report(logdir=cfg.logdir))
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {Path(cfg.logdir) / 'report.html'}")


def training(cfg: config.Run) -> list[Stage]:
    """The stages that make V, M and C, after those of the iteration before, until its driver has begun to collect."""
    run = config.resolve(cfg)
    before, who = [], "at random"
    if cfg.iterations > 1:
        who = f"with the driver of {run.collect.logdir}"
        if (Path(run.collect.rootdir) / "collect.json").exists():
            who += ", which stays as it is"
        else:
            before = training(config.previous(cfg))
    return [
        *before,
        (f"Collecting episodes {who}", "collect", collect.main, run.collect),
        ("Training V", "train-vae", train_vae.main, run.vae),
        ("Training M", "train-mdrnn", train_mdrnn.main, run.mdrnn),
        ("Evolving C", "train-controller", train_controller.main, run.controller),
    ]
