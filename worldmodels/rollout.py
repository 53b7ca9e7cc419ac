"""THE loop over any vector environment: it collects episodes and scores populations.

Shapes: N lanes, L lanes still driving (L ≤ N), E episodes, A action size.

A lane drives one episode after another until none is left, then rests; only the lanes still driving reach the
policy. An episode is known by its seed alone: how many lanes there are, and which of them drives it, changes
nothing about what the environment returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv

from worldmodels.envs.actions import Actions
from worldmodels.errors import UserError

LARGEST = np.finfo(np.float32).max  # reward: episodes are stored in float32


@dataclass(frozen=True)
class Episode:
    """One episode to drive."""

    seed: int
    """Seed of the environment's reset: in CarRacing the track."""
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

    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Observations of `lanes` int64 (L,), frames uint8 (L, 64, 64, 3) → action vectors float32 (L, A)."""


def drive(
    env: VectorEnv,
    actions: Actions,
    policy: Policy,
    episodes: Sequence[Episode],
    *,
    options: dict[str, Any] | None = None,
    give_up: GiveUp | None = None,
    on_rollout: Callable[[int, Rollout], None] | None = None,
    on_end: Callable[[int, str], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Drive every episode once; returns (scores float64 (E,), lengths int64 (E,)).

    Args:
        env: N ≤ E lanes, made by `worldmodels.envs.make`.
        actions: how action vectors become the environment's actions.
        policy: who drives.
        episodes: E episodes, started in order as lanes become free.
        options: passed to every reset (the simulator's training starts).
        give_up: when to end an episode early; None never does.
        on_rollout: called with (index into `episodes`, recorded rollout) as each episode ends; None records nothing.
        on_end: called with (index into `episodes`, how it ended: see `ending`) as each episode ends.
        on_step: called with L after every step (progress bars).

    Raises:
        UserError: the environment pays a reward that is no finite number.
    """
    assert env.num_envs <= len(episodes), f"{env.num_envs} lanes for {len(episodes)} episodes"
    tally = _Tally(env, episodes, give_up)
    record = _Recorder(env.num_envs, on_rollout) if on_rollout is not None else None
    vectors = np.zeros((env.num_envs, actions.size), dtype=np.float32)

    while not tally.done:
        if len(free := tally.start_free_lanes()):
            observations = tally.reset(free, options)
            policy.begin(free, [episodes[tally.driving[lane]] for lane in free])
        live = tally.live
        seen = observations[live]  # a copy: the next step may overwrite them
        vectors[live] = policy.act(live, seen)
        observations, rewards, terminated, truncated, infos = env.step(actions.to_env(vectors))
        over = tally.add(live, rewards, terminated | truncated)
        if record is not None:
            record.add(live, seen, vectors[live], rewards[live])
            record.finish(over, tally.driving[over], observations, terminated)
        if on_end is not None:
            for lane in over:
                said = "lap_finished" in infos and infos["_lap_finished"][lane]
                lap_finished = bool(infos["lap_finished"][lane]) if said else None
                on_end(int(tally.driving[lane]), ending(bool(terminated[lane]), lap_finished))
        tally.rest(over)
        if on_step is not None:
            on_step(len(live))
    return tally.scores, tally.lengths


def ending(terminated: bool, lap_finished: bool | None) -> str:
    """How an episode ended, from its last step; `lap_finished` is CarRacing's info.

    "lap" or "off": CarRacing's car has been around, or has left the playfield; "terminated": any other end of the
    environment's own; "time": cut by a time limit, or given up.
    """
    if not terminated:
        return "time"
    return {True: "lap", False: "off", None: "terminated"}[lap_finished]


