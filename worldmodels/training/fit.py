"""The training loop that V and M share: epochs, plateau, early stopping, best and last, exact resume.

A run that is killed at any instant and started again ends with the same weights and metrics as one that was not:
batches and noise depend on (seed, epoch, batch) alone, and `last.safetensors` holds weights, moments and loop state
in one file that is replaced in one rename.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
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
class Epochs:
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

    def add(self, metrics: dict[str, Tensor], weight: float | Tensor) -> None:
        """Count a batch's metrics, scalars, `weight` times."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * float(weight)
        self.weight += float(weight)

    @property
    def means(self) -> dict[str, float]:
        """The metrics of the epoch in progress so far."""
        return {name: total / self.weight for name, total in self.sums.items()}

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
    """A model that learns, all that it learns from, and the folder and the names under which it is stored."""

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
    loss: Loss
    """Of a batch."""
    data: str
    """A fingerprint of the data; resuming on other data is noticed and said."""
    cut: str
    """How an epoch is cut into batches; resuming with another cut begins the epoch anew."""
    batches: Callable[[int, int], Iterable[Any]]
    """(epoch, batches to skip) → the epoch's batches,"""
    batches_per_epoch: int
    """about so many."""
    test_batches: Callable[[], Iterable[Any]]
    """→ the batches of the test episodes."""
    rate_name: str
    """Metric name of items per second."""
    clip: float | None = None
    """Bound of each gradient number."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Stored with the settings, but no part of the architecture that a resumed training must share."""
    about: dict[str, str] = field(default_factory=dict)
    """What the training began with: stored beside the settings, and said when it has changed."""
    beside: Callable[[], dict[str, Tensor]] = dict
    """What is stored beside the best weights."""
    pictures: Callable[[int], None] | None = None
    """Called with the number of the finished epoch."""

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of the model."""
        return {self.name: self.settings | self.labels, "precision": self.precision, **self.about}

    @property
    def weights(self) -> dict[str, Tensor]:
        return checkpoint.pack(self.name, self.model.state_dict())

    def save_best(self) -> None:
        checkpoint.save(self.folder / "best.safetensors", self.weights | self.beside(), self.meta)

    def save_last(self, loop: Epochs) -> None:
        """Replace last.safetensors; UserError instead when a weight is no number any more."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self.diverged(f"{self.title} has weights that are not numbers")
        tensors = self.weights | checkpoint.pack_optimizer(self.optimizer)
        meta = {**self.meta, "loop": dataclasses.asdict(loop), "data": self.data}
        checkpoint.save(self.folder / "last.safetensors", tensors, meta)

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def check(self, metrics: dict[str, float], kind: str = "") -> None:
        """UserError for the first metric that is not a number."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise self.diverged(f"The {kind}{name} of {self.title} is {value}")

    def diverged(self, what: str) -> UserError:
        return UserError(
            f"{what}: the training diverged; the last good checkpoint in {self.folder} is kept. "
            "Run again with a lower --learning-rate, or --noreload to start over."
        )


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A torch generator whose draws depend on `key` alone."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


# ------------------------------------------------------------------------------------------------- resuming


def resume(trainee: Trainee, cfg: Settings, ranks: Ranks) -> Epochs:
    """Continue from last.safetensors, or begin anew with --noreload or where there is none; nothing is changed yet.
    UserError for a checkpoint that is damaged or of another architecture."""
    path, meta = trainee.folder / "last.safetensors", dict[str, Any]()
    loop = Epochs(learning_rate=cfg.learning_rate, asked_rate=cfg.learning_rate, micro_batches=ranks.count)
    if path.exists() and not cfg.noreload:
        tensors, meta = checkpoint.load(path)
        refuse_another(trainee, path, meta)
        try:
            loop = rebuilt(Epochs, meta["loop"])
            bring_back(trainee, loop, tensors, cfg.learning_rate)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} cannot be continued ({error}): start over with --noreload.") from error
    parts = cfg.micro_batches or loop.micro_batches
    ranks.check(parts)
    if meta.get("data", trainee.data) != trainee.data:
        go_on_with_other_data(trainee, loop, meta, cfg.epochs)
    elif (loop.cut not in ("", trainee.cut) or parts != loop.micro_batches) and loop.batch:
        print(f"The batches are others than before: epoch {loop.epoch + 1} begins anew.")
        loop.begin_epoch_anew()
    if meta.get("precision", trainee.precision) != trainee.precision:
        print(f"{trainee.title} was trained in {meta['precision']} so far and goes on in {trainee.precision}.")
    loop.cut, loop.micro_batches = trainee.cut, parts
    return loop


def refuse_another(trainee: Trainee, path: Path, meta: dict[str, Any]) -> None:
    """UserError for a checkpoint of another architecture, or one that began otherwise."""
    before, began = meta.get(trainee.name), meta.get("began")
    if (before or {}) | trainee.labels != trainee.settings | trainee.labels:
        raise UserError(
            f"{path} holds a {trainee.title} with {before} where {trainee.settings} is asked for: "
            "use the same settings, another --logdir, or --noreload to start over."
        )
    if began not in (None, asked := trainee.about.get("began")):
        raise UserError(
            f"{path} holds a {trainee.title} that began with {began} weights where {asked} ones are asked for: use the "
            "same --init and --warm, another --logdir, or --noreload to start over."
        )


def bring_back(trainee: Trainee, loop: Epochs, tensors: dict[str, Tensor], rate: float) -> None:
    """Weights and moments as they were; a learning rate other than the one asked for before counts from here on."""
    trainee.model.load_state_dict(checkpoint.unpack(trainee.name, tensors))
    if loop.asked_rate not in (0.0, rate):  # version 0.1 did not keep it
        loop.learning_rate = rate
    loop.asked_rate = rate
    checkpoint.unpack_optimizer(trainee.optimizer, tensors, loop.learning_rate)


def go_on_with_other_data(trainee: Trainee, loop: Epochs, meta: dict[str, Any], epochs: int) -> None:
    """Begin the epoch in progress anew, and `best` too, if there are epochs left for the new data."""
    another_v = meta.get("V", trainee.about.get("V")) != trainee.about.get("V")
    changed = f"{'V has' if another_v else 'The episodes have'} changed since {trainee.title} was trained"
    new = "one" if another_v else "ones"
    if loop.epoch >= epochs:
        print(f"{changed}: more --epochs train it with the new {new}.")
        return
    print(f"{changed}: it goes on with the new {new}.")
    loop.begin_epoch_anew()
    loop.best, loop.stale = math.inf, 0


# ------------------------------------------------------------------------------------------------- training


def fit(
    trainee: Trainee,
    cfg: Settings,
    ranks: Ranks,
    look: Callable[[], None] = lambda: None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train until `cfg.epochs`, or until the test loss has not improved for `cfg.stop_after` epochs.

    Of the processes that train together, the first one writes and speaks. `look` looks at the data before anything is
    deleted; `begin` is called when all is known to be good.

    Raises:
        UserError: another process trains here; the loss is not a number (the last good checkpoint stays).
    """
    with ExitStack() as stack:
        if ranks.first:
            stack.enter_context(alone(trainee.folder, f"training {trainee.title}"))
        with ranks.in_turn():
            loop = resume(trainee, cfg, ranks)
        if ranks.first:
            look()
            if cfg.noreload:
                start_over(trainee.folder)
            begin()
        if finished(trainee, cfg, loop, ranks):
            return
        if loop.micro_batches > 1:
            stack.enter_context(limited_threads(1))  # how a product is split between threads decides on its last bits
        metrics = stack.enter_context(closing(Metrics(trainee.folder, "epoch", loop.epoch))) if ranks.first else None
        training = Training(trainee, cfg, loop, ranks)
        while loop.epoch < cfg.epochs and loop.stale < cfg.stop_after:
            row = training.epoch()
            if metrics is not None:
                keep(trainee, loop, row, metrics)


