"""A worker that drives in the dream: the same jobs and outcomes as a `Driver`'s, so that evolution cannot tell.

Shapes: E episodes, each of them one dream.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worldmodels import memory
from worldmodels.controller import Controller
from worldmodels.dream import Starts
from worldmodels.envs import Actions
from worldmodels.fast_dream import BLOCK, Dreams, Population
from worldmodels.runs import checkpoint
from worldmodels.workers.driver import Job, Outcome
from worldmodels.workers.places import Place


@dataclass(frozen=True)
class Dreamers:
    """The setup of workers that dream: everything but the jobs."""

    mdrnn: bytes
    """M's checkpoint."""
    starts: Starts
    """Real states from which dreams begin."""
    controller: Controller
    actions: Actions
    temperature: float
    horizon: int
    """Steps of a dream, if it does not end before."""
    bfloat16: bool = False
    """Of M's products."""
    death: float = memory.DEATH_LOGIT
    """M's logit of the end above which a dream ends."""

    def __call__(self, place: Place) -> "Dreamer":
        return Dreamer(self, place)


class Dreamer:
    """Drives jobs in M, a block of lanes a thread. An episode's seed decides on its start, its noise and its dropout
    mask: all candidates meet the same dreams."""

    def __init__(self, setup: Dreamers, place: Place):
        self.setup = setup
        self.mdrnn = memory.build("M", *checkpoint.parse(setup.mdrnn, "M")).eval()
        self.dreams = Dreams(
            self.mdrnn, BLOCK * place.threads, temperature=setup.temperature, death=setup.death, threads=place.threads,
            dtype=torch.bfloat16 if setup.bfloat16 else torch.float32,
        )  # fmt: skip

    def __call__(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome:
        """Scores are sums of the rewards that M predicts."""
        assert job.population is not None
        setup = self.setup
        act = Population(self.dreams, setup.controller, job.population, setup.actions)
        candidates = np.array([episode.candidate for episode in job.episodes])
        seeds, which = np.unique([episode.seed for episode in job.episodes], return_inverse=True)
        drawn = np.array([np.random.default_rng(seed).integers(len(setup.starts.z)) for seed in seeds])
        returns, lengths = self.dreams.play(
            act, candidates, job.course.max_steps or setup.horizon,
            seeds[which], setup.starts.arrays(drawn[which]), self.masks(seeds, which),
        )  # fmt: skip
        if on_step is not None:
            on_step(int(lengths.sum()))
        return Outcome(returns, lengths)

    def masks(self, seeds: np.ndarray, which: np.ndarray) -> np.ndarray | None:
        """(E, H), what each dream hides of h; None for an M without dropout."""
        drawn = (self.mdrnn.dropout_mask(1, torch.Generator().manual_seed(int(seed))) for seed in seeds)
        masks = [mask.numpy() for mask in drawn if mask is not None]
        return np.concatenate(masks)[which] if masks else None

    def close(self) -> None:
        self.dreams.close()
