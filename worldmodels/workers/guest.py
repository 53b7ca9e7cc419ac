"""Anyone's policy as the driver: it sees what Gymnasium's `reset` and `step` return, and says what `step` takes.

A policy is named `module:name` or `file.py:name`. The name is a callable, observation → action, or a class without
arguments whose instances are; every worker makes its own. A worker drives one episode at a time, so that a policy may
remember: its `reset`, where it has one, is called when an episode begins, with `seed=` the episode's if it takes that.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from worldmodels.envs import World, make_any
from worldmodels.envs.lanes import ENDLESS, flag, lap_finished, number
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.errors import UserError, place_of, said
from worldmodels.rollout import LARGEST, ending
from worldmodels.workers.driver import Job, Outcome
from worldmodels.workers.places import Place, limited_threads


class Mistake(Exception):
    """What a policy did wrong: "raised … at step 3", a clause without its subject."""


@dataclass(frozen=True)
class Failed:
    """In place of an `Outcome`: the policy made a mistake in the episode `seed`, which has no score."""

    seed: int
    mistake: str


@dataclass(frozen=True)
class Guests:
    """The setup of workers in which a policy of the user's drives."""

    world: World
    policy: str
    """module:name, or file.py:name"""
    max_steps: int | None = None

    def __call__(self, place: Place) -> "Guest":
        return Guest(self)

    def fingerprint(self) -> str:
        """Names the policy in hexadecimal by all that it does in one development episode.

        Raises:
            UserError: the policy cannot be loaded, or fails there.
        """
        seen = hashlib.sha256()
        with limited_threads(1), closing(self(Place("cpu", 1))) as guest:
            try:
                outcome = guest.drive(DEVELOPMENT, seen.update)
            except Mistake as mistake:
                raise UserError(
                    f"{self.policy} {mistake} of a trial episode (seed {DEVELOPMENT}): correct it."
                ) from mistake
        seen.update(repr((outcome.scores.tolist(), outcome.lengths.tolist())).encode())
        return seen.hexdigest()


class Guest:
    """Drives jobs of one episode; the policy and the environment are kept from one to the next."""

    def __init__(self, setup: Guests):
        self.policy = load(setup.policy)
        self.env = make_any(setup.world, max_steps=setup.max_steps)
        self.endless = self.env.spec is not None and self.env.spec.max_episode_steps is None

    def __call__(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome | Failed:
        (episode,) = job.episodes
        try:
            return self.drive(episode.seed)
        except Mistake as mistake:
            return Failed(episode.seed, str(mistake))

    def drive(self, seed: int, on_action: Callable[[bytes], None] = lambda action: None) -> Outcome:
        """The episode from its reset to its end.

        Raises:
            Mistake: the policy raised, or returned what is no action.
            UserError: the environment never ends, or pays a reward that is no finite number.
        """
        begin(self.policy, seed)
        score, length, over = 0.0, 0, False
        with self.answer(seed, length):
            observation, _ = self.env.reset(seed=seed)
        while not over:
            action = act(self.policy, observation, self.env.action_space, length + 1)
            on_action(np.asarray(action).tobytes())
            with self.answer(seed, length + 1):
                observation, reward, terminated, truncated, info = self.env.step(action)
                terminated, truncated = flag(terminated, "The environment"), flag(truncated, "The environment")
                lap = lap_finished(info)
            score, length, over = score + number(reward, "The environment"), length + 1, terminated or truncated
            if not abs(score) <= LARGEST:
                raise UserError(f"The environment paid {reward} at step {length} of the episode with seed {seed}.")
            if self.endless and length == ENDLESS:
                raise UserError(
                    f"The episode with seed {seed} has not ended after {ENDLESS:,} steps, and the environment has no "
                    "time limit: say --max-steps."
                )
        return Outcome(np.array([score]), np.array([length]), endings=[ending(terminated, lap)])

    @contextmanager
    def answer(self, seed: int, step: int) -> Iterator[None]:
        """What the environment raises, as one sentence; step 0 is its reset."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raised = f"The environment raised {said(error)} ({place_of(error)})"
            where = f"at step {step}" if step else "in the reset"
            raise UserError(f"{raised} {where} of the episode with seed {seed}: correct it.") from error

    def close(self) -> None:
        with suppress(Exception):
            self.env.close()


# ------------------------------------------------------------------------------------------------ the policy


def load(name: str) -> Callable[[Any], Any]:
    """The policy `module:name` or `file.py:name`; UserError where there is none."""
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise UserError(f"--policy is {name}: say module:name or file.py:name, the name of a callable.")
    try:
        found = getattr(imported(where), attribute)
        policy = found() if inspect.isclass(found) else found
    except (Exception, SystemExit) as error:  # whatever a module of the user's does
        raise UserError(f"The policy {name} cannot be loaded ({said(error)}, {place_of(error)}).") from error
    if not callable(policy):
        raise UserError(f"The policy {name} is {type(policy).__name__}, which cannot be called with an observation.")
    return policy


def imported(where: str) -> ModuleType:
    """A module by its name, found in the working directory too, or by its file, as Python runs a script."""
    file = Path(where)
    folder = str(file.resolve().parent if file.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if file.suffix != ".py":
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # before it runs: dataclasses look there
    spec.loader.exec_module(module)
    return module


def begin(policy: Callable[[Any], Any], seed: int) -> None:
    """Call the policy's `reset`, with the episode's seed if it takes one."""
    reset = getattr(policy, "reset", None)
    if reset is None:
        return
    try:
        takes_seed = "seed" in inspect.signature(reset).parameters
        reset(**({"seed": seed} if takes_seed else {}))
    except (Exception, SystemExit) as error:
        raise Mistake(f"raised {said(error)} ({place_of(error)}) in its reset") from error


def act(policy: Callable[[Any], Any], observation: Any, space: gymnasium.Space[Any], step: int) -> Any:
    """The policy's action as the environment takes it, unchanged but for lists and tensors, which become arrays."""
    try:
        action = policy(observation)
        action = np.asarray(action) if isinstance(space, gymnasium.spaces.Box) else action
    except (Exception, SystemExit) as error:
        raise Mistake(f"raised {said(error)} ({place_of(error)}) at step {step}") from error
    if not isinstance(space, gymnasium.spaces.Box):
        if not space.contains(action):
            raise Mistake(f"returned {action!r}, where the environment takes {space}, at step {step}")
        return action
    if action.shape != space.shape or action.dtype.kind not in "iufb":
        found = f"{action.dtype} {action.shape}"
        raise Mistake(f"returned {found}, where the environment takes {space}, at step {step}")
    if not np.isfinite(action).all():
        raise Mistake(f"returned {action.tolist()} at step {step}")
    return action
