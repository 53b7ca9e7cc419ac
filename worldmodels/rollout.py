"""THE loop over any vector environment: it collects episodes and scores populations.

Shapes: N lanes, L lanes still driving (L ≤ N), E episodes, A action size.

A lane drives one episode after another until none is left, then rests; only the lanes still driving reach the
policy. An episode is known by its seed alone: how many lanes there are, and which of them drives it, changes
nothing about what the environment returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv

from worldmodels.envs import ActionKind

HELD_OUT = 1_000_000  # first seed of the tracks that only `evaluate` drives
SELECTION = 900_000  # first seed of the tracks on which `best` is chosen; training draws its tracks below


@dataclass(frozen=True)
class Episode:
    """One episode to drive."""

    seed: int
    """Seed of the environment's reset: the track."""
    candidate: int = 0
    """Row of the population that drives it."""


@dataclass(frozen=True)
class GiveUp:
    """Ends hopeless episodes early while C evolves: most of a first generation's steps are spent lost in the grass."""

    after: int
    """Steps without a reward above zero after which an episode is given up."""
    horizon: int
    """Steps of a whole episode: the score goes on to there at the rate of the steps without reward."""


@dataclass
class Rollout:
    """One recorded episode of T steps: `frames[t]` is what the policy saw when it chose `actions[t]`."""

    frames: np.ndarray
    """uint8 (T + 1, 64, 64, 3), the last frame included"""
    actions: np.ndarray
    """float32 (T, A), as M sees them"""
    rewards: np.ndarray
    """float32 (T,)"""
    terminals: np.ndarray
    """bool (T,): the episode truly ended here (a time limit is no end)"""


class Policy(Protocol):
    """Anything that drives: a random policy, a population of agents."""

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        """`lanes` int64 (n,) start the given episodes: forget what they drove before."""

    def act(self, lanes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 (L, 64, 64, 3) of `lanes` int64 (L,) → action vectors float32 (L, A)."""


def track_seeds(*key: int, count: int) -> list[int]:
    """`count` training seeds below `SELECTION` that depend on `key` alone, e.g. (seed, generation)."""
    draws = np.random.default_rng(key).integers(SELECTION, size=count)
    return [int(seed) for seed in draws]


@dataclass
class _Recorder:
    """What one lane has seen of its episode so far."""

    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def rollout(self, last_frame: np.ndarray, terminated: bool) -> Rollout:
        terminals = np.zeros(len(self.actions), dtype=bool)
        terminals[-1] = terminated
        frames = np.stack([*self.frames, last_frame])
        return Rollout(frames, np.stack(self.actions), np.array(self.rewards, dtype=np.float32), terminals)


def drive(
    env: VectorEnv,
    kind: ActionKind,
    policy: Policy,
    episodes: Sequence[Episode],
    *,
    options: dict[str, Any] | None = None,
    give_up: GiveUp | None = None,
    on_rollout: Callable[[int, Rollout], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Drive every episode once; returns (scores float64 (E,), lengths int64 (E,)).

    Args:
        env: N ≤ E lanes, made by `worldmodels.envs.make`.
        kind: how action vectors become the environment's actions.
        policy: who drives.
        episodes: E episodes, started in order as lanes become free.
        options: passed to every reset (the simulator's training starts).
        give_up: when to end an episode early; None never does.
        on_rollout: called with (index into `episodes`, recorded rollout) as each episode ends; None records nothing.
        on_step: called with L after every step (progress bars).
    """
    assert env.num_envs <= len(episodes), f"{env.num_envs} lanes for {len(episodes)} episodes"
    scores, lengths = np.zeros(len(episodes)), np.zeros(len(episodes), dtype=np.int64)
    driving = np.full(env.num_envs, -1)  # index of the episode that a lane drives; -1 rests
    recorders = [_Recorder() for _ in range(env.num_envs)]
    actions = np.zeros((env.num_envs, kind.size), dtype=np.float32)
    idle_steps, idle_reward = np.zeros(env.num_envs, dtype=np.int64), np.zeros(env.num_envs)  # since a reward above 0
    started = 0
    frames = np.empty(0)

    while True:
        free = np.flatnonzero(driving < 0)[: len(episodes) - started]
        if len(free):
            driving[free] = np.arange(started, started + len(free))
            started += len(free)
            seeds: list[int | None] = [None] * env.num_envs
            for lane in free:
                seeds[lane] = episodes[driving[lane]].seed
                recorders[lane] = _Recorder()
            idle_steps[free], idle_reward[free] = 0, 0.0
            mask = np.zeros(env.num_envs, dtype=bool)
            mask[free] = True
            where = {**(options or {}), "reset_mask": mask}
            frames, _ = env.reset(seed=seeds, options=where)  # type: ignore[arg-type]  # a list, as every vector env takes
            policy.begin(free, [episodes[driving[lane]] for lane in free])

        live = np.flatnonzero(driving >= 0)
        if not len(live):
            return scores, lengths
        actions[live] = policy.act(live, frames[live])
        if on_rollout is not None:
            for lane in live:
                recorders[lane].frames.append(frames[lane].copy())
                recorders[lane].actions.append(actions[lane].copy())

        frames, rewards, terminated, truncated, _ = env.step(kind.to_env(actions))
        current = driving[live]
        scores[current] += rewards[live]
        lengths[current] += 1
        over = terminated | truncated
        if give_up is not None:
            idle_steps = np.where(rewards > 0, 0, idle_steps + 1)
            idle_reward = np.where(rewards > 0, 0.0, idle_reward + rewards)
            for lane in live[(idle_steps[live] >= give_up.after) & ~over[live]]:
                left = give_up.horizon - lengths[driving[lane]]
                scores[driving[lane]] += left * idle_reward[lane] / idle_steps[lane]
                over[lane] = True
        if on_rollout is not None:
            for lane in live:
                recorders[lane].rewards.append(float(rewards[lane]))
        if on_step is not None:
            on_step(len(live))

        for lane in live[over[live]]:
            if on_rollout is not None:
                on_rollout(int(driving[lane]), recorders[lane].rollout(frames[lane].copy(), bool(terminated[lane])))
            driving[lane] = -1
