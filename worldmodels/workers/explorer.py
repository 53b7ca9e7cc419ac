"""A population that drives real episodes and keeps what V saw of them: M's food, without a second look at the frames.

Shapes: N lanes, L of them driving now, P population, n parameters of C, Z latent, A action, E episodes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from worldmodels.agent import Agent, Eyes
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents
from worldmodels.envs import Actions
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode, GiveUp, Rollout, drive
from worldmodels.vision import VAE

KEPT = 0.9  # of the smooth noise from one step to the next: it fades over ten


class Witness(Eyes):
    """V, which remembers what it said last."""

    last: tuple[Tensor, Tensor]
    """z's mean and log-variance, (L, Z) each"""

    def __call__(self, observations: np.ndarray, noise: Tensor | None) -> Tensor:
        self.last = self.vae.encode(observations)
        return self.last[0]


class Explorer(Agent):
    """An agent whose odd candidates waver: smooth noise on C's outputs. M reads what is really done."""

    def __init__(
        self, vae: VAE, memory: MDRNN, controller: Controller, population: np.ndarray, actions: Actions, waver: float,
        seed: int = 0,
    ):  # fmt: skip
        """As `Agent`, with V itself; `waver` is the noise's standard deviation."""
        self.witness = Witness(vae)
        super().__init__(self.witness, memory, controller, population, actions, seed)
        self.waver = waver
        self.driving: dict[int, Episode] = {}
        self.drift: dict[int, np.ndarray] = {}  # (O,) of each lane
        self.seen: dict[Episode, list[tuple[Tensor, Tensor, Tensor]]] = {}
        """z's mean (Z,), its log-variance (Z,) and the action (A,), step by step"""

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        super().begin(lanes, episodes)
        for lane, episode in zip(lanes.tolist(), episodes, strict=True):
            self.driving[lane], self.seen[episode] = episode, []
            self.drift[lane] = np.zeros(self.controller.outputs, dtype=np.float32)

    def decide(self, lanes: np.ndarray, parameters: Tensor, seen: Tensor) -> Tensor:
        for lane in lanes.tolist():
            fresh = self.noise[lane].standard_normal(self.controller.outputs, dtype=np.float32)
            self.drift[lane] = KEPT * self.drift[lane] + math.sqrt(1 - KEPT**2) * fresh
        sizes = [self.waver * (self.driving[lane].candidate % 2) for lane in lanes.tolist()]
        drift = np.stack([size * self.drift[lane] for size, lane in zip(sizes, lanes.tolist(), strict=True)])
        return super().decide(lanes, parameters, seen) + torch.from_numpy(drift).to(seen)

    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = super().act(lanes, observations)
        for lane, *step in zip(lanes.tolist(), *self.witness.last, torch.from_numpy(actions), strict=True):
            self.seen[self.driving[lane]].append(tuple(step))
        return actions

    def latents(self, episode: Episode, rollout: Rollout) -> Latents:
        """The episode that ended, as V saw it."""
        mean, logvar, actions = (torch.stack(column) for column in zip(*self.seen.pop(episode), strict=True))
        last = self.witness.vae.encode(rollout.frames[-1:])
        mean, logvar = (torch.cat([x, end]).float() for x, end in zip((mean, logvar), last, strict=True))
        rewards, terminals = torch.from_numpy(rollout.rewards), torch.from_numpy(rollout.terminals.astype(np.float32))
        return Latents(mean, logvar, actions.float(), rewards, terminals)


def explore(
    env: VectorEnv, explorer: Explorer, episodes: Sequence[Episode], options: Mapping[str, Any] | None, give_up: GiveUp
) -> tuple[list[Latents], np.ndarray]:
    """Drive every episode once; returns them as V saw them, and their scores float64 (E,)."""
    found: dict[int, Latents] = {}

    def keep(index: int, rollout: Rollout) -> None:
        found[index] = explorer.latents(episodes[index], rollout)

    patience = give_up if give_up.after else None
    scores, _ = drive(
        env, explorer.actions, explorer, episodes, options=dict(options or {}), give_up=patience, on_rollout=keep
    )
    return [found[index] for index in range(len(episodes))], scores