class _Tally:
    """Which lane drives which episode, and what the episodes have scored."""

    def __init__(self, env: Any, episodes: Sequence[Episode], give_up: GiveUp | None):
        self.env, self.episodes, self.give_up = env, episodes, give_up
        self.scores, self.lengths = np.zeros(len(episodes)), np.zeros(len(episodes), dtype=np.int64)
        self.driving = np.full(env.num_envs, -1)  # index of the episode that a lane drives; −1 rests
        self.started = 0
        self.idle_steps = np.zeros(env.num_envs, dtype=np.int64)  # since a reward above zero
        self.idle_reward = np.zeros(env.num_envs)

    @property
    def live(self) -> np.ndarray:
        """int64 (L,): the lanes that drive."""
        return np.flatnonzero(self.driving >= 0)

    @property
    def done(self) -> bool:
        return self.started == len(self.episodes) and not len(self.live)

    def start_free_lanes(self) -> np.ndarray:
        """Hand the next episodes to the lanes that rest; returns those lanes."""
        free = np.flatnonzero(self.driving < 0)[: len(self.episodes) - self.started]
        self.driving[free] = np.arange(self.started, self.started + len(free))
        self.started += len(free)
        self.idle_steps[free], self.idle_reward[free] = 0, 0.0
        return free

    def reset(self, lanes: np.ndarray, options: dict[str, Any] | None) -> np.ndarray:
        """Reset `lanes` to their episodes; returns the observations of all lanes."""
        seeds: list[int | None] = [None] * self.env.num_envs
        mask = np.zeros(self.env.num_envs, dtype=bool)
        for lane in lanes:
            seeds[lane], mask[lane] = self.episodes[self.driving[lane]].seed, True
        observations, _ = self.env.reset(seed=seeds, options={**(options or {}), "reset_mask": mask})
        return observations

    def add(self, live: np.ndarray, rewards: np.ndarray, over: np.ndarray) -> np.ndarray:
        """Count one step of the lanes `live`; returns those whose episode ended or is given up."""
        current = self.driving[live]
        paid = np.abs(rewards[live]) <= LARGEST
        if not paid.all():
            lane = live[~paid][0]
            episode = self.driving[lane]
            name = self.env.spec.id if self.env.spec is not None else type(self.env).__name__
            raise UserError(
                f"{name} paid {rewards[lane]} at step {self.lengths[episode] + 1} of the episode with "
                f"seed {self.episodes[episode].seed}: a reward must be a finite number in float32; "
                "correct the environment."
            )
        self.scores[current] += rewards[live]
        self.lengths[current] += 1
        if self.give_up is None:
            return live[over[live]]
        self.idle_steps = np.where(rewards > 0, 0, self.idle_steps + 1)
        self.idle_reward = np.where(rewards > 0, 0.0, self.idle_reward + rewards)
        hopeless = live[(self.idle_steps[live] >= self.give_up.after) & ~over[live]]
        left = self.give_up.horizon - self.lengths[self.driving[hopeless]]
        self.scores[self.driving[hopeless]] += left * self.idle_reward[hopeless] / self.idle_steps[hopeless]
        return np.union1d(live[over[live]], hopeless)

    def rest(self, lanes: np.ndarray) -> None:
        """`lanes` drive no more; the environment is not to go on with those that were given up."""
        self.driving[lanes] = -1
        if len(lanes) and self.give_up is not None:
            self.env.rest(lanes)


class _Recorder:
    """What the lanes have seen, done and been paid in their episodes so far."""

    def __init__(self, lanes: int, on_rollout: Callable[[int, Rollout], None]):
        self.on_rollout, self.steps = on_rollout, [list[tuple[Any, ...]]() for _ in range(lanes)]

    def add(self, live: np.ndarray, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """A step of the lanes `live`: rows of L."""
        for lane, frame, action, reward in zip(live, frames, actions, rewards, strict=True):
            self.steps[lane].append((frame.copy(), action, reward))

    def finish(self, over: np.ndarray, episodes: np.ndarray, frames: np.ndarray, terminated: np.ndarray) -> None:
        """Hand on the episodes of the lanes `over`, whose last frames are among the `frames` of all lanes."""
        for lane, episode in zip(over, episodes, strict=True):
            seen, actions, rewards = zip(*self.steps[lane], strict=True)
            terminals = np.zeros(len(actions), dtype=bool)
            terminals[-1] = terminated[lane]
            arrays = np.stack([*seen, frames[lane]]), np.stack(actions), np.array(rewards, dtype=np.float32)
            self.on_rollout(int(episode), Rollout(*arrays, terminals))
            self.steps[lane] = []
