"""A drive seen from outside: what the environment shows, what V sees of it, and what M expects next.

One lane, one episode; the score is that of the drive shown. Watching changes nothing about it.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers import RecordEpisodeStatistics

from worldmodels import memory
from worldmodels.agent import Agent
from worldmodels.envs import World, describe, make_one
from worldmodels.envs.lanes import Lanes, Seen
from worldmodels.rollout import Episode, drive
from worldmodels.show.mp4 import mp4_writer, require_ffmpeg
from worldmodels.show.pictures import WIDTH, fit, labelled, panels
from worldmodels.workers.places import limited_threads

VIDEO_FPS = 25  # about: every second step of CarRacing's 50 per second
LABELS = ("what V sees", "V's reconstruction", "M's next frame")


@dataclass(frozen=True)
class Glimpse:
    """What there is to see before one step of a drive; pictures are uint8."""

    view: np.ndarray  # (height, width, 3): what the environment draws for people; V's frame where it draws nothing
    frame: np.ndarray  # (64, 64, 3): what V sees
    reconstruction: np.ndarray  # (64, 64, 3): V's decoder on the mean of z
    prediction: np.ndarray  # (64, 64, 3): V's decoder on M's likeliest next z
    step: int
    score: float


class Spectator:
    """A policy that lets an agent drive lane 0 of `lanes` and shows every `stride`-th step."""

    def __init__(self, agent: Agent, lanes: Lanes, stride: int, show: Callable[[Glimpse], None]):
        self.agent, self.lanes, self.stride, self.show = agent, lanes, stride, show
        self.step = 0

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        self.step = 0
        self.agent.begin(lanes, episodes)

    def act(self, lanes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """As `Agent.act`; frames uint8 (1, 64, 64, 3)."""
        actions = self.agent.act(lanes, frames)
        if self.step % self.stride == 0:
            self.show(self.glimpse(frames))
        self.step += 1
        return actions

    def glimpse(self, frames: np.ndarray) -> Glimpse:
        """The picture of this step; M has just read its action, so its h predicts the next z."""
        vae, mdrnn = self.agent.encoder.vae, self.agent.memory
        mean, _ = vae.encode(frames)  # (1, Z)
        expected = memory.sample(mdrnn.predict(self.agent.h[:1]), temperature=0)  # (1, Z)
        env = self.lanes.envs[0]
        view = as_picture(env.render()) if env.render_mode == "rgb_array" else None
        reconstruction, prediction = vae.decode(torch.cat([mean, expected]))
        return Glimpse(
            view=frames[0].copy() if view is None else view,
            frame=frames[0].copy(),
            reconstruction=reconstruction,
            prediction=prediction,
            step=self.step,
            score=float(env.get_wrapper_attr("episode_returns")),
        )


def as_picture(view: object) -> np.ndarray | None:
    """What an environment renders as uint8 (height, width, 3): grey and RGBA pictures too; None for anything else."""
    picture = np.atleast_3d(np.asarray(view))
    if picture.dtype != np.uint8 or picture.ndim != 3 or not picture.size or picture.shape[2] not in (1, 3, 4):
        return None
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]


def metadata(world: World) -> dict[str, Any]:
    """What an environment says of itself: its render modes, e.g. ["human", "rgb_array"], and frames per second."""
    with closing(make_one(world)) as env:
        return env.metadata or {}


def render_modes(world: World) -> list[str]:
    """The render modes that an environment offers."""
    return metadata(world).get("render_modes") or []


def pace(world: World) -> tuple[int, float]:
    """(steps from one frame of a video to the next, frames per second), so that it runs as fast as the world does; at
    30 steps per second where the environment does not say."""
    fps = metadata(world).get("render_fps")
    steps = float(fps) if isinstance(fps, int | float) and 0 < fps < math.inf else 30.0
    stride = max(1, round(steps / VIDEO_FPS))
    return stride, steps / stride


def lane(world: World, max_steps: int | None, render_mode: str | None) -> Lanes:
    """One lane around a scalar environment that draws for people, its score so far at hand."""

    def make() -> Seen:
        env = RecordEpisodeStatistics(make_one(world, max_steps=max_steps, render_mode=render_mode))
        return Seen(env, describe(world.env_id).crop)

    return Lanes([make])


def watch(
    agent: Agent,
    world: World,
    seed: int,
    show: Callable[[Glimpse], None],
    *,
    max_steps: int | None = None,
    stride: int = 1,
) -> tuple[float, int]:
    """Let candidate 0 of `agent` drive the episode `seed`, showing every `stride`-th step; returns (score, length)."""
    with closing(lane(world, max_steps, drawing(world))) as lanes, limited_threads(1):
        scores, lengths = drive(lanes, agent.actions, Spectator(agent, lanes, stride, show), [Episode(seed)])
    return float(scores[0]), int(lengths[0])


def drawing(world: World) -> str | None:
    """The render mode that gives pictures for people; None where there is none."""
    return "rgb_array" if "rgb_array" in render_modes(world) else None


def try_out(world: World, max_steps: int | None, filming: bool) -> None:
    """Make the environment, and a first picture for people if its drive will be filmed: UserError where that fails."""
    if filming:
        require_ffmpeg()
    with closing(lane(world, max_steps, drawing(world) if filming else None)) as lanes:
        lanes.reset(seed=0)
        if filming:
            lanes.envs[0].render()


def film(agent: Agent, world: World, seed: int, path: Path, *, max_steps: int | None = None) -> tuple[float, int]:
    """`watch` a drive into an mp4 of 600×644 pixels: the environment's own view, a caption, and below it what V and M
    make of it; returns its (score, length)."""
    stride, fps = pace(world)
    with mp4_writer(path, fps) as add:

        def show(now: Glimpse) -> None:
            caption = f"{world.env_id.split(':')[-1]}  ·  seed {seed}  ·  step {now.step}  ·  score {now.score:.0f}"
            frames = (now.frame, now.reconstruction, now.prediction)
            add(np.concatenate([fit(now.view, WIDTH, 400), labelled(caption, WIDTH, "left"), panels(frames, LABELS)]))

        return watch(agent, world, seed, show, max_steps=max_steps, stride=stride)


def has_display() -> bool:
    """Whether a window can be opened here: macOS and Windows, or a Linux display that answers.

    Gymnasium's own environments draw with pygame, which comes with them: without it there is no window either.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        pygame = importlib.import_module("pygame")
        pygame.display.init()
    except (ImportError, RuntimeError):  # pygame's errors are such
        return False
    pygame.display.quit()
    return True
