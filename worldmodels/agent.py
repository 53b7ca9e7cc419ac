"""V, M and C acting together: observations → z → [z, h] → action, and h moves on.

Shapes: N lanes of the environment, L of them driving now, P population, n parameters of C, Z latent, H hidden,
F features, A action.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels import memory as mdrnn
from worldmodels import vision
from worldmodels.controller import Controller
from worldmodels.controller import load as load_controller
from worldmodels.data.latents import say_of_another_v
from worldmodels.envs import Actions, World, actions_in, as_frames, describe, registered
from worldmodels.envs.frames import Crop
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.progress import say_once
from worldmodels.vision import VAE

Moments = tuple[Tensor, Tensor]
"""Mean and log-variance of z, each float32 (B, Z)."""


class Eyes:
    """V as an encoder: the mean of z, or a sample of it (the paper's code), for which it needs noise."""

    def __init__(self, vae: VAE, samples: bool = False, encode: Callable[[np.ndarray], Moments] | None = None):
        """`encode` takes the place of V's own, where it is done in another arithmetic."""
        self.vae, self.z_size, self.samples, self.encode = vae, vae.z_size, samples, encode or vae.encode

    def __call__(self, observations: np.ndarray, noise: Tensor | None) -> Tensor:
        """Frames uint8 (L, 64, 64, 3), and standard normal noise (L, Z) if it samples → z float32 (L, Z)."""
        mean, logvar = self.encode(observations)
        return mean if noise is None else mean + torch.exp(0.5 * logvar) * noise


class Agent:
    """A whole population that acts in one batch: one V and one M for all lanes, a parameter vector of C a lane."""

    def __init__(
        self, encoder: Eyes, memory: MDRNN, controller: Controller, population: np.ndarray, actions: Actions,
        seed: int = 0, rows: int = 1, threads: int = 1, each: Callable[..., Any] = map,
    ):  # fmt: skip
        """
        Args:
            encoder: V, as `Eyes`.
            memory: M, on the same device.
            controller: the shape of C.
            population: float (P, n), the parameter vectors of C; `Episode.candidate` says which of them drives.
            actions: how C's outputs become actions.
            seed: of the samples of z, which depend on (seed, episode, candidate) alone.
            rows: fewest rows of a matrix product, filled up with copies: a lane of few is rounded otherwise than one of
                many. From 8 on, on one thread of one kind of processor, it does not matter how many lanes there are.
            threads: the lanes act in at most so many parts, a part for every `rows` lanes begun.
            each: `map`, or that of `threads` threads on which PyTorch computes alone.

        Raises:
            UserError: V, M, C and the actions do not fit each other.
        """
        check_fit(encoder, memory, controller, population, actions)
        self.encoder, self.memory, self.controller, self.actions, self.seed = encoder, memory, controller, actions, seed
        self.rows, self.threads, self.each = rows, threads, each
        self.env_id = ""  # where C was trained, if the agent was loaded
        self.crop: Crop | None = None  # of observations that the agent is called with
        self.population = torch.as_tensor(population, dtype=torch.float32, device=memory.device)
        self.candidate = torch.zeros(0, dtype=torch.long, device=memory.device)  # (N,)
        self.h, self.c = memory.initial_state(0)  # (N, H) each
        self.noise: list[np.random.Generator] = []  # one per lane

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        """`lanes` int64 (n,) start the given episodes with h = c = 0."""
        self.make_room(int(lanes.max()) + 1)
        index = torch.as_tensor(lanes, device=self.h.device)
        self.h[index], self.c[index] = 0.0, 0.0
        self.candidate[index] = torch.tensor([episode.candidate for episode in episodes], device=self.h.device)
        for lane, episode in zip(lanes, episodes, strict=True):
            self.noise[lane] = np.random.default_rng([self.seed, episode.seed, episode.candidate])

    def make_room(self, lanes: int) -> None:
        missing = lanes - len(self.noise)
        if missing > 0:
            h, c = self.memory.initial_state(missing)
            self.h, self.c = torch.cat([self.h, h]), torch.cat([self.c, c])
            self.candidate = torch.cat([self.candidate, self.candidate.new_zeros(missing)])
            self.noise += [np.random.default_rng(0)] * missing

    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Observations of `lanes` int64 (L,), frames uint8 (L, 64, 64, 3) → actions float32 (L, A); h moves on."""
        parts = max(1, min(self.threads, -(-len(lanes) // self.rows)))
        acted = self.each(self.act_part, np.array_split(lanes, parts), np.array_split(observations, parts))
        return np.concatenate(list(acted))

    @torch.no_grad()
    def act_part(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """`act` of a part of the lanes, in one product."""
        count, missing = len(lanes), max(0, self.rows - len(lanes))
        noise = self.draw(lanes) if self.encoder.samples else None
        if missing:
            lanes = np.concatenate([lanes, np.repeat(lanes[:1], missing)])
            observations = np.concatenate([observations, np.repeat(observations[:1], missing, axis=0)])
            noise = None if noise is None else torch.cat([noise, noise.new_zeros(missing, noise.shape[1])])
        index = torch.as_tensor(lanes, device=self.h.device)
        z = self.encoder(observations, noise)  # (L, Z)
        state = (self.h[index], self.c[index])
        outputs = self.decide(lanes, self.population[self.candidate[index]], self.controller.see(z, state))  # (L, O)
        actions = self.actions.squash(outputs.cpu().numpy())
        h, c = self.memory.step(z, torch.from_numpy(actions).to(z.device), state)
        self.h[index[:count]], self.c[index[:count]] = h[:count], c[:count]
        return actions[:count]

    def decide(self, lanes: np.ndarray, parameters: Tensor, seen: Tensor) -> Tensor:
        """C's raw outputs (L, O) of parameters (L, n) and features (L, F)."""
        return self.controller.act(parameters, seen)

    def draw(self, lanes: np.ndarray) -> Tensor:
        """Standard normal noise (L, Z), each lane from its own generator."""
        size = self.encoder.z_size
        noise = np.stack([self.noise[lane].standard_normal(size, dtype=np.float32) for lane in lanes])
        return torch.from_numpy(noise).to(self.h.device)

    def reset(self, seed: int = 0) -> None:
        """Begin an episode outside the batched loop; `seed` matters to agents that sample z."""
        self.begin(np.array([0]), [Episode(seed)])

    def __call__(self, observation: np.ndarray) -> Any:
        """One observation uint8 (height, width, 3) of a single environment, or a grey one → what its `step` takes.

        Raises:
            UserError: the observation is something else.
        """
        image = np.asarray(observation)
        if image.dtype != np.uint8 or not image.size or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)):
            raise UserError(
                f"The observation is {image.dtype} {image.shape}: an agent sees uint8 (height, width, 3), or grey ones."
            )
        if not self.noise:
            self.reset()
        return self.actions.to_env(self.act(np.array([0]), as_frames(image[None], self.crop)))[0]


