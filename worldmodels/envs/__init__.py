"""Environments as the pipeline sees them: 64×64 frames in, action vectors out, finished lanes at rest.

Shapes: N lanes (environments side by side), A action size as M sees it, O outputs of C.

Any Gymnasium environment with image observations and Box or Discrete actions plugs in through one small
`Description`: what to crop, how C's outputs become an action, when an episode is cut. An environment that is
not in the table below is described from its spaces alone.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from worldmodels.errors import UserError

FRAME_SIZE = 64  # pixels; V's input (paper, appendix A.1)

TRAINING_START = {"start": "random", "speed": (0.0, 70.0), "zoomed": True}
"""Reset options of our simulator behind `--start anywhere`: any tile, 0–70 units/s, past the first second's zoom."""


@dataclass(frozen=True)
class Description:
    """How the pipeline looks at one Gymnasium environment."""

    env_id: str
    """Gymnasium's id."""
    crop: tuple[int, int, int, int] | None = None
    """Pixels kept before resizing: top, bottom, left, right. None keeps the whole frame."""
    action: Literal["car", "box", "discrete"] | None = None
    """How C's outputs become an action; None: `box` or `discrete`, whichever the action space is."""
    time_limit: int | None = None
    """Steps after which an episode is cut; None leaves it to the environment's own limit."""
    native: bool = False
    """The environment is a batch by itself, draws 64×64 frames and rests finished lanes (our own simulators)."""


DESCRIPTIONS: dict[str, Description] = {
    d.env_id: d
    for d in (
        Description("worldmodels/CarRacing-v3", action="car", time_limit=1000, native=True),
        Description("CarRacing-v3", action="car", time_limit=1000),
    )
}


def register_environments() -> None:
    """Register our environments with Gymnasium (importing twice is harmless)."""
    if "worldmodels/CarRacing-v3" not in gymnasium.registry:
        gymnasium.register(
            id="worldmodels/CarRacing-v3",
            entry_point="worldmodels.envs.carracing.env:CarRacing",
            vector_entry_point="worldmodels.envs.carracing.env:CarRacingVectorEnv",
            max_episode_steps=1000,
            reward_threshold=900,
        )
        gymnasium.register(
            id="worldmodels/Dream-v0",
            entry_point="worldmodels.envs.dream:Dream",
            vector_entry_point="worldmodels.envs.dream:DreamVectorEnv",
        )


def describe(env_id: str) -> Description:
    """The description of `env_id`: from the table, or the plain one any registered environment gets.

    `module:id` imports the module first (as Gymnasium does): it may put a description of its own into the table.
    """
    module, _, _ = env_id.rpartition(":")
    if module and importlib.util.find_spec(module.partition(".")[0]):
        importlib.import_module(module)
    return DESCRIPTIONS.get(env_id, Description(env_id))


# ---------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True)
class ActionKind:
    """How C's raw outputs become the action that M sees and the one that the environment takes."""

    name: str
    space: gymnasium.Space

    @property
    def size(self) -> int:
        """A = O: numbers in an action vector, which is also the number of C's outputs."""
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return int(self.space.n)
        return int(np.prod(self.space.shape or ()))

    def squash(self, outputs: np.ndarray) -> np.ndarray:
        """C's raw outputs (L, O) → action vectors (L, A) float32 as M sees them.

        `car` is the paper's (its released code): steer = tanh, gas = (tanh + 1) / 2, brake = clip(tanh, 0, 1).
        `box` scales tanh to the space's bounds; `discrete` is the one-hot vector of the largest output.
        """
        if self.name == "discrete":
            return np.eye(self.size, dtype=np.float32)[outputs.argmax(axis=1)]
        action = np.tanh(outputs)
        if self.name == "car":
            return np.stack([action[:, 0], (action[:, 1] + 1) / 2, np.clip(action[:, 2], 0, 1)], axis=1)
        low, high = self.space.low.reshape(-1), self.space.high.reshape(-1)  # type: ignore[attr-defined]
        return (low + (action + 1) / 2 * (high - low)).astype(np.float32)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Action vectors (L, A) → what the environment's `step` takes: (L, *space.shape), or int64 (L,)."""
        if self.name == "discrete":
            return actions.argmax(axis=1) + int(self.space.start)  # type: ignore[attr-defined]
        return actions.reshape(len(actions), *self.space.shape).astype(self.space.dtype)  # type: ignore[misc]


