"""What C dreamed beside what it then drives: a film, and a strip of it for the report."""

from contextlib import closing

import numpy as np
import torch

from worldmodels.agent import Agent
from worldmodels.dream import Starts
from worldmodels.envs import World, make
from worldmodels.fast_dream import Dreams, Population
from worldmodels.memory import DEATH_LOGIT
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs.directory import RunDir
from worldmodels.show.mp4 import mp4_writer
from worldmodels.show.pictures import DREAM_COLUMNS, panels, write_grid
from worldmodels.show.spectator import pace

LABELS = ("what C dreams", "what it then drives")


def film(
    run: RunDir, agent: Agent, starts: Starts, temperature: float, steps: int, seed: int, number: int,
    death: float = DEATH_LOGIT,
) -> None:  # fmt: skip
    """Write ctrl/dream.mp4 and ctrl/samples/dream_<number>.png: a dream from the start of an episode beside the episode
    `seed` of the environment in which C was evolved, at most `steps` steps of each."""
    dreamed = agent.encoder.vae.decode(torch.from_numpy(dream(agent, starts, temperature, steps, seed, death)))
    real = driven(agent, steps, seed).frames
    count = min(len(dreamed), len(real))
    stride, fps = pace(World.practice(agent.env_id))
    with mp4_writer(run.dream, fps) as add:
        for both in zip(dreamed[:count:stride], real[:count:stride], strict=True):
            add(panels(both, LABELS))
    shown = np.linspace(0, count - 1, DREAM_COLUMNS).astype(int)
    write_grid(run.ctrl / "samples" / f"dream_{number:04d}.png", [dreamed[shown], real[shown]])


def dream(agent: Agent, starts: Starts, temperature: float, steps: int, seed: int, death: float) -> np.ndarray:
    """The z of each step, float32 (T, Z), from a state that begins an episode where the bank has one."""
    first = np.array([int(starts.restart.argmax())])
    dreams = Dreams(agent.memory, 1, temperature=temperature, death=death)
    act, lane = Population(dreams, agent.controller, agent.population.numpy(), agent.actions), np.arange(1)
    dreams.begin(lane, np.array([seed]), *starts.arrays(first))
    seen = []
    for _ in range(steps):
        seen.append(dreams.z[0].copy())
        if not dreams.active[0]:
            break
        dreams.step(act(lane, np.zeros(1, dtype=np.int64)))
    dreams.close()
    return np.stack(seen)


def driven(agent: Agent, steps: int, seed: int) -> Rollout:
    """The episode `seed`, driven from its own start."""
    seen: list[Rollout] = []
    with closing(make(World.practice(agent.env_id), 1, max_steps=steps)) as env:
        drive(env, agent.actions, agent, [Episode(seed)], on_rollout=lambda _, rollout: seen.append(rollout))
    return seen[0]
