"""Episodes as V sees them: V runs once over the data; M trains on the stored mean and log-variance of z.

Shapes: B batch, T steps of an episode, L steps of a sequence, Z latent, A action.
"""

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worldmodels.data.dataset import Dataset, read_each
from worldmodels.data.episodes import Head, load_rollout
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.progress import progress, say_once
from worldmodels.vision import VAE

BFLOAT16 = " bfloat16"  # beside the digest of a V that computed so
ENCODE_BATCH = 64  # frames V encodes at once: their activations stay in the processor's cache
TAIL = 50  # steps at the end of an episode that was cut, at whose rate it is taken to go on


class Latents(NamedTuple):
    """One episode of T steps, all float32."""

    mean: Tensor
    """(T + 1, Z)"""
    logvar: Tensor
    """(T + 1, Z)"""
    actions: Tensor
    """(T, A)"""
    rewards: Tensor
    """(T,)"""
    terminals: Tensor
    """(T,), 0 or 1"""


class Padded(NamedTuple):
    """B sequences of L steps, padded with zeros where the mask is 0."""

    mean: Tensor
    """(B, L + 1, Z)"""
    logvar: Tensor
    """(B, L + 1, Z)"""
    actions: Tensor
    """(B, L, A)"""
    rewards: Tensor
    """(B, L)"""
    terminals: Tensor
    """(B, L)"""
    mask: Tensor
    """(B, L)"""
    restart: Tensor
    """(B, L), 1 at the first step of an episode"""
    value: Tensor
    """(B, L), what came after the step, discounted"""


@contextmanager
def small_heap() -> Iterator[None]:
    """Let glibc give every block above 1 MB back when it is freed (elsewhere: nothing to do).

    V's activations, freed on the heap between the small results that stay, left holes that never fitted again: 400
    episodes took 3 GB, now 0.3 GB (measured with glibc 2.36). Not for ever, since acting is a quarter slower so.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(libc, "mallopt", lambda *_: 0)
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 20)
    try:
        yield
    finally:
        mallopt(mmap_threshold, 32 << 20)  # its dynamic maximum


@small_heap()
def encode_dataset(vae: VAE, vae_path: Path, dataset: Dataset, folder: Path) -> dict[Path, Latents]:
    """The episodes of `dataset` through V, stored one safetensors file each in `folder` and mapped from there.

    A file is named after the content of its episode and carries the digest of V and its arithmetic: that of another V
    is made anew, one of no episode of this dataset is deleted, and an interrupted encoding continues. Damaged episodes
    are named and left out.

    Raises:
        UserError: not one episode could be read.
    """
    known = {head.digest for head in dataset.heads}
    for stale in [path for path in folder.glob("*.safetensors") if path.stem not in known]:
        stale.unlink()
    sight = checkpoint.digest(vae_path) + BFLOAT16 * vae.use_bfloat16

    def seen(head: Head) -> Latents:
        stored = folder / f"{head.digest}.safetensors"
        latents = read_latents(stored, sight)
        if latents is None:
            latents = look(vae, load_rollout(head.path, head.digest))
            checkpoint.save(stored, latents._asdict(), {"vae": sight, "episode": head.digest})
            latents = read_latents(stored, sight)  # pages of the file, which the system may drop, instead of our memory
            assert latents is not None
        return latents

    episodes = read_each(dataset, seen)
    bar = progress(iterable=episodes, total=len(dataset.heads), desc="V sees the episodes", unit=" episodes")
    return {head.path: latents for head, latents in bar}


def stored_latents(folder: Path, vae_path: Path) -> Iterator[Latents]:
    """The episodes that `encode_dataset` stored last in `folder`, one after another, as this V sees them, in whatever
    arithmetic: another V's, and files that are none of ours, are left out."""
    vae_digest = checkpoint.digest(vae_path)
    for path in sorted(folder.glob("*.safetensors")):
        latents = read_latents(path, vae_digest, vae_digest + BFLOAT16)
        if latents is not None:
            yield latents


def say_of_another_v(run: RunDir) -> bool:
    """Say on stderr, once, if M has learned from another V than is there now; returns whether it has."""
    if another := seen_by_another(run):
        say_once(
            f"M in {run.path} has learned from another V than is there now: `worldmodels train-mdrnn` with more "
            "--epochs goes on with this one."
        )
    return another


def seen_by_another(run: RunDir) -> bool:
    """Whether M has learned from another V than is there now."""
    vae, learned = checkpoint.digest(run.trained("vae")), checkpoint.load(run.trained("mdrnn"))[1].get("V")
    if learned is not None:
        return bool(learned != vae)
    for path in run.latents.glob("*.safetensors"):  # an M of before that was kept: what is stored is what it saw
        with suppress(UserError):  # a foreign file
            return not str(checkpoint.load(path)[1].get("vae")).startswith(vae)
    return False


