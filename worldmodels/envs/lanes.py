"""Scalar Gymnasium environments side by side, seen as V sees them.

Shapes: N lanes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodels.envs.frames import FRAME_SIZE, Crop, as_frames
from worldmodels.errors import UserError, place_of, said

ENDLESS = 10_000  # steps after which an episode without any time limit is taken for one that never ends


class Lanes(VectorEnv):
    """N copies of an environment; a lane whose episode has ended rests until `reset` names it in `reset_mask`.

    Observations are uint8 (N, 64, 64, 3). Stepping a lane at rest changes nothing and pays 0, where Gymnasium's
    `SyncVectorEnv` would refuse: episodes of a batch end at different times.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int, crop: Crop | None = None):
        self.envs, self.num_envs, self.crop = [make() for _ in range(count)], count, crop
        first = self.envs[0]
        self.spec, self.render_mode = first.spec, first.render_mode
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.frames = np.zeros((count, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.steps = np.zeros(count, np.int64)
        self.terminated, self.truncated = np.zeros(count, bool), np.zeros(count, bool)
        self.endless = first.spec is not None and first.spec.max_episode_steps is None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the lanes of `options["reset_mask"]` bool (N,) (all without one); `seed`: a number, or one per lane."""
        rest = dict(options or {})
        mask = rest.pop("reset_mask", np.ones(self.num_envs, bool))
        seeds = seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
        for lane in np.flatnonzero(mask):
            with self.answer(lane):
                observation, _ = self.envs[lane].reset(seed=seeds[lane], options=rest or None)
            self.look(lane, observation)
        self.steps[mask], self.terminated[mask], self.truncated[mask] = 0, False, False
        return self.frames.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every lane whose episode goes on; shapes as in `gymnasium.vector.VectorEnv.step`."""
        rewards, infos = np.zeros(self.num_envs), dict[str, Any]()
        for lane in np.flatnonzero(~(self.terminated | self.truncated)):
            with self.answer(lane):
                observation, reward, terminated, truncated, info = self.envs[lane].step(actions[lane])
                lap = {"lap_finished": info["lap_finished"]} if "lap_finished" in info else {}
            rewards[lane] = number(reward, self.name)
            infos = self._add_info(infos, lap, int(lane))  # the rest of an info is nobody's here
            self.look(lane, observation)
            self.terminated[lane], self.truncated[lane] = terminated, truncated
        self.steps += 1
        if self.endless and (self.steps[~(self.terminated | self.truncated)] >= ENDLESS).any():
            raise UserError(
                f"An episode of {self.name} has not ended after {ENDLESS:,} steps, and the environment has no time "
                "limit: say --max-steps."
            )
        return self.frames.copy(), rewards, self.terminated.copy(), self.truncated.copy(), infos

    def rest(self, lanes: np.ndarray) -> None:
        """Cut the episodes of `lanes` int64 (n,) here, unless they have ended."""
        self.truncated[lanes] = ~self.terminated[lanes]

    def look(self, lane: np.intp, observation: Any) -> None:
        """Keep the lane's image as V sees it; UserError for one that is not what the environment promised."""
        space = self.envs[lane].observation_space
        image = np.asarray(observation)
        if image.shape != space.shape or image.dtype != np.uint8:
            raise UserError(
                f"{self.name} returned an observation {image.dtype} {image.shape} where its observation_space says "
                f"uint8 {space.shape}: correct the environment."
            )
        self.frames[lane] = as_frames(image[None], self.crop)[0]

    @contextmanager
    def answer(self, lane: np.intp) -> Iterator[None]:
        """What the lane's environment raises, as one sentence."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever an environment does
            raise UserError(
                f"{self.name} raised {said(error)} ({place_of(error)}) after {self.steps[lane]} steps of an episode: "
                "correct the environment."
            ) from error

    @property
    def name(self) -> str:
        return self.spec.id if self.spec is not None else type(self.envs[0].unwrapped).__name__

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def number(reward: Any, env: str) -> float:
    """The reward of a step; UserError for what is none: None, a list, an array."""
    try:
        return float(reward)
    except (TypeError, ValueError) as error:
        raise UserError(f"{env} paid {reward!r}: a reward must be a number; correct the environment.") from error