def finished(trainee: Trainee, cfg: Settings, loop: Epochs, ranks: Ranks) -> bool:
    """Whether there is nothing to do, and say so."""
    model = f"{trainee.title} in {trainee.folder}"
    if cfg.epochs == 0 and not loop.epoch:
        if ranks.first:
            trainee.save_best()
        print(f"{model} stays untrained.")
        return True
    if loop.epoch >= cfg.epochs or loop.stale >= cfg.stop_after:
        print(
            f"{model} is trained already ({loop.epoch} epochs, test loss {loop.best:.4f}): "
            "more --epochs train it further, --noreload starts over."
        )
        return True
    if loop.epoch or loop.batch:
        print(f"Continuing {model} at epoch {loop.epoch + 1}, batch {loop.batch}.")
    return False


def keep(trainee: Trainee, loop: Epochs, row: dict[str, float], metrics: Metrics) -> None:
    """Enter the finished epoch, whose metrics are `row`: the weights if they are the best, pictures, the checkpoint."""
    if loop.stale == 0:
        trainee.save_best()
    if trainee.pictures is not None:
        trainee.pictures(loop.epoch)
    metrics.write({"epoch": loop.epoch, **row})
    trainee.save_last(loop)
    tqdm.write(f"{trainee.title} epoch {loop.epoch}: train {row['train_loss']:.4f}, test {row['test_loss']:.4f}")


