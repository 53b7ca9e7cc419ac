"""The whole pipeline in order, each stage where the last one stopped.

worldmodels run --preset laptop --logdir exp_dir
"""

import dataclasses
import time
from pathlib import Path

from worldmodels import config
from worldmodels.cli import save_config
from worldmodels.commands import collect, evaluate, report, train_controller, train_mdrnn, train_vae


def main(cfg: config.Run) -> None:
    run = config.resolve(cfg)
    started = time.perf_counter()
    stages = [
        ("Collecting episodes", collect.main, "collect", run.collect),
        ("Training V", train_vae.main, "train-vae", run.vae),
        ("Training M", train_mdrnn.main, "train-mdrnn", run.mdrnn),
        ("Evolving C", train_controller.main, "train-controller", run.controller),
        ("Evaluating on held-out tracks", evaluate.main, "evaluate", run.evaluate),
    ]
    for number, (title, stage, command, settings) in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {title}  ({time.perf_counter() - started:.0f} s so far)")
        if dataclasses.is_dataclass(settings) and command.startswith("train"):
            save_config(command, settings)  # so that the single command continues with the same settings
        stage(settings)  # type: ignore[operator]
    report.main(config.Report(logdir=cfg.logdir))
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {Path(cfg.logdir) / 'report.html'}")
