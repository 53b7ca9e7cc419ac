"""Environments by name: what the pipeline knows about each, and how a worker anywhere makes lanes of one.

Shapes: N lanes.

Any Gymnasium environment with image observations and Box or Discrete actions plugs in through one small `Description`:
what to crop, how C's outputs become an action, when an episode is cut. One that is not in the table below is described
from its spaces alone.
"""

import importlib
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from worldmodels.envs.actions import Actions, actions_of
from worldmodels.envs.frames import FRAME_SIZE, Crop
from worldmodels.envs.lanes import Lanes, Seen
from worldmodels.errors import UserError, missing, said
from worldmodels.runs.settings import CARRACING, TAKECOVER

DREAM = "worldmodels/Dream-v0"  # M as an environment
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Description:
    """How the pipeline looks at one Gymnasium environment."""

    env_id: str
    """Gymnasium's id, without `module:`."""
    crop: Crop | None = None
    """Pixels kept before resizing: top, bottom, left, right. None keeps the whole frame."""
    action: Literal["car", "box", "discrete", "threshold"] | None = None
    """How C's outputs become an action (`worldmodels.envs.actions`); None: box or discrete, as the space is."""
    order: tuple[int, ...] = ()
    """With `threshold`: the actions from the lowest output of C to the highest."""
    time_limit: int | None = None
    """Steps after which an episode is cut; None leaves it to the environment's own limit."""
    target_return: float | None = None
    """Evolution stops when the mean of the distribution scores this much, unless told otherwise."""
    batched: bool = False
    """It is a vector environment by itself: all lanes in one process on all its threads, frames 64×64, ended lanes at
    rest. Any other environment gets a process per core and one lane after another in it."""
    scoring: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor with which `evaluate` makes it,"""
    practice: Mapping[str, Any] = field(default_factory=dict)
    """and with which all else does: episodes gathered, candidates driven."""
    laps: bool = False
    """An episode is a lap worth 1,000 points, of which each step takes 0.1: `evaluate` counts laps and crashes."""
    step_reward: float = 0.0
    """What each step pays, where that is all that is paid: M then needs no reward head."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """What policies without eyes score: a score, and M's ranking of these policies, are read beside it."""
    starts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"line": NO_OPTIONS})
    """What `--start` may say → the options of `reset`; `line` is the environment's own start."""

    @property
    def episode(self) -> str:
        """What people call one."""
        return "track" if self.laps else "episode"


DESCRIPTIONS: dict[str, Description] = {
    d.env_id: d
    for d in (
        Description(
            CARRACING, action="car", time_limit=1000, target_return=950.0, batched=True, laps=True,
            scoring={"frames": "exact"},  # Gymnasium's own, every pixel
            # anywhere: on any tile, at 0–70 units/s, past the first second's zoom
            starts={"line": NO_OPTIONS, "anywhere": {"start": "random", "speed": (0.0, 70.0), "zoomed": True}},
        ),
        Description("CarRacing-v3", action="car", time_limit=1000, target_return=950.0, laps=True),
        Description(
            TAKECOVER, action="threshold", order=(2, 0, 1), time_limit=2100, batched=True,  # left, none, right
            practice={"resolution": "320x240"}, step_reward=1.0,
            # measured over 300 to 1,000 games (docs/takecover.md)
            baselines={"stay": 149, "left": 177, "random": 217, "held": 301, "legs": 581, "sweep-60": 601,
                       "sweep-110": 751},
        ),
    )
}  # fmt: skip


def describe(env_id: str) -> Description:
    """The description of `env_id`, with or without its `module:`; the plain one where the table has none."""
    bare = env_id.rpartition(":")[2]
    return DESCRIPTIONS.get(bare, Description(bare))


def registered(env_id: str) -> bool:
    """Whether Gymnasium knows the environment without importing anything more."""
    return env_id.rpartition(":")[2] in gymnasium.registry


def find(env_id: str) -> Description:
    """Import the module of a `module:id`, found in the working directory too, and describe the environment.

    Raises:
        UserError: the module cannot be imported, or nothing of that name is registered.
    """
    module, _, bare = env_id.rpartition(":")
    if module and not registered(env_id):
        if str(Path.cwd()) not in sys.path:  # `python -m` has it there, our own script has not
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # whatever a module of the user's does
            raise UserError(f"The module {module} of {env_id} cannot be imported ({said(error)}).") from error
    try:
        gymnasium.spec(bare)
    except gymnasium.error.Error as error:
        raise UserError(f"The environment {env_id} is not registered: {error}") from error
    return describe(env_id)


