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
from worldmodels.fast_dream import Dreams, Population
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
    """Drives jobs in M. An episode's seed decides on its start, its noise and its dropout mask: all candidates meet
    the same dreams."""

    def __init__(self, setup: Dreamers, place: Place):
        self.setup, self.place = setup, place
        self.mdrnn = memory.build("M", *checkpoint.parse(setup.mdrnn, "M")).eval()
        self.dreams: Dreams | None = None

    def __call__(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome:
        """Scores are sums of the rewards that M predicts."""
        assert job.population is not None
        setup, dreams = self.setup, self.lanes(len(job.episodes))
        seeds, which = np.unique([episode.seed for episode in job.episodes], return_inverse=True)
        drawn = np.array([np.random.default_rng(seed).integers(len(setup.starts.z)) for seed in seeds])
        starts = setup.starts.arrays(drawn[which])
        dreams.begin(np.arange(dreams.lanes), seeds[which], *starts, self.masks(seeds, which))
        candidates = np.array([episode.candidate for episode in job.episodes])
        act = Population(dreams, setup.controller, job.population, candidates, setup.actions)
        returns, lengths = dreams.play(act, job.course.max_steps or setup.horizon)
        if on_step is not None:
            on_step(int(lengths.sum()))
        return Outcome(returns, lengths)

    def lanes(self, count: int) -> Dreams:
        """So many lanes, kept from one job to the next."""
        if self.dreams is None or self.dreams.lanes != count:
            self.close()
            dtype = torch.bfloat16 if self.setup.bfloat16 else torch.float32
            self.dreams = Dreams(
                self.mdrnn, count, temperature=self.setup.temperature, death=self.setup.death,
                threads=self.place.threads, dtype=dtype,
            )  # fmt: skip
        return self.dreams

    def masks(self, seeds: np.ndarray, which: np.ndarray) -> torch.Tensor | None:
        """(E, H), what each dream hides of h; None for an M without dropout."""
        drawn = [self.mdrnn.dropout_mask(1, torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return None if drawn[0] is None else torch.cat([mask for mask in drawn if mask is not None])[which]

    def close(self) -> None:
        if self.dreams is not None:
            self.dreams.close()
