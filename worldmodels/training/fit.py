"""The training loop that V and M share: epochs, plateau, early stopping, best and last, exact resume.

A run that is killed at any instant and started again ends with the same weights and metrics as one that was not:
batches and noise depend on (seed, epoch, batch) alone, and `last.safetensors` holds weights, moments and loop state
in one file that is replaced in one rename.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import start_over
from worldmodels.runs.files import alone
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.progress import progress
from worldmodels.runs.record import rebuilt
from worldmodels.runs.settings import TrainMDRNN, TrainVAE
from worldmodels.training.ranks import Ranks
from worldmodels.workers.places import limited_threads

Settings = TrainVAE | TrainMDRNN  # a training command's config
Loss = Callable[[Any, torch.Generator], tuple[Tensor, dict[str, Tensor], float]]
"""(batch, noise) → loss, metrics without a graph, number of items in the batch"""
SYNC = 20  # batches between two looks at the loss: a GPU is not waited for at every one


@dataclass
class Loop:
    """Where a training stands; JSON-able."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch in progress,"""
    cut: str = ""
    """which was cut into batches so."""
    learning_rate: float = 0.0
    asked_rate: float = 0.0
    """The learning rate that was asked for; `learning_rate` has been halved since."""
    best: float = math.inf
    """Lowest test loss so far."""
    stale: int = 0
    """Epochs since then."""
    micro_batches: int = 1
    """Parts of a batch whose gradients are added up."""
    seconds: float = 0.0
    """Time spent training, all sessions together."""
    weight: float = 0.0
    """Items (frames, transitions) of the epoch in progress, and the weighted sums of its metrics:"""
    sums: dict[str, float] = field(default_factory=dict)

    def begin_epoch_anew(self) -> None:
        self.batch, self.weight, self.sums = 0, 0.0, {}

    def finish_epoch(self, test_loss: float, patience: int) -> None:
        """Count the epoch; halve the learning rate after each `patience` epochs without progress."""
        self.epoch += 1
        self.begin_epoch_anew()
        self.stale = 0 if test_loss < self.best else self.stale + 1
        self.best = min(self.best, test_loss)
        if patience and self.stale and self.stale % patience == 0:
            self.learning_rate /= 2


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
    precision: str
    """float32 or bfloat16, for the record."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Stored with the settings, but no part of the architecture that a resumed training must share."""
    about: dict[str, str] = field(default_factory=dict)
    """What the training began with: stored beside the settings, and said when it has changed."""
    beside: Callable[[], dict[str, Tensor]] = dict
    """What is stored beside the best weights."""

    def tensors(self) -> dict[str, Tensor]:
        return checkpoint.pack(self.name, self.model.state_dict())

    def save_best(self) -> None:
        meta = {self.name: self.settings | self.labels, "precision": self.precision, **self.about}
        checkpoint.save(self.folder / "best.safetensors", self.tensors() | self.beside(), meta)

    def save_last(self, loop: Loop, data: str) -> None:
        """Replace last.safetensors; UserError instead when a weight is no number any more."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self.diverged(f"{self.title} has weights that are not numbers")
        meta: dict[str, Any] = {self.name: self.settings | self.labels, "precision": self.precision, **self.about}
        meta |= {"loop": dataclasses.asdict(loop), "data": data}
        tensors = {**self.tensors(), **checkpoint.pack_optimizer(self.optimizer)}
        checkpoint.save(self.folder / "last.safetensors", tensors, meta)

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def diverged(self, what: str) -> UserError:
        return UserError(
            f"{what}: the training diverged; the last good checkpoint in {self.folder} is kept. "
            "Run again with a lower --learning-rate, or --noreload to start over."
        )


def resume(trainee: Trainee, cfg: Settings, data: str, cut: str, ranks: Ranks) -> Loop:
    """Continue from last.safetensors, or begin anew with --noreload or where there is none; nothing is changed yet.

    On other episodes than before, or in other batches, the epoch in progress begins anew; another --learning-rate than
    was asked for before counts from here on.

    Raises:
        UserError: the checkpoint is damaged or of another architecture.
    """
    path = trainee.folder / "last.safetensors"
    if cfg.noreload or not path.exists():
        parts = cfg.micro_batches or ranks.count
        ranks.check(parts)
        return Loop(learning_rate=cfg.learning_rate, asked_rate=cfg.learning_rate, cut=cut, micro_batches=parts)
    tensors, meta = checkpoint.load(path)
    if (meta.get(trainee.name) or {}) | trainee.labels != trainee.settings | trainee.labels:
        raise UserError(
            f"{path} holds a {trainee.title} with {meta.get(trainee.name)} where {trainee.settings} is asked for: "
            "use the same settings, another --logdir, or --noreload to start over."
        )
    began, asked = meta.get("began"), trainee.about.get("began")
    if began not in (None, asked):
        raise UserError(
            f"{path} holds a {trainee.title} that began with {began} weights where {asked} ones are asked for: use the "
            "same --init and --warm, another --logdir, or --noreload to start over."
        )
    try:
        loop = rebuilt(Loop, meta["loop"])
        trainee.model.load_state_dict(checkpoint.unpack(trainee.name, tensors))
        if loop.asked_rate not in (0.0, cfg.learning_rate):  # version 0.1 did not keep it
            loop.learning_rate = cfg.learning_rate
        loop.asked_rate = cfg.learning_rate
        checkpoint.unpack_optimizer(trainee.optimizer, tensors, loop.learning_rate)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be continued ({error}): start over with --noreload.") from error
    parts = cfg.micro_batches or loop.micro_batches
    ranks.check(parts)
    if meta["data"] != data:
        another_v = meta.get("V", trainee.about.get("V")) != trainee.about.get("V")
        changed = f"{'V has' if another_v else 'The episodes have'} changed since {trainee.title} was trained"
        new = "one" if another_v else "ones"
        if loop.epoch < cfg.epochs:
            print(f"{changed}: it goes on with the new {new}.")
            loop.begin_epoch_anew()
            loop.best, loop.stale = math.inf, 0
        else:
            print(f"{changed}: more --epochs train it with the new {new}.")
    elif (loop.cut not in ("", cut) or parts != loop.micro_batches) and loop.batch:
        print(f"The batches are others than before: epoch {loop.epoch + 1} begins anew.")
        loop.begin_epoch_anew()
    if meta.get("precision", trainee.precision) != trainee.precision:
        print(f"{trainee.title} was trained in {meta['precision']} so far and goes on in {trainee.precision}.")
    loop.cut, loop.micro_batches = cut, parts
    return loop


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A torch generator whose draws depend on `key` alone."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def fit(
    trainee: Trainee,
    cfg: Settings,
    *,
    data: str,
    cut: str,
    batches: Callable[[int, int], Iterable[Any]],
    batches_per_epoch: int,
    loss: Loss,
    test_batches: Callable[[], Iterable[Any]],
    rate_name: str,
    ranks: Ranks,
    clip: float | None = None,
    after_epoch: Callable[[int], None] | None = None,
    look: Callable[[], None] = lambda: None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train until `cfg.epochs`, or until the test loss has not improved for `cfg.stop_after` epochs.

    Args:
        trainee: what to train.
        cfg: how.
        data: a fingerprint of the data; resuming on other data is noticed and said.
        cut: how an epoch is cut into batches; resuming with another cut begins the epoch anew.
        batches: (epoch, batches to skip) → the epoch's batches.
        batches_per_epoch: for the progress bar.
        loss: of a batch.
        test_batches: → the batches of the test episodes.
        rate_name: metric name of items per second.
        ranks: the processes that train together; the first one writes and speaks.
        clip: bound of each gradient number.
        after_epoch: called with the number of the finished epoch (pictures).
        look: looks at the data, before anything is deleted.
        begin: called when all is known to be good, before the first epoch.

    Raises:
        UserError: another process trains here; the loss is not a number (the last good checkpoint stays).
    """
    with ExitStack() as stack:
        if ranks.first:
            stack.enter_context(alone(trainee.folder, f"training {trainee.title}"))
        with ranks.in_turn():
            loop = resume(trainee, cfg, data, cut, ranks)
        if ranks.first:
            look()
            if cfg.noreload:
                start_over(trainee.folder)
            begin()
        if finished(trainee, cfg, loop, ranks):
            return
        if loop.micro_batches > 1:
            stack.enter_context(limited_threads(1))  # how a product is split between threads decides on its last bits
        metrics = Metrics(trainee.folder, "epoch", loop.epoch) if ranks.first else None
        clock = Clock(loop)
        while loop.epoch < cfg.epochs and loop.stale < cfg.stop_after:
            rate = train_epoch(trainee, cfg, loop, data, batches, batches_per_epoch, loss, ranks, clip, clock)
            row = {f"train_{name}": total / loop.weight for name, total in loop.sums.items()}
            tested = test(trainee.model, test_batches(), loss, generator(ranks.device, cfg.seed))
            if not math.isfinite(tested["loss"]):
                raise trainee.diverged(f"The test loss of {trainee.title} is {tested['loss']}")
            loop.finish_epoch(tested["loss"], cfg.patience)
            trainee.set_learning_rate(loop.learning_rate)
            clock.stop()
            row |= {f"test_{name}": value for name, value in tested.items()}
            row |= {"learning_rate": loop.learning_rate, rate_name: rate, "seconds": loop.seconds}
            if metrics is not None:
                keep(trainee, loop, data, row, metrics, after_epoch)
        if metrics is not None:
            metrics.close()


