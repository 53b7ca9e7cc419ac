"""A population that drives real episodes and keeps what V saw of them: M's food, without a second look at the frames.

`Road` has the lanes for the rounds of `train-in-dream`; an `Explorer` drives in them.

Shapes: N lanes, L of them driving now, P population, n parameters of C, Z latent, A action, E episodes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from worldmodels.agent import Agent, Eyes, Moments
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents
from worldmodels.envs import Actions, World, make, reset_options
from worldmodels.envs.seeds import SELECTION, training_seeds
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode, GiveUp, Rollout, drive
from worldmodels.runs.settings import TrainInDream
from worldmodels.vision import VAE
from worldmodels.workers.places import cores

KEPT = 0.9  # of the smooth noise from one step to the next: it fades over ten
LANES = 8  # fewest of a thread: with less to do it would be waited for


class Explorer(Agent):
    """An agent whose odd candidates waver: smooth noise on C's outputs. M reads what is really done."""

    def __init__(
        self, vae: VAE, memory: MDRNN, controller: Controller, population: np.ndarray, actions: Actions, waver: float,
        seed: int = 0,
    ):  # fmt: skip
        """As `Agent`, with V itself; `waver` is the noise's standard deviation."""
        super().__init__(Eyes(vae, encode=self.look), memory, controller, population, actions, seed)
        self.vae, self.waver = vae, waver
        self.driving: dict[int, Episode] = {}
        self.drift: dict[int, np.ndarray] = {}  # (O,) of each lane
        self.seen: dict[Episode, list[tuple[Tensor, Tensor, Tensor]]] = {}
        """z's mean (Z,), its log-variance (Z,) and the action (A,), step by step"""

    def drive(
        self, env: VectorEnv, episodes: Sequence[Episode], options: dict[str, Any] | None, give_up: GiveUp | None
    ) -> tuple[list[Latents], np.ndarray]:
        """Drive every episode once; returns them as V saw them, and their scores float64 (E,)."""
        found: dict[int, Latents] = {}

        def keep(index: int, rollout: Rollout) -> None:
            found[index] = self.latents(episodes[index], rollout)

        scores, _ = drive(env, self.actions, self, episodes, options=options, give_up=give_up, on_rollout=keep)
        return [found[index] for index in range(len(episodes))], scores

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        super().begin(lanes, episodes)
        for lane, episode in zip(lanes.tolist(), episodes, strict=True):
            self.driving[lane], self.seen[episode] = episode, []
            self.drift[lane] = np.zeros(self.controller.outputs, dtype=np.float32)

    def look(self, frames: np.ndarray) -> Moments:
        """What V says of frames; it is remembered."""
        self.said = self.vae.encode(frames)
        return self.said

    def decide(self, lanes: np.ndarray, parameters: Tensor, seen: Tensor) -> Tensor:
        wavering = np.stack([self.wavering(lane) for lane in lanes.tolist()])
        return super().decide(lanes, parameters, seen) + torch.from_numpy(wavering).to(seen)

    def wavering(self, lane: int) -> np.ndarray:
        """The noise (O,) of a lane's next step; 0 for even candidates."""
        fresh = self.noise[lane].standard_normal(self.controller.outputs, dtype=np.float32)
        self.drift[lane] = KEPT * self.drift[lane] + math.sqrt(1 - KEPT**2) * fresh
        return self.waver * (self.driving[lane].candidate % 2) * self.drift[lane]

    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = super().act(lanes, observations)
        for lane, *step in zip(lanes.tolist(), *self.said, torch.from_numpy(actions), strict=True):
            self.seen[self.driving[lane]].append(tuple(step))
        return actions

    def latents(self, episode: Episode, rollout: Rollout) -> Latents:
        """The episode that ended, as V saw it."""
        mean, logvar, actions = (torch.stack(column) for column in zip(*self.seen.pop(episode), strict=True))
        last = self.vae.encode(rollout.frames[-1:])
        mean, logvar = (torch.cat([x, end]).float() for x, end in zip((mean, logvar), last, strict=True))
        rewards, terminals = torch.from_numpy(rollout.rewards), torch.from_numpy(rollout.terminals.astype(np.float32))
        return Latents(mean, logvar, actions.float(), rewards, terminals)


class Road:
    """The lanes in which the real episodes of each round are driven, and those of selection."""

    def __init__(self, cfg: TrainInDream, actions: Actions, horizon: int):
        """`horizon`: steps of a whole episode."""
        self.cfg, self.actions, self.horizon = cfg, actions, horizon
        self.envs: dict[tuple[int, int | None], VectorEnv] = {}

    def lanes(self, count: int, max_steps: int | None) -> VectorEnv:
        key = (count, max_steps)
        if key not in self.envs:
            threads = max(1, min(cores(), count // LANES))
            self.envs[key] = make(World(self.cfg.env), count, threads=threads, max_steps=max_steps)
        return self.envs[key]

    def explore(
        self, vae: VAE, m: MDRNN, shape: Controller, population: np.ndarray, number: int
    ) -> tuple[list[Latents], np.ndarray, np.ndarray]:
        """Candidate i drives episode i of round `number`; returns them, their scores (P,), and which of them are whole,
        bool (P,). Where episodes may begin anywhere, all but the first `whole` do.
        """
        cfg, seeds = self.cfg, training_seeds(self.cfg.seed, number, count=len(population))
        explorer = Explorer(vae, m, shape, population, self.actions, cfg.waver, cfg.seed)
        whole = (np.arange(len(population)) < cfg.whole) | (cfg.start == "line")
        episodes: dict[int, Latents] = {}
        scores = np.zeros(len(population))
        for start, part, steps in (("line", whole, None), (cfg.start, ~whole, cfg.fragment)):
            if part.any():
                which = np.flatnonzero(part).tolist()
                give_up = GiveUp(cfg.give_up, steps or self.horizon) if cfg.give_up else None
                driven, scores[part] = explorer.drive(
                    self.lanes(len(which), steps), [Episode(seeds[i], i) for i in which],
                    reset_options(cfg.env, start), give_up,
                )  # fmt: skip
                episodes |= dict(zip(which, driven, strict=True))
        return [episodes[i] for i in range(len(population))], scores, whole

    def select(self, agent: Agent) -> tuple[np.ndarray, int]:
        """The selection tracks; returns the scores and the steps driven."""
        tracks = [Episode(SELECTION + i) for i in range(self.cfg.select_tracks)]
        scores, lengths = drive(self.lanes(len(tracks), None), self.actions, agent, tracks)
        return scores, int(lengths.sum())

    def close(self) -> None:
        for env in self.envs.values():
            env.close()
