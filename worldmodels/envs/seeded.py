"""Lanes of our own vector environments, seeded, begun and ended as those of `gymnasium.vector.SyncVectorEnv`.

Shapes: N lanes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv


def refuse_closed(closed: bool, call: str) -> None:
    """ClosedEnvironmentError for a call after `close`."""
    if closed:
        raise ClosedEnvironmentError(f"{call} after close(): make a new environment.")


class SeededLanes(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N lanes, each with a generator of its own; what their `reset` and `step` refuse, and when an episode begins anew,
    as `SyncVectorEnv` has it."""

    def __init__(self, num_envs: int, autoreset_mode: AutoresetMode | str) -> None:
        super().__init__()
        self.num_envs, self.autoreset_mode = num_envs, AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        seeded = [seeding.np_random() for _ in range(num_envs)]
        self._generators, self._seeds = [generator for generator, _ in seeded], [seed for _, seed in seeded]
        self._started = False
        self._terminated, self._truncated = np.zeros((2, num_envs), np.bool_)
        self._ended = np.zeros(num_envs, np.bool_)  # the episode is over and its lane not yet begun anew

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each lane's generator, as `SyncVectorEnv` gives them."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each lane's seed, as `SyncVectorEnv` gives them."""
        return tuple(self._seeds)

    def _to_begin(self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None) -> np.ndarray:
        """The lanes bool (N,) whose episodes `reset` begins, their flags down and those with a seed on a fresh
        generator; takes the mask out of the options.

        Raises:
            ClosedEnvironmentError: after close.
            TypeError, ValueError: a reset mask or seeds of the wrong type or shape.
        """
        refuse_closed(self.closed, "reset()")
        seeds = [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else seeds
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed lists {len(seeds)} seeds for num_envs={self.num_envs} lanes")
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = options.pop("reset_mask")
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f'options["reset_mask"] must be a numpy array of bool, got {type(mask).__name__} {mask!r}')
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f'options["reset_mask"] must name a lane and have the shape ({self.num_envs},), got {mask}'
            )
        if not (self._started or mask.all()):
            raise ValueError('the first reset begins all lanes: options["reset_mask"] must be True everywhere')
        for lane in np.flatnonzero(mask).tolist():
            if seeds[lane] is not None:
                self._generators[lane], self._seeds[lane] = seeding.np_random(seeds[lane])
        self._terminated[mask] = self._truncated[mask] = self._ended[mask] = False
        self._started = True
        return mask

    def _refuse_wrong_order(self) -> None:
        """ResetNeeded, ClosedEnvironmentError for a step before the first reset, or after close."""
        refuse_closed(self.closed, "step()")
        if not self._started:
            raise ResetNeeded("step() before reset(): reset the environment first.")

    def _end(self, terminated: np.ndarray, truncated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Enter the episodes that end in this step, bool (N,) each; in DISABLED mode resting lanes keep their flags.

        Returns bool (N,) twice: the lanes whose episode ends, and those that begin anew in this step.
        """
        over, resting = terminated | truncated, self._ended
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            begun = over
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            begun, self._ended = resting, over
        else:
            begun, self._ended = np.zeros_like(over), resting | over
            terminated, truncated = terminated | self._terminated, truncated | self._truncated
        self._terminated, self._truncated = terminated, truncated
        return over, begun