@dataclass(frozen=True)
class World:
    """All that a worker anywhere needs to build an environment; picklable."""

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Of the environment's constructor."""

    @staticmethod
    def practice(env_id: str) -> "World":
        """Where episodes are gathered and candidates drive."""
        return World(env_id, describe(env_id).practice)


def make(world: World, lanes: int, *, threads: int | None = None, max_steps: int | None = None) -> VectorEnv:
    """`lanes` lanes as the pipeline wants them: frames uint8 (N, 64, 64, 3), ended lanes at rest.

    What a lane does depends on its seed and its actions alone.

    Args:
        world: which environment.
        lanes: N.
        threads: of a batched environment (None: all cores).
        max_steps: cut episodes after so many steps, if the environment does not before.

    Raises:
        UserError: unknown id, observations that are no images, actions that cannot be learned.
    """
    description = find(world.env_id)
    if not description.batched:
        return Lanes([lambda: Seen(make_one(world, max_steps=max_steps), description.crop)] * lanes)
    try:
        return gymnasium.make_vec(
            world.env_id, num_envs=lanes, obs_size=FRAME_SIZE, num_threads=threads, copy=False,
            max_episode_steps=limit_of(description, max_steps), autoreset_mode=AutoresetMode.DISABLED, **world.kwargs,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UserError(f"{world.env_id} cannot be made ({said(error)}).") from error


def make_one(world: World, *, max_steps: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """One scalar environment whose observations V can see, as Gymnasium gives them; raises UserError as `make`."""
    env = make_any(world, max_steps=max_steps, render_mode=render_mode)
    space = env.observation_space
    shape = space.shape if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 else ()
    if 0 in shape or (len(shape) != 2 and not (len(shape) == 3 and shape[2] in (1, 3))):
        env.close()
        raise UserError(
            f"{world.env_id} has observations {space}: V needs images, uint8 (height, width) or (height, width, 3); "
            "a wrapper can turn or unstack them."
        )
    actions_for(world, env.action_space)
    return env


def make_any(world: World, *, max_steps: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """One scalar environment, whatever its observations and actions are; UserError where it cannot be made."""
    description = find(world.env_id)
    mode: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # some environments know none
    try:
        limit = limit_of(description, max_steps)
        return gymnasium.make(world.env_id, max_episode_steps=limit, **{**mode, **world.kwargs})
    except (Exception, SystemExit) as error:  # whatever a constructor raises
        if isinstance(error, gymnasium.error.DependencyNotInstalled) and "box2d" in str(error).lower():
            raise missing(f"Box2D or pygame, which {world.env_id} needs,", "box2d") from error
        raise UserError(f"The environment {world.env_id} cannot be made ({said(error)}).") from error


def limit_of(description: Description, max_steps: int | None) -> int | None:
    """Steps after which an episode is cut: the least of what is asked for, the description's and the environment's."""
    limits = (max_steps, description.time_limit, gymnasium.spec(description.env_id).max_episode_steps)
    return min((limit for limit in limits if limit and limit > 0), default=None)  # Gymnasium's −1 is no limit


def actions_for(world: World, space: gymnasium.Space[Any]) -> Actions:
    """How C acts in this world, whose (single) action space is `space`."""
    description = describe(world.env_id)
    return actions_of(world.env_id, space, description.action, description.order)


def actions_in(world: World) -> Actions:
    """The same, asked of the environment itself."""
    with closing(make(world, 1)) as env:
        return actions_for(world, env.single_action_space)


def tried(world: World, start: str = "line", max_steps: int | None = None) -> Actions:
    """The same, after a step of an episode: whatever is wrong with the environment is said before anything is written,
    and a simulator that has to be compiled is compiled once, not by every worker.

    Raises:
        UserError: it cannot be made, has no such start, or raises.
    """
    with closing(make(world, 1, threads=1, max_steps=max_steps)) as env:
        actions = actions_for(world, env.single_action_space)
        env.reset(seed=0, options=reset_options(world.env_id, start))
        env.step(actions.to_env(actions.noise(np.random.default_rng(0), 1)))
        return actions


def reset_options(env_id: str, start: str) -> dict[str, Any]:
    """The options of `reset` behind `--start`; UserError where the environment has no such start."""
    starts = describe(env_id).starts
    if start not in starts:
        raise UserError(f"{env_id} cannot start {start!r}: --start is one of {', '.join(starts)}.")
    return dict(starts[start])