def keep(
    trainee: Trainee, loop: Loop, data: str, row: dict[str, float], metrics: Metrics,
    after_epoch: Callable[[int], None] | None,
) -> None:  # fmt: skip
    """Enter the finished epoch, whose metrics are `row`: the weights if they are the best, pictures, the checkpoint."""
    if loop.stale == 0:
        trainee.save_best()
    if after_epoch is not None:
        after_epoch(loop.epoch)
    metrics.write({"epoch": loop.epoch, **row})
    trainee.save_last(loop, data)
    title, epoch = trainee.title, loop.epoch
    tqdm.write(f"{title} epoch {epoch}: train {row['train_loss']:.4f}, test {row['test_loss']:.4f}")


def finished(trainee: Trainee, cfg: Settings, loop: Loop, ranks: Ranks) -> bool:
    """Whether there is nothing to do, and say so."""
    if cfg.epochs == 0 and not loop.epoch:
        if ranks.first:
            trainee.save_best()
        print(f"{trainee.title} in {trainee.folder} stays untrained.")
        return True
    if loop.epoch >= cfg.epochs or loop.stale >= cfg.stop_after:
        print(
            f"{trainee.title} in {trainee.folder} is trained already ({loop.epoch} epochs, test loss {loop.best:.4f}): "
            "more --epochs train it further, --noreload starts over."
        )
        return True
    if loop.epoch or loop.batch:
        print(f"Continuing {trainee.title} in {trainee.folder} at epoch {loop.epoch + 1}, batch {loop.batch}.")
    return False