AGAIN = "train it again with `worldmodels train-{} --noreload`."


def check_fit(encoder: Eyes, memory: MDRNN, controller: Controller, population: np.ndarray, actions: Actions) -> None:
    """UserError for the first two parts that do not fit each other; the sentence says which to train again."""
    needed = fitted(controller, encoder.z_size, memory, actions)
    if controller != needed or population.shape[1] != controller.size:
        raise UserError(
            f"C has {population.shape[1]} parameters where this V, M and environment need {needed.size}: "
            + AGAIN.format("controller")
        )


def fitted(controller: Controller, z_size: int, memory: MDRNN, actions: Actions) -> Controller:
    """C with the sizes that V, M and the environment need; UserError where those do not fit each other."""
    if z_size != memory.z_size:
        raise UserError(f"V makes z of {z_size} numbers and M expects {memory.z_size}: for M, " + AGAIN.format("mdrnn"))
    if memory.action_size != actions.size:
        raise UserError(
            f"M was trained on actions of {memory.action_size} numbers, and this environment takes {actions.size}: "
            "choose the environment it was trained on, or for M, " + AGAIN.format("mdrnn")
        )
    return replace(controller, z_size=z_size, hidden_size=memory.hidden_size, outputs=actions.outputs)


def load(run: str | Path | RunDir, actions: Actions | None = None, device: torch.device | str = "cpu") -> Agent:
    """The best driver of a run; without `actions`, of the environment that C was trained in.

    Raises:
        UserError: V, M or C is missing (the sentence names the command that makes it), damaged, or does not fit.
    """
    run = RunDir.of(run)
    vae, memory = vision.load(run, device), mdrnn.load(run, device)
    controller, parameters, meta = load_controller(run)
    try:
        env_id, settings = meta["env"], meta["agent"]
        encoder = Eyes(vae, settings["sample_z"])
        agent = Agent(
            encoder, memory, controller, parameters[None], actions or trained_in(env_id), seed=settings["seed"]
        )
        agent.env_id, agent.crop = env_id, describe(env_id).crop
        say_what_has_changed(run)
    except (KeyError, TypeError) as error:
        raise UserError(f"The C of {run.path} does not say how it acts: train it again with --noreload.") from error
    return agent


def say_what_has_changed(run: RunDir) -> None:
    """Say on stderr, once, if V or M was trained anew under what has learned from it."""
    if say_of_another_v(run):
        return
    last = run.ctrl / "last.safetensors"
    with suppress(UserError, KeyError, TypeError):  # none, or of no evolution
        models = checkpoint.load(last)[1]["loop"]["models"]
        if models not in ("", checkpoint.digest(run.trained("vae"), run.trained("mdrnn"))):
            say_once(
                f"C in {run.path} has evolved with another V or M than are there now: `worldmodels train-controller` "
                "with more --epochs goes on with these."
            )


def trained_in(env_id: str) -> Actions:
    """The actions of the environment that a checkpoint names; a file never makes this process import a module.

    Raises:
        UserError: it is not registered.
    """
    if not registered(env_id):
        raise UserError(f"C was trained in {env_id}, which is not registered here: import its module first.")
    return actions_in(World(describe(env_id).env_id))
