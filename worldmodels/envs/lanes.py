"""Scalar Gymnasium environments side by side, and each as V sees it.

Shapes: N lanes.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldmodels.envs.frames import FRAME_SIZE, Crop, as_frames
from worldmodels.envs.seeded import refuse_closed
from worldmodels.errors import UserError, place_of, said

ENDLESS = 10_000  # steps after which an episode without any time limit is taken for one that never ends
FRAMES = gymnasium.spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)


class Lanes(SyncVectorEnv):
    """N environments; a lane whose episode has ended rests until `reset` names it in `reset_mask`.

    Stepping a lane at rest changes nothing and pays 0, where Gymnasium's `SyncVectorEnv` would refuse: episodes of a
    batch end at different times.
    """

    def __init__(self, makes: Sequence[Callable[[], gymnasium.Env]], threads: int = 1, copy: bool = True):
        """`threads` step the lanes; without `copy` the next call overwrites the observations that are handed out."""
        super().__init__(makes, copy=copy, autoreset_mode=AutoresetMode.DISABLED)
        self.spec = self.envs[0].unwrapped.spec
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)

    def reset(self, **keywords: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, as `SyncVectorEnv` does; ClosedEnvironmentError after `close`."""
        refuse_closed(self.closed, "reset()")
        return super().reset(**keywords)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every lane whose episode goes on; shapes as in `gymnasium.vector.VectorEnv.step`.

        Raises:
            ClosedEnvironmentError: after `close`.
        """
        refuse_closed(self.closed, "step()")
        self._rewards[:] = 0.0
        going = iter(np.flatnonzero(~(self._terminations | self._truncations)).tolist())
        told: dict[int, dict[str, Any]] = {}

        def work() -> None:
            for lane in going:  # whichever thread is free takes the next
                *found, told[lane] = self.envs[lane].step(actions[lane])
                self._env_obs[lane], self._rewards[lane], self._terminations[lane], self._truncations[lane] = found
                self._observations[lane] = self._env_obs[lane]

        others = [self.pool.submit(work) for _ in range(self.threads - 1)]
        work()
        for thread in others:
            thread.result()
        infos: dict[str, Any] = {}
        for lane in sorted(told):
            infos = self._add_info(infos, told[lane], lane)
        frames = self._observations.copy() if self.copy else self._observations
        return frames, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), infos

    def rest(self, lanes: np.ndarray) -> None:
        """Cut the episodes of `lanes` int64 (n,) here, unless they have ended."""
        self._truncations[lanes] = ~self._terminations[lanes]

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, and end the threads."""
        super().close_extras(**kwargs)
        self.pool.shutdown()


class Seen(gymnasium.Wrapper):
    """An environment as V sees it, frames uint8 (64, 64, 3); what it does wrong is one sentence (UserError)."""

    def __init__(self, env: gymnasium.Env, crop: Crop | None = None):
        super().__init__(env)
        self.observation_space, self.crop, self.steps = FRAMES, crop, 0
        self.name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.endless = env.spec is not None and env.spec.max_episode_steps is None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.steps = 0
        with self.answer():
            observation, _ = self.env.reset(seed=seed, options=options or None)
            return self.look(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; of the info, the lap alone: the rest is nobody's here."""
        with self.answer():
            observation, reward, terminated, truncated, info = self.env.step(action)
            terminated, truncated = flag(terminated, self.name), flag(truncated, self.name)
            frame = self.look(observation)
            lap = {} if (finished := lap_finished(info)) is None else {"lap_finished": finished}
        self.steps += 1
        if self.endless and self.steps >= ENDLESS and not (terminated or truncated):
            raise UserError(
                f"An episode of {self.name} has not ended after {ENDLESS:,} steps, and the environment has no time "
                "limit: say --max-steps."
            )
        return frame, number(reward, self.name), terminated, truncated, lap

    def close(self) -> None:
        """Nothing that is done is lost by an environment that cannot be closed."""
        with suppress(Exception):
            self.env.close()

    def look(self, observation: Any) -> np.ndarray:
        """The image as V sees it; UserError for one that is not what the environment promised."""
        shape, image = self.env.observation_space.shape, np.asarray(observation)
        if image.shape != shape or image.dtype != np.uint8:
            raise UserError(
                f"{self.name} returned an observation {image.dtype} {image.shape} where its observation_space says "
                f"uint8 {shape}: correct the environment."
            )
        return as_frames(image[None], self.crop)[0]

    @contextmanager
    def answer(self) -> Iterator[None]:
        """What the environment raises, as one sentence."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever an environment does
            raise UserError(
                f"{self.name} raised {said(error)} ({place_of(error)}) after {self.steps} steps of an episode: "
                "correct the environment."
            ) from error


def number(reward: Any, env: str) -> float:
    """The reward of a step; UserError for what is none: None, a list, an array."""
    try:
        return float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{env} paid {reward!r}: a reward must be a number; correct the environment.") from error


def flag(over: Any, env: str) -> bool:
    """Whether a step ends the episode; UserError for what does not say so: None, a text, several."""
    if np.shape(over) not in ((), (1,)) or np.asarray(over).dtype.kind not in "biuf":
        raise UserError(
            f"{env} said {over!r} of an episode's end: terminated and truncated must be True or False; correct the "
            "environment."
        )
    return bool(over)


def lap_finished(info: dict[str, Any]) -> bool | None:
    """CarRacing's word on how an episode ended, in the info of its last step; None where there is none."""
    finished = info.get("lap_finished")
    return bool(finished) if isinstance(finished, (bool, np.bool_)) else None
