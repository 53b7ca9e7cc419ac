"""A driver of one V and M is carried over to others: in the same states C goes on doing what it did."""

from contextlib import closing

import numpy as np

from worldmodels import agent, envs, memory, vision
from worldmodels.controller import Controller
from worldmodels.data.latents import look
from worldmodels.envs import World
from worldmodels.envs.seeds import training_seeds
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs.directory import RunDir
from worldmodels.training.dreaming import carry_over
from worldmodels.workers.places import cores

DRIVES = 16  # whole training episodes in whose states both are compared
KEY = 0xCA441ED  # of their seeds, with the run's


def carried(source: str, run: RunDir, shape: Controller, env_id: str, seed: int) -> tuple[np.ndarray, int]:
    """The best driver of the run `source` for the V and M of `run`: its parameters float64 (n,), and the real steps
    that it drove in `env_id` for that. UserError where a part is missing, or its C has another `shape` than asked for.
    """
    world = World.practice(env_id)
    driver = agent.load(source, envs.actions_in(world))
    if driver.controller != shape:
        raise UserError(
            f"The C of {source} sees [{', '.join(driver.controller.inputs)}] of {driver.controller.features} numbers "
            f"and this one {shape.features}: leave --warm out, or use the same sizes."
        )
    rollouts: list[Rollout] = []
    episodes = [Episode(episode) for episode in training_seeds(seed, KEY, count=DRIVES)]
    with closing(envs.make(world, DRIVES, threads=cores())) as lanes:
        drive(lanes, driver.actions, driver, episodes, on_rollout=lambda _, rollout: rollouts.append(rollout))
    old, new = ([look(vae, rollout) for rollout in rollouts] for vae in (vision.load(source), vision.load(run)))
    parameters = driver.population.double().numpy()
    there = carry_over(shape, parameters, driver.memory, memory.load(run), old, new)[0]
    return there, sum(len(rollout.actions) for rollout in rollouts)
