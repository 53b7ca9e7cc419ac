"""Where a C that learns in the dream stands, with the M it learns in and the episodes of its rounds, and how it comes
back from last.safetensors.

Shapes: n parameters of C.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodels import controller, envs, memory, vision
from worldmodels.agent import Agent, Eyes, fitted
from worldmodels.controller import Controller
from worldmodels.data.latents import TAIL, Latents, stored_latents
from worldmodels.envs import Actions, World
from worldmodels.errors import UserError
from worldmodels.evolution.standing import Standing, refuse_other_settings
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir, start_over
from worldmodels.runs.record import rebuilt
from worldmodels.runs.settings import TrainInDream
from worldmodels.vision import VAE
from worldmodels.workers.places import choose_bfloat16

AHEAD = ("discount", "supply")  # what M's value counts, and a driver's M says of itself
FIXED = ("env", "horizon", "seed")
"""Settings that a C keeps from its first round to its last."""


@dataclass
class Rounds(Standing):
    """Where the learning stands; a round counts as a generation, and the first episodes among the real steps."""

    resting: int = 0
    """1 where C does not climb in the next round."""


@dataclass
class Learner:
    """C, and the M it learns in."""

    loop: Rounds
    vae: VAE
    mdrnn: MDRNN
    optimizer: torch.optim.Optimizer
    """Of M."""
    shape: Controller
    parameters: np.ndarray
    """Of C, float64 (n,),"""
    average: np.ndarray
    """and their average over the last rounds (n,), which is evaluated and kept."""
    first_discount: float
    """Of the value of the M that train-mdrnn left."""
    actions: Actions
    settings: dict[str, Any]
    """The values of FIXED, and which V it is that sees."""
    rounds: list[list[Latents]] = field(default_factory=list)
    """The episodes on which M was trained first, then those of every round."""
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best C's parameters and M, as tensors of a checkpoint."""

    @staticmethod
    def of(cfg: TrainInDream, run: RunDir) -> "Learner":
        """The learner in last.safetensors; a fresh one where there is none, or with --noreload. UserError where V or M
        is missing or without the heads, or the file holds something else."""
        vae, path = vision.load(run), run.ctrl / "last.safetensors"
        vae.use_bfloat16 = choose_bfloat16(cfg.precision, vae.device)
        first = run.mdrnn / "last.safetensors"  # as train-mdrnn left it: best.safetensors goes on with C
        mdrnn = memory.build(first, *checkpoint.load(first)).requires_grad_(True)
        refuse(cfg, mdrnn.pays, mdrnn.discount)
        actions = envs.tried(World(cfg.env), cfg.start)
        shape = fitted(Controller(), vae.z_size, mdrnn, actions)
        trained = [parameter for parameter in mdrnn.parameters() if parameter.requires_grad]
        learner = Learner(
            Rounds(), vae, mdrnn, torch.optim.Adam(trained, cfg.learning_rate), shape, np.zeros(shape.size),
            np.zeros(shape.size), mdrnn.discount, actions,
            {name: getattr(cfg, name) for name in FIXED} | {"V": checkpoint.digest(run.trained("vae"))},
            [list(stored_latents(run.latents, run.trained("vae")))],
        )  # fmt: skip
        learner.loop.env_steps = sum(len(episode.actions) for episode in learner.rounds[0])
        if path.exists() and not cfg.noreload:
            learner.resume(run, *checkpoint.load(path))
        learner.look_ahead(cfg, learner.loop.generation)
        if not learner.rounds[0]:
            raise UserError(f"{run.latents} holds no episodes as V sees them: run `worldmodels train-mdrnn` again.")
        if cfg.noreload:
            start_over(run.ctrl)
        return learner

    def resume(self, run: RunDir, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint's content."""
        path = run.ctrl / "last.safetensors"
        try:
            refuse_other_settings(run, self.settings, meta["settings"])
            self.loop = rebuilt(Rounds, meta["dream"])
            self.mdrnn.load_state_dict(checkpoint.unpack("mdrnn", tensors))
            checkpoint.unpack_optimizer(self.optimizer, tensors, 0.0)
            self.parameters, self.average = tensors["parameters"].numpy(), tensors["average"].numpy()
            self.best = checkpoint.unpack("best", tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} holds no C that learned in the dream: start over with --noreload.") from error
        self.rounds += [load_episodes(run, number + 1) for number in range(self.loop.generation)]
        if self.best:
            self.publish(run)
        print(f"Continuing C in {run.ctrl} at round {self.loop.generation + 1}.")

    def save(self, run: RunDir) -> None:
        """Replace last.safetensors."""
        tensors = {
            "parameters": torch.from_numpy(self.parameters), "average": torch.from_numpy(self.average),
            **checkpoint.pack("mdrnn", self.mdrnn.state_dict()), **checkpoint.pack_optimizer(self.optimizer),
            **checkpoint.pack("best", self.best),
        }  # fmt: skip
        checkpoint.save(run.ctrl / "last.safetensors", tensors, {"dream": asdict(self.loop), "settings": self.settings})

    def begin(self, cfg: TrainInDream) -> None:
        """C begins from nothing, and M looks as far ahead as when it was first met."""
        self.loop.resting = 0
        self.parameters, self.average = np.zeros(self.shape.size), np.zeros(self.shape.size)
        self.look_ahead(cfg, 0)

    def look_ahead(self, cfg: TrainInDream, number: int) -> None:
        """Let M's value look as far as after round `number`: the steps it looks ahead grow by the same factor in every
        round of this C, from those of the first discount to those of the last."""
        share = min(age_of(cfg, number) / cfg.farther, 1.0) if cfg.farther else 1.0
        self.mdrnn.look_ahead(1 - (1 - self.first_discount) ** (1 - share) * (1 - cfg.discount) ** share, cfg.supply)

    def newest(self, count: int) -> list[Latents]:
        """The episodes of the last `count` rounds."""
        return [episode for episodes in self.rounds[-count:] for episode in episodes]

    def keep_episodes(self, run: RunDir, number: int, episodes: list[Latents]) -> None:
        """Add those of round `number`, and write them as V saw them."""
        self.rounds.append(episodes)
        tensors = {f"{i}.{name}": x for i, episode in enumerate(episodes) for name, x in episode._asdict().items()}
        checkpoint.save(episodes_of(run, number), tensors, {"episodes": len(episodes)})

    def driver(self) -> Agent:
        """C's average, as it is evaluated and kept."""
        return Agent(Eyes(self.vae), self.mdrnn, self.shape, self.average[None], self.actions)

    def keep_best(self, run: RunDir, score: float) -> None:
        """Keep the driver with its M if none has scored more in selection."""
        if self.loop.best is not None and score <= self.loop.best:
            return
        self.loop.best = score
        parameters = torch.from_numpy(self.average.astype(np.float32))
        m = {name: tensor.clone() for name, tensor in self.mdrnn.state_dict().items()}
        ahead = {name: torch.tensor(getattr(self.mdrnn, name), dtype=torch.float64) for name in AHEAD}
        self.best = {"parameters": parameters, **ahead, **checkpoint.pack("mdrnn", m)}
        self.publish(run)

    def publish(self, run: RunDir) -> None:
        """Make the best C, with its M, the run's driver."""
        _, meta = checkpoint.load(run.mdrnn / "last.safetensors")
        tensors = checkpoint.pack("mdrnn", checkpoint.unpack("mdrnn", self.best))
        settings = meta["mdrnn"] | {name: float(self.best[name]) for name in AHEAD if name in self.best}
        about_m = {"mdrnn": settings, "precision": "float32", "went_on": True, "V": self.settings["V"]}
        checkpoint.save(run.mdrnn / "best.safetensors", tensors, about_m)
        about = {"agent": {"sample_z": False, "seed": self.settings["seed"]}, "env": self.settings["env"]}
        origin = {"generation": self.loop.generation, "selected": self.loop.best}
        controller.save(run, self.shape, self.best["parameters"].numpy(), {**about, **origin})

    def summary(self, row: dict[str, Any]) -> str:
        """For the progress bar."""
        text = f"population {row['mean']:.0f}, best {self.loop.best_so_far}"
        return text + (f", promised {row['promised']:.0f} paid {row['paid']:.0f}" if "paid" in row else "")


def age_of(cfg: TrainInDream, number: int) -> int:
    """The rounds of the C that learns in round `number`, this one included."""
    return number - cfg.afresh if 0 < cfg.afresh < number else number


def refuse(cfg: TrainInDream, pays: bool, discount: float) -> None:
    """UserError for an M whose dream pays nothing, or that knows no value, or episodes that end too soon to tell."""
    envs.reset_options(cfg.env, cfg.start)
    if 0 < cfg.give_up < TAIL:
        raise UserError(
            f"--give-up is {cfg.give_up}: an episode that is given up is taken to go on as in its last {TAIL} steps, "
            "so give at least as many, or 0."
        )
    if not (pays and discount):
        raise UserError(
            "C learns in the dream of an M that predicts rewards and their value: "
            "`worldmodels train-mdrnn --noreload --include-reward --discount 0.997` trains one that does."
        )


def episodes_of(run: RunDir, number: int) -> Path:
    """Where the episodes of round `number` lie."""
    return run.ctrl / "episodes" / f"round_{number:04d}.safetensors"


def load_episodes(run: RunDir, number: int) -> list[Latents]:
    """The episodes of round `number`."""
    tensors, meta = checkpoint.load(episodes_of(run, number))
    return [Latents(**checkpoint.unpack(str(i), tensors)) for i in range(meta["episodes"])]
