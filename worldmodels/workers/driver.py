"""The ONE thing a worker holds: V and M, and the lanes it drives in. collect, train-controller and evaluate send it
the same jobs.

Shapes: P population, n parameters of C, E episodes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import VectorEnv

from worldmodels.data.episodes import encode
from worldmodels.data.policies import random_policy
from worldmodels.envs import Actions, World, actions_for, make, reset_options
from worldmodels.rollout import Episode, GiveUp, Policy, Rollout, drive
from worldmodels.runs.directory import RunDir
from worldmodels.workers.places import ROWS, Place, choose_bfloat16

if TYPE_CHECKING:
    from worldmodels.agent import Eyes
    from worldmodels.controller import Controller
    from worldmodels.memory import MDRNN


@dataclass(frozen=True)
class Models:
    """V, M and the shape of C, as they travel to a worker anywhere."""

    vae: bytes
    """V's checkpoint."""
    mdrnn: bytes
    """M's."""
    controller: "Controller"
    sample_z: bool = False
    seed: int = 0
    """Of the samples of z."""
    precision: str = "float32"
    """Of V: "float32", "bfloat16" or "int8"."""

    @staticmethod
    def of(run: RunDir, controller: "Controller", sample_z: bool, seed: int) -> "Models":
        """V and M of a run, V in float32; UserError names the command that makes a missing one."""
        vae, mdrnn = (run.trained(stage).read_bytes() for stage in ("vae", "mdrnn"))
        return Models(vae, mdrnn, controller, sample_z, seed)

    def computing(self, precision: str, place: Place) -> "Models":
        """The same with V in this precision; what `auto` means is decided here, once: workers on unlike machines must
        not decide differently."""
        import torch

        from worldmodels import quantized
        from worldmodels.runs import checkpoint

        tensors, _ = checkpoint.parse(self.vae, "V")
        return replace(self, precision=quantized.choose_precision(precision, tensors, torch.device(place.device)))


def best_of(run: RunDir, actions: Actions) -> tuple[Models, np.ndarray]:
    """What workers need to drive with the best driver of a run, and C's parameters float32 (n,); UserError where V, M
    or C is missing, damaged, or does not fit the others or the actions."""
    from worldmodels.agent import load

    agent = load(run, actions)
    models = Models.of(run, agent.controller, agent.encoder.samples, agent.seed)
    return models, agent.population[0].numpy()


@dataclass(frozen=True)
class Course:
    """What is driven of an episode."""

    start: str = "line"
    """A start of the environment's description."""
    max_steps: int | None = None
    """Cut after so many steps (None: the environment's limit)."""
    give_up: GiveUp | None = None


@dataclass(frozen=True)
class Job:
    """Episodes that one worker drives side by side."""

    episodes: tuple[Episode, ...]
    population: np.ndarray | None = None
    """float32 (P, n), the candidates that drive; None: the random policy does."""
    course: Course = Course()
    record: bool = False
    """Return the episodes, not only their scores."""


@dataclass
class Outcome:
    """Of a job with E episodes."""

    scores: np.ndarray
    """float64 (E,)"""
    lengths: np.ndarray
    """int64 (E,), steps"""
    rollouts: list[bytes] = field(default_factory=list)
    """The recorded episodes as their files' contents (`worldmodels.data.episodes`)."""
    endings: list[str] = field(default_factory=list)
    """How each ended (`worldmodels.rollout.ending`); empty in the dream."""


@dataclass(frozen=True)
class Drivers:
    """The setup of workers that drive: everything but the jobs."""

    world: World
    lanes: int
    """Episodes side by side in one worker."""
    models: Models | None = None
    policy: str = "agent"
    """agent, or a random policy (`worldmodels.data.policies`)"""
    seed: int = 0
    """Of the random policy."""

    def __call__(self, place: Place) -> "Driver":
        return Driver(self, place)


class Driver:
    """Drives jobs. Models are loaded once; lanes are kept from one job to the next."""

    def __init__(self, setup: Drivers, place: Place):
        self.setup, self.place = setup, place
        self.envs: dict[tuple[int, int | None], VectorEnv] = {}
        self.models = load_models(setup.models, place.device) if setup.models is not None else None
        self.threads = place.threads if place.device == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.threads, initializer=_compute_alone)

    def __call__(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome:
        env = self.env(min(self.setup.lanes, len(job.episodes)), job.course.max_steps)
        actions = actions_for(self.setup.world, env.single_action_space)
        options = reset_options(self.setup.world.env_id, job.course.start)
        rollouts, endings = [b""] * len(job.episodes), [""] * len(job.episodes)

        def keep(index: int, rollout: Rollout) -> None:
            rollouts[index] = encode(rollout, job.episodes[index].seed)

        scores, lengths = drive(
            env, actions, self.policy(job, actions), job.episodes, options=options, give_up=job.course.give_up,
            on_rollout=keep if job.record else None, on_end=endings.__setitem__, on_step=on_step,
        )  # fmt: skip
        return Outcome(scores, lengths, rollouts if job.record else [], endings)

    def env(self, lanes: int, max_steps: int | None) -> VectorEnv:
        key = (lanes, max_steps)
        if key not in self.envs:
            self.envs[key] = make(self.setup.world, lanes, threads=self.place.threads, max_steps=max_steps)
        return self.envs[key]

    def policy(self, job: Job, actions: Actions) -> Policy:
        """Who drives: the job's candidates, or a random policy."""
        setup = self.setup
        if setup.models is None or self.models is None or job.population is None:
            return random_policy(setup.policy, actions, setup.seed)
        from worldmodels.agent import Agent  # PyTorch: random policies do without, 0.2 GB and 2 s per worker

        eyes, memory = self.models
        return Agent(
            eyes, memory, setup.models.controller, job.population, actions,
            setup.models.seed, min(ROWS, setup.lanes), self.threads, self.pool.map if self.threads > 1 else map,
        )  # fmt: skip

    def close(self) -> None:
        self.pool.shutdown()
        for env in self.envs.values():
            env.close()
        self.envs.clear()


def _compute_alone() -> None:
    """Products of this thread are its own: split between threads, they are rounded otherwise."""
    import torch

    torch.set_num_threads(1)


def load_models(models: Models, device: str) -> tuple["Eyes", "MDRNN"]:
    """V and M on the device, ready to act; UserError where V cannot encode in the precision asked for."""
    from worldmodels import memory, quantized, vision
    from worldmodels.agent import Eyes
    from worldmodels.runs import checkpoint

    tensors, meta = checkpoint.parse(models.vae, "V")
    vae = vision.build("V", tensors, meta).to(device).eval()
    vae.use_bfloat16 = choose_bfloat16(models.precision, vae.device)
    encode = quantized.quantize(vae, tensors).encode if models.precision == "int8" else None
    mdrnn = memory.build("M", *checkpoint.parse(models.mdrnn, "M")).to(device).eval()
    return Eyes(vae, models.sample_z, encode), mdrnn
