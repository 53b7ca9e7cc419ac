"""A population scored on environments: in this process, or on worker processes with V and M of their own.

Shapes: P population, n parameters, E episodes.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldmodels import envs, memory, vision
from worldmodels.agent import Agent, choose_bfloat16
from worldmodels.rollout import Episode, GiveUp, drive
from worldmodels.workers.pool import Workers, cores


@dataclass(frozen=True)
class Setting:
    """What drives where: everything a worker needs besides the candidates."""

    logdir: str
    env: str
    inputs: str
    sample_z: bool
    seed: int
    lanes: int
    """Episodes side by side in one worker."""
    devices: tuple[str, ...]
    """One worker each."""
    precision: str = "float32"
    """Of V: "auto", "float32" or "bfloat16"."""
    hidden: int = 0
    """Units of C's hidden layer."""


@dataclass(frozen=True)
class Job:
    """Some episodes of a generation."""

    population: np.ndarray
    """float32 (P, n)"""
    episodes: tuple[Episode, ...]
    options: dict[str, Any] | None = None
    max_steps: int | None = None
    give_up: GiveUp | None = None


class Driver:
    """V and M loaded once, and the lanes they drive in kept from one generation to the next."""

    def __init__(self, setting: Setting, device: str, threads: int):
        self.setting, self.threads = setting, threads
        self.vae, self.mdrnn = vision.load(setting.logdir, device), memory.load(setting.logdir, device)
        self.vae.use_bfloat16 = choose_bfloat16(setting.precision, self.vae.device)
        self.lanes: dict[tuple[int, int | None], VectorEnv] = {}

    def env(self, num_envs: int, max_steps: int | None) -> VectorEnv:
        key = (num_envs, max_steps)
        if key not in self.lanes:
            self.lanes[key] = envs.make(self.setting.env, num_envs, num_threads=self.threads, max_steps=max_steps)
        return self.lanes[key]

    def scores(self, job: Job, on_step: Callable[[int], None] | None = None) -> tuple[np.ndarray, int]:
        """Scores (E,) of the job's episodes, and the steps driven."""
        env = self.env(min(self.setting.lanes, len(job.episodes)), job.max_steps)
        kind = envs.action_kind(envs.describe(self.setting.env), env.single_action_space)
        agent = Agent(
            self.vae, self.mdrnn, job.population, kind,
            inputs=self.setting.inputs, sample_z=self.setting.sample_z, seed=self.setting.seed,
            hidden=self.setting.hidden,
        )  # fmt: skip
        scores, lengths = drive(
            env, kind, agent, job.episodes, options=job.options, give_up=job.give_up, on_step=on_step
        )
        return scores, int(lengths.sum())


_driver: Driver | None = None  # of a worker process


def start_worker(setting: Setting) -> None:
    """Initializer of a worker process: it takes its turn's device and its share of the cores."""
    global _driver
    turn = int(multiprocessing.current_process().name.rsplit("-", 1)[1])  # SpawnProcess-7, SpawnProcess-8, …
    threads = max(1, cores() // len(setting.devices))
    torch.set_num_threads(threads)
    _driver = Driver(setting, setting.devices[turn % len(setting.devices)], threads)


def work(job: Job) -> tuple[np.ndarray, int]:
    """One job in a worker process."""
    assert _driver is not None
    return _driver.scores(job)


class Crew:
    """Scores populations: a single worker on the CPU is this process itself, all others are processes."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.here = Driver(setting, "cpu", cores()) if setting.devices == ("cpu",) else None
        self.workers = None if self.here else Workers(len(setting.devices), start_worker, (setting,))

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        if self.workers is not None:
            self.workers.__exit__(*error)

    def scores(
        self,
        population: np.ndarray,
        episodes: Sequence[Episode],
        *,
        options: dict[str, Any] | None = None,
        max_steps: int | None = None,
        give_up: GiveUp | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, int]:
        """Drive E episodes with the candidates (P, n); returns scores float64 (E,) and the steps driven.

        `on_step` is called with numbers of steps as they are driven (in worker processes: as jobs end).
        """
        if self.here is not None:
            return self.here.scores(Job(population, tuple(episodes), options, max_steps, give_up), on_step)
        assert self.workers is not None
        share = min(self.setting.lanes, -(-len(episodes) // len(self.setting.devices)))
        parts = [tuple(episodes[i : i + share]) for i in range(0, len(episodes), share)]
        scores, steps = np.zeros(len(episodes)), 0
        jobs = [Job(population, part, options, max_steps, give_up) for part in parts]
        for index, (part, driven) in self.workers.run(work, jobs):
            scores[index * share : index * share + len(part)] = part
            steps += driven
            if on_step is not None:
                on_step(driven)
        return scores, steps


def choose_devices(device: torch.device, max_workers: int, native: bool) -> tuple[str, ...]:
    """One worker a GPU of CUDA_VISIBLE_DEVICES; on a CPU one process that uses every core for our own simulator, and a
    process a core for any other environment."""
    if device.type == "cuda":
        count = torch.cuda.device_count()
        return tuple(f"cuda:{i % count}" for i in range(max_workers or count))
    return ("cpu",) * (max_workers or (1 if native else cores()))
