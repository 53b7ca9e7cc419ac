"""Gymnasium's CarRacing-v3 as an environment of one car: a batch of one."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

from worldmodels.envs.carracing.batch import Start
from worldmodels.envs.carracing.vector_env import METADATA, CarRacingVectorEnv


class CarRacing(gymnasium.Env[np.ndarray, Any], EzPickle):
    """CarRacing-v3 as Gymnasium's, for one car; `gymnasium.make` makes it.

    Arguments, spaces, rewards, endings, info and reset options as Gymnasium's CarRacing, plus the arguments from
    `obs_size` on and the reset options of `CarRacingVectorEnv`. Stepping on after an ending goes on driving, as
    Gymnasium's does.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(self, render_mode: str | None = None, *arguments: Any, **keywords: Any):
        EzPickle.__init__(self, render_mode, *arguments, **keywords)
        self.vector = CarRacingVectorEnv(1, render_mode, *arguments, **keywords)
        self.batch, self.render_mode, self.continuous = self.vector.batch, render_mode, self.vector.continuous
        self.action_space = self.vector.single_action_space
        self.observation_space = self.vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; returns the observation and an info, empty without `telemetry`.

        Raises:
            gymnasium.error.Error: a seed that is no natural number.
            UserError: a reset option of ours has a value that means nothing.
        """
        start = Start.from_options(options)
        super().reset(seed=seed)
        self.vector._generators[0] = self.np_random
        self.vector._begin(self.vector._to_begin(None, None), start)
        if self.render_mode == "human":
            self.render()
        return self.batch.frames[0].copy(), self.vector._telemetry(0)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step: the action is float (3,) steer, gas, brake, or an int, or None (as in Gymnasium: nothing is paid).

        Raises:
            ResetNeeded, ClosedEnvironmentError: before the first reset, after close.
            AttributeError, IndexError, TypeError, ValueError, InvalidAction: an action that Gymnasium refuses too.
        """
        self.vector._refuse_wrong_order()
        batch, reward, terminated = self.batch, 0.0, False
        if action is None:
            batch.coast(batch.everyone)
        else:
            actions = action.astype(np.float64)[None] if self.continuous else [action]
            rewards, endings = batch.advance(self.vector._controls(actions, batch.everyone), batch.everyone)
            reward, terminated = float(rewards[0]), bool(endings[0])
        if self.render_mode == "human":
            self.render()
        info = self.vector._telemetry(0) | (batch.info(0) if terminated else {})
        return batch.frames[0].copy(), reward, terminated, False, info

    def render(self) -> np.ndarray | None:
        """The picture of `render_mode`: uint8 (400,600,3) for "rgb_array", (S,S,3) for "state_pixels".

        None for "human", which shows a window, and before the first reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode: make the environment with render_mode="rgb_array".')
        return self.vector.render()[0]

    def close(self) -> None:
        """Close the window; calling it again does nothing."""
        self.vector.close()
