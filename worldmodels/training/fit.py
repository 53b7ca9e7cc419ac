"""The training loop that V and M share: epochs, plateau, early stopping, best and last, exact resume.

A run that is killed at any instant and started again ends with the same weights and metrics as one that was not:
batches and noise depend on (seed, epoch, batch) alone, and `last.safetensors` holds weights, moments and loop state
in one file that is replaced in one rename.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.settings import TrainMDRNN, TrainVAE

Settings = TrainVAE | TrainMDRNN  # a training command's config


@dataclass
class Loop:
    """Where a training stands; JSON-able."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch in progress."""
    learning_rate: float = 0.0
    best: float = math.inf
    """Lowest test loss so far."""
    stale: int = 0
    """Epochs since then."""
    seconds: float = 0.0
    """Time spent training, all sessions together."""
    weight: float = 0.0
    """Items (frames, transitions) of the epoch in progress, and the weighted sums of its metrics:"""
    sums: dict[str, float] = field(default_factory=dict)


@dataclass
class Trainee:
    """A model with its optimizer, its folder and the name under which its weights and settings are stored."""

    name: str
    """`vae` or `mdrnn`: also the key of the settings that rebuild the model."""
    title: str
    """V or M."""
    model: nn.Module
    settings: dict[str, Any]
    optimizer: torch.optim.Optimizer
    folder: Path
    labels: dict[str, Any] = field(default_factory=dict)
    """Stored with the settings, but no part of the architecture that a resumed training must share."""

    def tensors(self) -> dict[str, Tensor]:
        return checkpoint.pack(self.name, self.model.state_dict())

    def save_best(self) -> None:
        checkpoint.save(self.folder / "best.safetensors", self.tensors(), {self.name: self.settings | self.labels})

    def save_last(self, loop: Loop, data: str) -> None:
        """Replace last.safetensors; UserError instead when a weight is no number any more."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise diverged(self, f"{self.title} has weights that are not numbers")
        meta = {self.name: self.settings | self.labels, "loop": dataclasses.asdict(loop), "data": data}
        tensors = {**self.tensors(), **checkpoint.pack_optimizer(self.optimizer)}
        checkpoint.save(self.folder / "last.safetensors", tensors, meta)

    def resume(self, cfg: Settings, data: str) -> Loop:
        """Continue from last.safetensors, or start over with --noreload or where there is none.

        On other episodes than before, the epoch in progress begins anew.

        Raises:
            UserError: the checkpoint is damaged or of another architecture.
        """
        path = self.folder / "last.safetensors"
        if cfg.noreload:
            for old in [*self.folder.glob("*.safetensors"), self.folder / "metrics.jsonl"]:
                old.unlink(missing_ok=True)
        if not path.exists():
            return Loop(learning_rate=cfg.learning_rate)
        tensors, meta = checkpoint.load(path)
        if (meta.get(self.name) or {}) | self.labels != self.settings | self.labels:
            raise UserError(
                f"{path} holds a {self.title} with {meta.get(self.name)} where {self.settings} is asked for: "
                "use the same settings, another --logdir, or --noreload to start over."
            )
        loop = Loop(**meta["loop"])
        self.model.load_state_dict(checkpoint.unpack(self.name, tensors))
        checkpoint.unpack_optimizer(self.optimizer, tensors, loop.learning_rate)
        if meta["data"] != data:
            print(f"The episodes have changed since {self.title} was trained: it goes on with the new ones.")
            loop.batch, loop.weight, loop.sums, loop.best, loop.stale = 0, 0.0, {}, math.inf, 0
        return loop


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A torch generator whose draws depend on `key` alone."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def fit(
    trainee: Trainee,
    cfg: Settings,
    *,
    data: str,
    batches: Callable[[int, int], Iterable[Any]],
    batches_per_epoch: int,
    loss: Callable[[Any, torch.Generator], tuple[Tensor, dict[str, Tensor], float]],
    test_batches: Callable[[], Iterable[Any]],
    rate_name: str,
    clip: float | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train until `cfg.epochs`, or until the test loss has not improved for `cfg.stop_after` epochs.

    Args:
        trainee: what to train.
        cfg: how.
        data: a fingerprint of the data; resuming on other data is noticed and said.
        batches: (epoch, batches to skip) → the epoch's batches.
        batches_per_epoch: for the progress bar.
        loss: (batch, generator) → loss, metrics, and the number of items in the batch.
        test_batches: → the batches of the test episodes.
        rate_name: metric name of items a second.
        clip: bound of each gradient number.
        after_epoch: called with the number of the finished epoch (pictures).

    Raises:
        UserError: the loss is not a number; the last good checkpoint stays.
    """
    loop = trainee.resume(cfg, data)
    if cfg.epochs == 0 and not loop.epoch:
        trainee.save_best()
        print(f"{trainee.title} in {trainee.folder} stays untrained.")
        return
    if loop.epoch >= cfg.epochs or loop.stale >= cfg.stop_after:
        print(
            f"{trainee.title} in {trainee.folder} is trained already ({loop.epoch} epochs, test loss {loop.best:.4f}): "
            "more --epochs train it further, --noreload starts over."
        )
        return
    if loop.epoch or loop.batch:
        print(f"Continuing {trainee.title} in {trainee.folder} at epoch {loop.epoch + 1}, batch {loop.batch}.")
    device = next(trainee.model.parameters()).device
    metrics_file = Metrics(trainee.folder, "epoch", loop.epoch)
    started, saved = time.perf_counter() - loop.seconds, time.perf_counter()

    while loop.epoch < cfg.epochs and loop.stale < cfg.stop_after:
        bar = tqdm(total=batches_per_epoch, initial=loop.batch, unit="batch", dynamic_ncols=True,
                   desc=f"{trainee.title} epoch {loop.epoch + 1}/{cfg.epochs}")  # fmt: skip
        trainee.model.train()
        epoch_started, epoch_weight = time.perf_counter(), loop.weight
        for batch in batches(loop.epoch, loop.batch):
            value, metrics, weight = loss(batch, generator(device, cfg.seed, loop.epoch, loop.batch))
            trainee.optimizer.zero_grad(set_to_none=True)
            value.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_value_(trainee.model.parameters(), clip)
            trainee.optimizer.step()
            add(loop, metrics, weight, trainee)
            loop.batch += 1
            bar.update()
            bar.set_postfix_str(f"loss {loop.sums['loss'] / loop.weight:.3f}")
            if time.perf_counter() - saved > cfg.checkpoint_seconds:
                loop.seconds, saved = time.perf_counter() - started, time.perf_counter()
                trainee.save_last(loop, data)
        rate = (loop.weight - epoch_weight) / (time.perf_counter() - epoch_started)
        bar.close()

        tested = test(trainee.model, test_batches(), loss, generator(device, cfg.seed))
        if not math.isfinite(tested["loss"]):
            raise diverged(trainee, f"The test loss of {trainee.title} is {tested['loss']}")
        row = {f"train_{name}": total / loop.weight for name, total in loop.sums.items()}
        row |= {f"test_{name}": value for name, value in tested.items()}
        finish_epoch(loop, tested["loss"], cfg)
        for group in trainee.optimizer.param_groups:
            group["lr"] = loop.learning_rate
        if loop.stale == 0:
            trainee.save_best()
        loop.seconds = time.perf_counter() - started
        if after_epoch is not None:
            after_epoch(loop.epoch)
        metrics_file.write(
            {"epoch": loop.epoch, **row, "learning_rate": loop.learning_rate, rate_name: rate, "seconds": loop.seconds}
        )
        trainee.save_last(loop, data)
        saved = time.perf_counter()
        tqdm.write(f"{trainee.title} epoch {loop.epoch}: train {row['train_loss']:.4f}, test {tested['loss']:.4f}")
    metrics_file.close()