def train_epoch(
    trainee: Trainee, cfg: Settings, loop: Loop, data: str, batches: Callable[[int, int], Iterable[Any]], count: int,
    loss: Loss, ranks: Ranks, clip: float | None, clock: "Clock",
) -> float:  # fmt: skip
    """The rest of the epoch in progress, `count` batches in all; returns items per second."""
    trainee.model.train()
    began, weight_before = time.perf_counter(), loop.weight
    sums = Sums(loop, trainee)
    title = f"{trainee.title} epoch {loop.epoch + 1}/{cfg.epochs}"
    with progress(total=count, initial=loop.batch, unit="batch", desc=title) as bar:
        for batch in batches(loop.epoch, loop.batch):
            trainee.set_learning_rate(loop.learning_rate * share_of_rate(cfg, loop, count))
            metrics, weight = backward(trainee, batch, loss, ranks, loop, cfg.seed)
            if clip is not None:
                torch.nn.utils.clip_grad_value_(trainee.model.parameters(), clip)
            trainee.optimizer.step()
            sums.add(metrics, weight)
            loop.batch += 1
            bar.update()
            if loop.batch % SYNC == 0 or clock.due(cfg.checkpoint_seconds):
                sums.check()
                bar.set_postfix_str(f"loss {loop.sums['loss'] / loop.weight:.3f}", refresh=False)
            if ranks.first and clock.due(cfg.checkpoint_seconds):
                clock.stop()
                trainee.save_last(loop, data)
        sums.check()
    return (loop.weight - weight_before) / (time.perf_counter() - began)


def share_of_rate(cfg: Settings, loop: Loop, count: int) -> float:
    """What is left of the learning rate at the next batch, of `count` per epoch: half a cosine in the last part."""
    left = 1 - (loop.epoch + min(loop.batch / count, 1)) / cfg.epochs
    return (1 - math.cos(math.pi * left / cfg.anneal)) / 2 if left < cfg.anneal else 1.0


def backward(
    trainee: Trainee, batch: Any, loss: Loss, ranks: Ranks, loop: Loop, seed: int
) -> tuple[dict[str, Tensor], float | Tensor]:
    """Give the parameters the gradient of the batch's loss; returns its metrics and its weight."""
    key = (seed, loop.epoch, loop.batch)
    if loop.micro_batches > 1:
        return ranks.backward(
            trainee.model, batch, loop.micro_batches,
            lambda part, number: loss(part, generator(ranks.device, *key, number)),
        )  # fmt: skip
    value, metrics, weight = loss(batch, generator(ranks.device, *key))
    trainee.optimizer.zero_grad(set_to_none=True)
    value.backward()
    return metrics, weight


class Clock:
    """Seconds of training, of all sessions together, kept in the loop; and when the next checkpoint is due."""

    def __init__(self, loop: Loop):
        self.loop, self.started, self.saved = loop, time.perf_counter() - loop.seconds, time.perf_counter()

    def due(self, seconds: float) -> bool:
        return time.perf_counter() - self.saved > seconds

    def stop(self) -> None:
        self.saved = time.perf_counter()
        self.loop.seconds = self.saved - self.started


class Sums:
    """The epoch's weighted sums of metrics, kept on the model's device between two looks."""

    def __init__(self, loop: Loop, trainee: Trainee):
        self.loop, self.trainee = loop, trainee
        self.waiting: list[tuple[dict[str, Tensor], float | Tensor]] = []

    def add(self, metrics: dict[str, Tensor], weight: float | Tensor) -> None:
        self.waiting.append((metrics, weight))

    def check(self) -> None:
        """Move what waits into the loop; UserError at the first metric that is not a number."""
        for metrics, weight in self.waiting:
            for name, value in metrics.items():
                number = float(value)
                if not math.isfinite(number):
                    raise self.trainee.diverged(f"The {name} of {self.trainee.title} is {number}")
                self.loop.sums[name] = self.loop.sums.get(name, 0.0) + number * float(weight)
            self.loop.weight += float(weight)
        self.waiting = []


@torch.no_grad()
def test(model: nn.Module, batches: Iterable[Any], loss: Loss, noise: torch.Generator) -> dict[str, float]:
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