class Training:
    """One epoch after another, and checkpoints in between."""

    def __init__(self, trainee: Trainee, cfg: Settings, loop: Epochs, ranks: Ranks):
        self.trainee, self.cfg, self.loop, self.ranks = trainee, cfg, loop, ranks
        self.began = time.perf_counter() - loop.seconds
        self.saved = time.perf_counter()

    def epoch(self) -> dict[str, float]:
        """Bring the epoch in progress to its end; returns its metrics."""
        trainee, loop = self.trainee, self.loop
        rate = self.train()
        row = {f"train_{name}": value for name, value in loop.means.items()}
        tested = self.test()
        loop.finish_epoch(tested["loss"], self.cfg.patience)
        trainee.set_learning_rate(loop.learning_rate)
        self.stop_clock()
        row |= {f"test_{name}": value for name, value in tested.items()}
        return row | {"learning_rate": loop.learning_rate, trainee.rate_name: rate, "seconds": loop.seconds}

    def train(self) -> float:
        """The rest of the training batches; returns items per second."""
        trainee, loop = self.trainee, self.loop
        trainee.model.train()
        began, weight_before = time.perf_counter(), loop.weight
        waiting: list[tuple[dict[str, Tensor], float | Tensor]] = []  # metrics on the model's device

        def look() -> None:
            for metrics, weight in waiting:
                loop.add(metrics, weight)
            waiting.clear()
            trainee.check(loop.sums)

        title = f"{trainee.title} epoch {loop.epoch + 1}/{self.cfg.epochs}"
        with progress(total=trainee.batches_per_epoch, initial=loop.batch, unit="batch", desc=title) as bar:
            for batch in trainee.batches(loop.epoch, loop.batch):
                trainee.set_learning_rate(loop.learning_rate * self.share_of_rate())
                waiting.append(self.backward(batch))
                if trainee.clip is not None:
                    torch.nn.utils.clip_grad_value_(trainee.model.parameters(), trainee.clip)
                trainee.optimizer.step()
                loop.batch += 1
                bar.update()
                if loop.batch % SYNC == 0 or self.checkpoint_is_due():
                    look()
                    bar.set_postfix_str(f"loss {loop.means['loss']:.3f}", refresh=False)
                if self.ranks.first and self.checkpoint_is_due():
                    self.stop_clock()
                    trainee.save_last(loop)
            look()
        return (loop.weight - weight_before) / (time.perf_counter() - began)

    def share_of_rate(self) -> float:
        """What is left of the learning rate at the next batch: half a cosine in the last part."""
        done = self.loop.epoch + min(self.loop.batch / self.trainee.batches_per_epoch, 1)
        left, anneal = 1 - done / self.cfg.epochs, self.cfg.anneal
        return (1 - math.cos(math.pi * left / anneal)) / 2 if left < anneal else 1.0

    def backward(self, batch: Any) -> tuple[dict[str, Tensor], float | Tensor]:
        """Give the parameters the gradient of the batch's loss; returns its metrics and its weight."""
        trainee, loop, device = self.trainee, self.loop, self.ranks.device
        key = (self.cfg.seed, loop.epoch, loop.batch)
        if loop.micro_batches > 1:
            return self.ranks.backward(
                trainee.model, batch, loop.micro_batches,
                lambda part, number: trainee.loss(part, generator(device, *key, number)),
            )  # fmt: skip
        loss, metrics, weight = trainee.loss(batch, generator(device, *key))
        trainee.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return metrics, weight

    @torch.no_grad()
    def test(self) -> dict[str, float]:
        """The metrics over the test episodes, the same noise in every epoch."""
        trainee, noise, tested = self.trainee, generator(self.ranks.device, self.cfg.seed), Epochs()
        trainee.model.eval()
        for batch in trainee.test_batches():
            _, metrics, weight = trainee.loss(batch, noise)
            tested.add(metrics, weight)
        trainee.check(tested.means, "test ")
        return tested.means

    def checkpoint_is_due(self) -> bool:
        return time.perf_counter() - self.saved > self.cfg.checkpoint_seconds

    def stop_clock(self) -> None:
        """A checkpoint is made now, after so many seconds of training, all sessions together."""
        self.saved = time.perf_counter()
        self.loop.seconds = self.saved - self.began