def add(loop: Loop, metrics: dict[str, Tensor], weight: float, trainee: Trainee) -> None:
    """Add a batch's metrics to the epoch's sums; UserError at the first that is not a number."""
    for name, value in metrics.items():
        number = float(value)
        if not math.isfinite(number):
            raise diverged(trainee, f"The {name} of {trainee.title} is {number}")
        loop.sums[name] = loop.sums.get(name, 0.0) + number * weight
    loop.weight += weight


def diverged(trainee: Trainee, what: str) -> UserError:
    return UserError(
        f"{what}: the training diverged; the last good checkpoint in {trainee.folder} is kept. "
        "Run again with a lower --learning-rate, or --noreload to start over."
    )


def finish_epoch(loop: Loop, test_loss: float, cfg: Settings) -> None:
    """Count the epoch; halve the learning rate after each `cfg.patience` epochs without progress."""
    loop.epoch, loop.batch, loop.weight, loop.sums = loop.epoch + 1, 0, 0.0, {}
    loop.stale = 0 if test_loss < loop.best else loop.stale + 1
    loop.best = min(loop.best, test_loss)
    if loop.stale and loop.stale % cfg.patience == 0:
        loop.learning_rate /= 2


@torch.no_grad()
def test(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any, torch.Generator], tuple[Tensor, dict[str, Tensor], float]],
    noise: torch.Generator,
) -> dict[str, float]:
    """The metrics over the test episodes, the same noise in every epoch."""
    model.eval()
    sums: dict[str, float] = {}
    total = 0.0
    for batch in batches:
        _, metrics, weight = loss(batch, noise)
        total += weight
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value) * weight
    return {name: value / total for name, value in sums.items()}