def read_latents(path: Path, *sights: str) -> Latents | None:
    """A stored episode; None where it is not there, or was seen otherwise than by one of these."""
    with suppress(UserError):
        tensors, meta = checkpoint.load(path)
        if meta in [{"vae": sight, "episode": path.stem} for sight in sights] and tensors.keys() == {*Latents._fields}:
            return Latents(**tensors)
    return None


def look(vae: VAE, rollout: Rollout) -> Latents:
    """One episode through V."""
    parts = [vae.encode(rollout.frames[i : i + ENCODE_BATCH]) for i in range(0, len(rollout.frames), ENCODE_BATCH)]
    mean, logvar = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    terminals = torch.from_numpy(rollout.terminals.astype(np.float32))
    return Latents(mean, logvar, torch.from_numpy(rollout.actions), torch.from_numpy(rollout.rewards), terminals)


def values(episode: Latents, discount: float, ends: bool, supply: float = 0.0) -> Tensor:
    """(T,): after each step of an episode, the sum of its later rewards, each worth `discount` of the one before.

    With a `supply` of rewards, what is paid is taken from it: a reward r makes all later ones exp(−r / supply) of what
    they were. With `ends` nothing comes after a terminal step. Elsewhere an episode is taken to go on at the rate of
    its last `TAIL` steps, without a terminal one: a time limit is no loss, and neither is a lap that is finished.
    """
    rewards, ended = episode.rewards.double().numpy(), bool(episode.terminals[-1])
    usual = rewards[: -1 if ended and len(rewards) > 1 else None][-TAIL:].mean()  # what ended it is paid once
    kept = discount * np.exp(-np.maximum(np.append(rewards, usual), 0) / (supply or np.inf))  # of what comes after
    after, value = np.empty(len(rewards)), 0.0 if ended and ends else float(usual / (1 - kept[-1]))
    for t in range(len(rewards) - 1, -1, -1):
        after[t] = value
        value = rewards[t] + kept[t] * value
    return torch.from_numpy(after).float()


@dataclass(frozen=True)
class Sequences:
    """Sequences of at most `length` steps, cut from episodes at another offset in every epoch."""

    episodes: list[Latents]
    length: int
    batch_size: int
    discount: float = 0.0
    """Of the values; 0: nobody asks for them, and they are 0."""
    ends: bool = False
    """Whether nothing comes after a terminal step."""
    supply: float = 0.0
    """Of rewards, in `values`; 0: without end."""

    @cached_property
    def values(self) -> list[Tensor]:
        """(T,) of every episode."""
        if not self.discount:
            return [torch.zeros_like(episode.rewards) for episode in self.episodes]
        return [values(episode, self.discount, self.ends, self.supply) for episode in self.episodes]

    def batches(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Padded]:
        """The epoch's batches in random order, without the first `skip`; the same for the same (seed, epoch)."""
        draw = np.random.default_rng([seed, epoch])
        offsets = [int(draw.integers(min(self.length, len(episode.actions)))) for episode in self.episodes]
        windows = self.windows(offsets)
        order = draw.permutation(len(windows))
        for start in range(skip * self.batch_size, len(order), self.batch_size):
            yield self.batch([windows[i] for i in order[start : start + self.batch_size]])

    def in_order(self) -> Iterator[Padded]:
        """All steps once, episode by episode: for testing."""
        windows = self.windows([0] * len(self.episodes))
        for start in range(0, len(windows), self.batch_size):
            yield self.batch(windows[start : start + self.batch_size])

    def windows(self, offsets: list[int]) -> list[tuple[int, int, int]]:
        """(episode, first step, end) of every sequence; the first of an episode is `offset` steps long (0: whole)."""
        return [
            (index, max(start, 0), min(start + self.length, len(episode.actions)))
            for index, (episode, offset) in enumerate(zip(self.episodes, offsets, strict=True))
            for start in range(offset - self.length if offset else 0, len(episode.actions), self.length)
        ]

    def batch(self, windows: Iterable[Sequence[int]]) -> Padded:
        """The windows side by side, as long as the longest of them."""
        rows = []
        for index, start, end in windows:
            e = self.episodes[index]
            rows.append([e.mean[start : end + 1], e.logvar[start : end + 1], e.actions[start:end], e.rewards[start:end],
                         e.terminals[start:end], torch.ones(end - start), (torch.arange(start, end) == 0).float(),
                         self.values[index][start:end]])  # fmt: skip
        return Padded(*(pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True)))


def batches_per_epoch(lengths: Iterable[int], length: int, batch_size: int) -> int:
    """About: of episodes of so many steps; the offsets of an epoch make some sequences more."""
    return -(-sum(-(-steps // length) for steps in lengths) // batch_size)
