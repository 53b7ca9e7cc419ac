"""Where the making of a C stands, and how an evolution comes back from last.safetensors.

Shapes: P population, n parameters of C.
"""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from worldmodels import controller
from worldmodels.controller import Controller
from worldmodels.envs import Description
from worldmodels.errors import UserError
from worldmodels.evolution import strategies
from worldmodels.evolution.carrying import carried
from worldmodels.evolution.search import Search, basis_of
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir, start_over
from worldmodels.runs.record import rebuilt
from worldmodels.runs.settings import TrainController

FIXED = (
    "env", "dream", "temperature", "death", "horizon", "strategy", "pop_size", "sigma", "sigma_decay", "seed",
    "directions", "inputs", "hidden", "sample_z",
)  # fmt: skip
"""Settings that an evolution keeps from its first generation to its last."""


@dataclass
class Standing:
    """Where the making of a C stands, by whatever command; JSON-able."""

    generation: int = 0
    """Finished generations."""
    env_steps: int = 0
    """Real steps driven for them, selection included,"""
    dream_steps: int = 0
    """and steps dreamed."""
    best: float | None = None
    """Highest mean score in selection."""
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Of both kinds."""
        return self.env_steps + self.dream_steps

    @property
    def best_so_far(self) -> str:
        """For people."""
        return "not selected yet" if self.best is None else f"{self.best:.1f} in selection"


@dataclass
class Generations(Standing):
    """Where an evolution stands."""

    select_tracks: int = 0
    """The episodes of selection by which `best` was found,"""
    models: str = ""
    """driven with this V and M."""

    def spent(self, cfg: TrainController) -> bool:
        """Whether the generations, or the steps, that were asked for are driven."""
        return self.generation >= cfg.epochs or 0 < cfg.env_steps <= self.env_steps


@dataclass
class State:
    """An evolution: the loop, and the strategy, which is rebuilt from the scores it was told."""

    loop: Generations
    settings: dict[str, Any]
    """The values of FIXED, and whether it began with another driver."""
    shape: Controller
    space: Search
    strategy: strategies.Strategy
    means: deque[np.ndarray]
    """The distribution's mean after each of the last generations."""
    history: list[np.ndarray] = field(default_factory=list)
    """The scores (P,) of every generation."""
    told: dict[str, np.ndarray] = field(default_factory=dict)
    """The strategy's state after the last of them."""

    @property
    def mean(self) -> np.ndarray:
        """The point that is evaluated and kept."""
        return np.mean(self.means, axis=0)

    @property
    def parameters(self) -> np.ndarray:
        """C's at that point, float32 (n,)."""
        return self.space.parameters(self.mean)

    def tell(self, scores: np.ndarray, steps: int, dreamed: bool) -> None:
        """Tell the strategy the scores (P,) of its generation, driven in so many steps."""
        self.strategy.tell(scores)
        self.means.append(self.strategy.mean)
        self.told = self.strategy.state()
        self.history.append(scores)
        self.loop.generation += 1
        self.count(steps, dreamed)

    def count(self, steps: int, dreamed: bool) -> None:
        """Enter what was driven."""
        if dreamed:
            self.loop.dream_steps += steps
        else:
            self.loop.env_steps += steps

    def finished(self, cfg: TrainController, description: Description) -> bool:
        """Whether the evolution has what it was asked for: generations, steps, or the score."""
        loop = self.loop
        target = description.target_return if cfg.target_return is None else cfg.target_return
        return loop.spent(cfg) or (loop.best is not None and target is not None and loop.best >= target)

    @property
    def summary(self) -> str:
        """For the progress bar."""
        return f"population {self.history[-1].mean():.0f}, best mean {self.loop.best_so_far}"

    def row(self, selected: float | None) -> dict[str, Any]:
        """The last generation's metrics."""
        scores = self.history[-1]
        return {
            "generation": self.loop.generation, "env_steps": self.loop.env_steps,
            "best": float(scores.max()), "mean": float(scores.mean()), "std": float(scores.std()),
            "worst": float(scores.min()), "sigma": self.strategy.sigma, "selected": selected,
        }  # fmt: skip

    def save(self, run: RunDir) -> None:
        """The scores, from which the strategy can be replayed, and its state, which makes that unnecessary."""
        arrays = {"history": np.array(self.history), "means": np.array(self.means)}
        arrays |= {name: array for name, array in vars(self.space).items() if isinstance(array, np.ndarray)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        strategy = {name: torch.from_numpy(np.array(array)) for name, array in self.told.items()}
        meta = {"settings": self.settings, "loop": asdict(self.loop)}
        checkpoint.save(run.ctrl / "last.safetensors", {**tensors, **checkpoint.pack("strategy", strategy)}, meta)


def resume(cfg: TrainController, run: RunDir, shape: Controller) -> State:
    """The evolution in last.safetensors; a fresh one where there is none, or with --noreload. UserError for one that
    was started with other settings, or is damaged."""
    settings = {name: getattr(cfg, name) for name in FIXED} | {"warm": cfg.warm is not None}
    path = run.ctrl / "last.safetensors"
    loop, history, arrays = Generations(), [], {}
    if path.exists() and not cfg.noreload:
        tensors, meta = checkpoint.load(path)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            plain = {name: getattr(TrainController(), name) for name in FIXED} | {"env": cfg.env, "warm": False}  # 0.1
            refuse_other_settings(run, settings, plain | meta["settings"])
            loop, history = rebuilt(Generations, meta["loop"]), list(arrays["history"].reshape(-1, cfg.pop_size))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no evolution: delete it, or start over with --noreload.") from error
        print(f"Continuing C in {run.ctrl} at generation {loop.generation + 1}.")
    space = Search(shape, arrays.get("basis"), arrays.get("origin"))
    if cfg.directions and space.basis is None:
        space = Search(shape, basis_of(shape, run, cfg.directions), space.origin)
    if cfg.warm and space.origin is None:
        space.origin, steps = carried(cfg.warm, run, shape, cfg.env, cfg.seed)
        loop.env_steps += steps
    strategy = strategies.make(cfg.strategy, space.size, cfg.pop_size, cfg.sigma, cfg.seed, cfg.sigma_decay)
    means = deque(bring_back(strategy, history, arrays, run), maxlen=cfg.average)
    forget_best_of_another_course(cfg, run, loop)
    if cfg.noreload:
        start_over(run.ctrl)
    return State(loop, settings, shape, space, strategy, means, history)


def bring_back(
    strategy: strategies.Strategy, history: list[np.ndarray], arrays: dict[str, np.ndarray], run: RunDir
) -> Iterable[np.ndarray]:
    """Make a fresh strategy the one that was told `history`; returns its latest means. UserError where neither its
    state nor its scores lead there with the versions installed."""
    state = {name.removeprefix("strategy."): array for name, array in arrays.items() if name.startswith("strategy.")}
    with suppress(KeyError, ValueError):  # none, or that of CMA-ES
        strategy.restore(state)
        return list(arrays["means"])
    means = list(strategies.replay(strategy, history))
    sigma = float(arrays.get("strategy.sigma", strategy.sigma))
    if "means" in arrays and not strategies.arrived(strategy, arrays["means"][-1], sigma):
        raise UserError(
            f"The evolution in {run.ctrl} cannot be continued: its scores lead elsewhere with the cma and NumPy that "
            "are installed. Install the versions in config.json, or start over with --noreload."
        )
    return means


def refuse_other_settings(run: RunDir, asked: dict[str, Any], before: dict[str, Any]) -> None:
    """UserError for a C that was started with other settings; KeyError where `before` lacks one of those asked for."""
    if changed := [name for name, value in asked.items() if before[name] != value]:
        raise UserError(
            f"C in {run.ctrl} was started with other settings ({', '.join(changed)}): "
            "use the same ones, another --logdir, or --noreload to start over."
        )


def forget_best_of_another_course(cfg: TrainController, run: RunDir, loop: Generations) -> None:
    """Scores on other selection tracks, or with another V or M, do not compare."""
    models = checkpoint.digest(run.trained("vae"), run.trained("mdrnn"))
    if loop.models not in ("", models):
        how = "more --epochs or --env-steps go" if loop.spent(cfg) else "it goes"
        print(f"V or M has changed since C evolved: {how} on with the new ones.")
        loop.best = None
    if loop.select_tracks != cfg.select_tracks:
        loop.best = None
    loop.select_tracks, loop.models = cfg.select_tracks, models


def save_best(run: RunDir, state: State, cfg: TrainController) -> None:
    """The weights that act, with what an agent needs to know about them."""
    agent = {"sample_z": cfg.sample_z, "seed": cfg.seed}
    origin = {"env": cfg.env, "generation": state.loop.generation, "selected": state.loop.best}
    controller.save(run, state.shape, state.parameters, {"agent": agent, **origin})
