"""The commands behind a run, and what it tells each of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from worldmodels.runs.settings import Collect, Evaluate, Run, TrainController, TrainInDream, TrainMDRNN, TrainVAE

STAGES = {  # command → the field of Run that holds its settings
    "collect": "collect",
    "train-vae": "vae",
    "train-mdrnn": "mdrnn",
    "train-controller": "controller",
    "train-in-dream": "dream",
    "evaluate": "evaluate",
}


@dataclass(frozen=True)
class Stages:
    """The commands behind a run, each with everything it is told."""

    collect: Collect
    vae: TrainVAE
    mdrnn: TrainMDRNN
    controller: TrainController
    dream: TrainInDream
    evaluate: Evaluate


def stages(run: Run) -> Stages:
    """What `run` tells its stages: its logdir, env, seed and device, and the episodes inside the logdir.

    In a further iteration, `collect` is the collection with the driver of the one before, and V and M read the episodes
    of both: all that lie below the logdir. A warm one begins with the V and C of the one before.
    """
    rollouts = f"{run.logdir}/rollouts"
    place: dict[str, Any] = {"logdir": run.logdir, "device": run.device}
    learn: dict[str, Any] = {**place, "rootdir": run.logdir if run.iterations > 1 else rollouts, "seed": run.seed}
    drive: dict[str, Any] = {**place, "ray": run.ray}
    gather: dict[str, Any] = {**drive, "rootdir": rollouts, "env": run.env, "seed": run.seed + run.iterations - 1}
    how = run.collect
    if run.iterations > 1:  # on other tracks than before
        how, gather["logdir"] = run.again, previous(run).logdir
    warm, evolution = None, run.controller
    if run.warm and run.iterations > 1:
        warm = previous(run).logdir
        evolution = dataclasses.replace(
            evolution, sigma=evolution.sigma / 2, start="line", max_steps=None, whole_after=0
        )
    evaluated = run.evaluate if run.evaluate.env else dataclasses.replace(run.evaluate, env=run.env)
    return Stages(
        Collect(**vars(how), **gather),
        TrainVAE(**vars(run.vae), **learn, warm=warm),
        TrainMDRNN(**vars(run.mdrnn), **learn),
        TrainController(**vars(evolution), **drive, env=run.env, seed=run.seed, warm=warm),
        TrainInDream(**vars(run.dream), logdir=run.logdir, env=run.env, seed=run.seed),
        Evaluate(**vars(evaluated), **drive),
    )


def previous(run: Run) -> Run:
    """The iteration before: a run of its own in <logdir>/previous, whose C evolves for `early_generations`."""
    return dataclasses.replace(
        run,
        logdir=f"{run.logdir}/previous",
        iterations=run.iterations - 1,
        controller=dataclasses.replace(run.controller, epochs=run.early_generations),
    )
