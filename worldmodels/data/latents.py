"""Episodes as V sees them: V runs once over the data; M trains on the stored mean and log-variance of z.

Shapes: B batch, T steps of an episode, L steps of a sequence, Z latent, A action.
"""

import ctypes
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodels.data.dataset import BadFile, Dataset, load_rollout
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.vision import VAE

ENCODE_BATCH = 64  # frames V encodes at once: their activations stay in the processor's cache


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


class Batch(NamedTuple):
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
    """The episodes of `dataset` through V, stored one safetensors file each in `folder` and read from there again.

    A file made by another V, or of another episode, is made anew; an interrupted encoding continues. Damaged
    episodes are named and left out.

    Raises:
        UserError: not one episode could be read.
    """
    fingerprint = hashlib.sha256(vae_path.read_bytes()).hexdigest()[:16]
    episodes = {}
    for path, name in tqdm(
        list(zip(dataset.files, dataset.names, strict=True)), desc="V sees the episodes", unit=" episodes",
        dynamic_ncols=True,
    ):  # fmt: skip
        stored = folder / f"{name.removesuffix('.npz').replace('/', '_')}.safetensors"
        tag = {"vae": fingerprint, "bytes": path.stat().st_size}
        latents = read_latents(stored, tag)
        if latents is None:
            try:
                latents = encode_rollout(vae, path)
            except BadFile as error:
                tqdm.write(f"{error} It is left out.")
                continue
            checkpoint.save(stored, latents._asdict(), tag)
        episodes[path] = latents
    if not episodes:
        raise UserError("Not one episode could be read: collect them again with `worldmodels collect --noreload`.")
    return episodes


def read_latents(path: Path, tag: dict) -> Latents | None:
    """A stored episode; None where there is none with this tag."""
    try:
        tensors, meta = checkpoint.load(path)
    except UserError:
        return None
    return Latents(**tensors) if meta == tag else None


def encode_rollout(vae: VAE, path: Path) -> Latents:
    """One episode through V."""
    rollout = load_rollout(path)
    parts = [vae.encode(rollout.frames[i : i + ENCODE_BATCH]) for i in range(0, len(rollout.frames), ENCODE_BATCH)]
    mean, logvar = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    terminals = torch.from_numpy(rollout.terminals.astype(np.float32))
    return Latents(mean, logvar, torch.from_numpy(rollout.actions), torch.from_numpy(rollout.rewards), terminals)


@dataclass(frozen=True)
class Sequences:
    """Sequences of at most `length` steps, cut from episodes at another offset in every epoch."""

    episodes: list[Latents]
    length: int
    batch_size: int

    @property
    def steps(self) -> int:
        return sum(len(episode.actions) for episode in self.episodes)

    @property
    def batches_per_epoch(self) -> int:
        """About: the offsets of an epoch make some sequences more."""
        whole = sum(-(-len(episode.actions) // self.length) for episode in self.episodes)
        return -(-whole // self.batch_size)

    def batches(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The epoch's batches in random order, without the first `skip`; the same for the same (seed, epoch)."""
        draw = np.random.default_rng([seed, epoch])
        offsets = [int(draw.integers(min(self.length, len(episode.actions)))) for episode in self.episodes]
        windows = self.windows(offsets)
        order = draw.permutation(len(windows))
        for start in range(skip * self.batch_size, len(order), self.batch_size):
            yield self.batch([windows[i] for i in order[start : start + self.batch_size]])

    def in_order(self) -> Iterator[Batch]:
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

    def batch(self, windows: list[tuple[int, int, int]]) -> Batch:
        """The windows side by side, as long as the longest of them."""
        longest = max(end - start for _, start, end in windows)
        parts = []
        for index, start, end in windows:
            e, steps = self.episodes[index], end - start
            rows = [e.mean[start : end + 1], e.logvar[start : end + 1], e.actions[start:end], e.rewards[start:end],
                    e.terminals[start:end], torch.ones(steps)]  # fmt: skip
            parts.append([pad(row, longest - steps) for row in rows])
        return Batch(*(torch.stack(column) for column in zip(*parts, strict=True)))


def pad(x: Tensor, steps: int) -> Tensor:
    """x (T, …) with `steps` rows of zeros after it."""
    return torch.cat([x, x.new_zeros(steps, *x.shape[1:])]) if steps else x
