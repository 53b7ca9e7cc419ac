"""The whole pipeline: `run`'s settings, and what it tells each of the commands behind it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Lt

from worldmodels.runs import settings
from worldmodels.runs.bounds import Count, Needs, Seed

AGAIN = Needs("--iterations", lambda run: run.iterations > 1)
EVOLVES = Needs("--dream.rounds 0", lambda run: not run.dream.rounds)


@dataclass(frozen=True)
class Run:
    """The whole pipeline in order: collect, train V, train M, evolve C, evaluate, report."""

    logdir: str = "exp_dir"
    """The run directory; running again continues, or says that it is done."""
    env: str = settings.CARRACING
    """Any Gymnasium id with image observations; our simulator of CarRacing-v3 is evaluated on Gymnasium's own."""
    seed: Seed = 0
    device: settings.Device = "auto"
    ray: str | None = None
    """Collect, evolve and evaluate on a Ray cluster: auto, local, or HOST:PORT of its head."""
    iterations: Annotated[int, Ge(1), Lt(100)] = 1
    """The paper's iterative procedure: in every iteration after the first the driver so far gathers more episodes, V
    and M are trained on all of them, and C evolves anew. <logdir>/previous holds the iteration before."""
    early_generations: Annotated[Count, AGAIN, EVOLVES] = 25
    """Generations of C in all iterations but the last: its driver only has to see the whole track."""
    warm: Annotated[bool, AGAIN] = False
    """V and C begin as those of the iteration before, C carried over to the new V and M, instead of anew; C drives
    whole episodes from its first generation on, and searches with half the step size."""
    again: Annotated[settings.Collection, AGAIN] = field(default_factory=lambda: settings.Collection(policy="agent"))
    """How the driver of the iteration before gathers episodes."""
    collect: settings.Collection = field(default_factory=settings.Collection)
    vae: settings.VAETraining = field(default_factory=settings.VAETraining)
    mdrnn: settings.MDRNNTraining = field(default_factory=settings.MDRNNTraining)
    controller: Annotated[settings.Evolution, EVOLVES] = field(default_factory=settings.Evolution)
    dream: Annotated[settings.Dreaming, Needs("--dream.rounds", lambda run: run.dream.rounds)] = field(
        default_factory=lambda: settings.Dreaming(rounds=0)
    )
    """With rounds, C learns in the dream instead of evolving as `controller` says."""
    evaluate: settings.Evaluation = field(default_factory=settings.Evaluation)


STAGES = {  # command → the field of Run that holds its settings
    "collect": "collect",
    "train-vae": "vae",
    "train-mdrnn": "mdrnn",
    "train-controller": "controller",
    "train-in-dream": "dream",
    "evaluate": "evaluate",
}


class Stages(NamedTuple):
    """The commands behind a run, each with everything it is told."""

    collect: settings.Collect
    vae: settings.TrainVAE
    mdrnn: settings.TrainMDRNN
    controller: settings.TrainController
    dream: settings.TrainInDream
    evaluate: settings.Evaluate


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
    how, evolution, warm = run.collect, run.controller, None
    if run.iterations > 1:  # on other tracks than before
        how, gather["logdir"] = run.again, previous(run).logdir
        if run.warm:
            warm = previous(run).logdir
            evolution = dataclasses.replace(
                evolution, sigma=evolution.sigma / 2, start="line", max_steps=None, whole_after=0
            )
    evaluated = run.evaluate if run.evaluate.env else dataclasses.replace(run.evaluate, env=run.env)
    return Stages(
        settings.Collect(**vars(how), **gather),
        settings.TrainVAE(**vars(run.vae), **learn, warm=warm),
        settings.TrainMDRNN(**vars(run.mdrnn), **learn),
        settings.TrainController(**vars(evolution), **drive, env=run.env, seed=run.seed, warm=warm),
        settings.TrainInDream(**vars(run.dream), logdir=run.logdir, env=run.env, seed=run.seed),
        settings.Evaluate(**vars(evaluated), **drive),
    )


def previous(run: Run) -> Run:
    """The iteration before: a run of its own in <logdir>/previous, whose C evolves for `early_generations`."""
    return dataclasses.replace(
        run,
        logdir=f"{run.logdir}/previous",
        iterations=run.iterations - 1,
        controller=dataclasses.replace(run.controller, epochs=run.early_generations),
    )