def action_kind(description: Description, space: gymnasium.Space) -> ActionKind:
    """The action kind of an environment with this (single) action space; UserError for any other space."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return ActionKind("discrete", space)
    if isinstance(space, gymnasium.spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return ActionKind(description.action or "box", space)
    raise UserError(f"{description.env_id} has actions {space}: only Discrete and bounded Box actions can be learned.")


def kind_of(env_id: str) -> ActionKind:
    """The action kind of a registered environment."""
    env = make(env_id, 1)
    try:
        return action_kind(describe(env_id), env.single_action_space)
    finally:
        env.close()


# ----------------------------------------------------------------------------------------------- frames


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32: row i holds the share of each source pixel in target pixel i; rows sum to one."""
    edges = np.arange(target + 1) * (source / target)
    left, right = np.arange(source), np.arange(source) + 1
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return (np.clip(overlap, 0, None) * (target / source)).astype(np.float32)


def as_frames(observations: np.ndarray, crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Images uint8 (N, height, width[, 1 or 3]) → V's frames uint8 (N, 64, 64, 3), by exact area average."""
    images = observations[..., None] if observations.ndim == 3 else observations
    if crop is not None:
        top, bottom, left, right = crop
        images = images[:, top:bottom, left:right]
    if images.shape[1:3] != (FRAME_SIZE, FRAME_SIZE):
        rows = area_weights(images.shape[1], FRAME_SIZE)
        columns = area_weights(images.shape[2], FRAME_SIZE)
        averaged = np.einsum("ih,nhwc,jw->nijc", rows, images.astype(np.float32), columns, optimize=True)
        images = np.floor(averaged + 0.5).astype(np.uint8)
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else np.ascontiguousarray(images)


# ------------------------------------------------------------------------------------------------ lanes


class Lanes(SyncVectorEnv):
    """Scalar Gymnasium environments side by side, seen as V sees them; a finished lane rests until it is reset.

    Observations are uint8 (N, 64, 64, 3). Stepping a finished lane changes nothing and pays 0, where
    `SyncVectorEnv` in `AutoresetMode.DISABLED` would refuse: episodes of a batch end at different times.
    """

    def __init__(self, env_fns: list[Callable[[], gymnasium.Env]], description: Description):
        super().__init__(env_fns, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        self.description = description

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """As `SyncVectorEnv.reset`, `options["reset_mask"]` included; frames uint8 (N, 64, 64, 3)."""
        observations, info = super().reset(seed=seed, options=options)
        return as_frames(observations, self.description.crop), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every lane whose episode goes on; shapes as in `gymnasium.vector.VectorEnv.step`."""
        infos: dict[str, Any] = {}
        for lane, env in enumerate(self.envs):
            if self._terminations[lane] or self._truncations[lane]:
                self._rewards[lane] = 0.0
                continue
            observation, reward, terminated, truncated, info = env.step(actions[lane])
            self._observations[lane] = self._env_obs[lane] = observation  # a masked reset shows `_env_obs` again
            self._rewards[lane], self._terminations[lane], self._truncations[lane] = reward, terminated, truncated
            infos = self._add_info(infos, info, lane)
        frames = as_frames(self._observations, self.description.crop)
        return frames, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), infos


def make(env_id: str, num_envs: int, *, num_threads: int | None = None, max_steps: int | None = None) -> VectorEnv:
    """`num_envs` lanes of `env_id` as the pipeline wants them: frames uint8 (N, 64, 64, 3), finished lanes at rest.

    Args:
        env_id: any registered Gymnasium id; `module:id` imports the module first.
        num_envs: N.
        num_threads: threads of a native simulator (None: all cores).
        max_steps: cut episodes after so many steps (None: the description's time limit, else the environment's own).

    Raises:
        UserError: unknown id, or observations that are no uint8 images.
    """
    description = describe(env_id)
    limit = max_steps or description.time_limit
    if description.native:
        return gymnasium.make_vec(
            env_id, num_envs=num_envs, obs_size=FRAME_SIZE, num_threads=num_threads, max_episode_steps=limit,
            autoreset_mode=AutoresetMode.DISABLED, copy=False,
        )  # fmt: skip
    lanes = Lanes([lambda: make_one(env_id, max_steps=limit)] * num_envs, description)
    action_kind(description, lanes.single_action_space)
    return lanes


def make_one(env_id: str, *, max_steps: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """One scalar environment, its observations as Gymnasium gives them.

    Raises:
        UserError: unknown id, or observations that are no uint8 images.
    """
    limit = max_steps or describe(env_id).time_limit
    mode = {"render_mode": render_mode} if render_mode else {}  # some environments know none
    try:
        env = gymnasium.make(env_id, max_episode_steps=limit, **mode)  # type: ignore[arg-type]
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"The environment {env_id} cannot be made: {error}") from error
    space = env.observation_space
    if not (isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)):
        raise UserError(f"{env_id} has observations {space}: V needs images, uint8 (height, width[, 3]).")
    return env
