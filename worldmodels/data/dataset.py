"""Many episodes: found in a folder, split into training and test episodes, known together by a fingerprint.

What an episode is, and on which side of the split it lies, depends on that episode alone: on its content, never on
its size, its folder, the folder that was opened, or what else lies there. `worldmodels run --iterations 2` opens a
folder that holds the rollouts of both iterations, where the first had opened its own: whatever was held back then
is held back again.
"""

import hashlib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from worldmodels.data.episodes import BadFile, Head, inspect, load_rollout
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout

Content = TypeVar("Content")


@dataclass(frozen=True)
class Dataset:
    """Episodes in files, their contents still on disk."""

    heads: tuple[Head, ...]
    """What each held when it was opened."""

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(head.path for head in self.heads)

    @property
    def lengths(self) -> tuple[int, ...]:
        """T, the steps of each."""
        return tuple(head.length for head in self.heads)

    @property
    def steps(self) -> int:
        """Transitions in all the episodes together."""
        return sum(self.lengths)

    @property
    def frames(self) -> int:
        """Frames in all the episodes together: one more than steps in each."""
        return sum(head.frames for head in self.heads)

    @property
    def identities(self) -> list[bytes]:
        """What each episode is known by: its content and its file's own name (a toy's episodes may be equal)."""
        return [hashlib.sha256(os.fsencode(f"{head.digest} {head.path.name}")).digest() for head in self.heads]

    @property
    def fingerprint(self) -> str:
        """Changes when episodes are added, removed, replaced or put into another order, not when a folder moves."""
        return hashlib.sha256(b"".join(self.identities)).hexdigest()[:16]

    def subset(self, indices: Iterable[int]) -> "Dataset":
        """Some of the episodes, in the order of `indices`."""
        return Dataset(tuple(self.heads[i] for i in indices))


def open_dataset(rootdir: Path | str) -> Dataset:
    """All the episodes under `rootdir`, subfolders included, in the order of their paths; reads all but the frames.

    Files that hold no episode, or one of another game than most (its actions have another size), are named on stderr,
    left out and counted.

    Raises:
        UserError: there is no such folder, or no episode in it.
    """
    root = Path(rootdir)
    make_some = f"`worldmodels collect --rootdir {shlex.quote(str(root))}` makes some"
    if not root.is_dir():
        raise UserError(f"There are no rollouts: the folder {root} does not exist; {make_some}.")
    heads: list[Head] = []
    found = sorted(root.rglob("*.npz"))
    for path in found:
        try:
            heads.append(inspect(path))
        except BadFile as error:
            say_damaged(error)
    sizes = Counter(head.action_size for head in heads)
    usual = max(sizes, key=lambda size: sizes[size], default=0)
    for head in [head for head in heads if head.action_size != usual]:
        _say_skipped(head.path, f"its actions have {head.action_size} numbers, those of most episodes {usual}")
        heads.remove(head)
    _say_count(len(found) - len(heads), len(found))
    if not heads:
        empty = f"none of its {len(found)} .npz files holds an episode" if found else "it has no .npz file"
        raise UserError(f"There are no rollouts in {root}: {empty}; {make_some}.")
    return Dataset(tuple(heads))


def split(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """(train, test): about `fraction` of the episodes, at least one and never all, are the test set.

    An episode is held back when the number between 0 and 1 that its identity hashes to lies below `fraction`. So
    what is held back stays so, whatever is added or moved. The exception is a small set of which none, or all, lie
    there: it hands over the one that is nearest, until others come.

    Raises:
        UserError: one episode cannot be split, or `fraction` is not between 0 and 1.
    """
    count = len(dataset.heads)
    if not 0 < fraction < 1:
        raise UserError(f"The test fraction is {fraction}: choose one between 0 and 1.")
    if count < 2:
        raise UserError(
            f"There is only one rollout ({dataset.files[0]}) where two are needed, one to train on and one to test: "
            "collect more with `worldmodels collect`."
        )
    draws = [int.from_bytes(identity[:8], "big") / 2**64 for identity in dataset.identities]
    ranked = sorted(range(count), key=lambda index: draws[index])
    held_back = min(max(sum(draw < fraction for draw in draws), 1), count - 1)
    return dataset.subset(sorted(ranked[held_back:])), dataset.subset(sorted(ranked[:held_back]))


def read_each(dataset: Dataset, read: Callable[[Head], Content]) -> Iterator[tuple[Head, Content]]:
    """(head, what `read` makes of it) of one episode after another; a file that turns out damaged (BadFile) is named,
    left out and counted. UserError in the end where none could be read."""
    damaged = 0
    for head in dataset.heads:
        try:
            content = read(head)
        except BadFile as error:
            say_damaged(error)
            damaged += 1
        else:
            yield head, content
    say_all_damaged(damaged, dataset)


def rollouts(dataset: Dataset) -> Iterator[tuple[Head, Rollout]]:
    """The episodes one after another, as `read_each` gives them."""
    return read_each(dataset, lambda head: load_rollout(head.path, head.digest))


def read_some(*parts: Dataset) -> None:
    """UserError unless each of the parts has an episode that can be read to its end."""
    for part in parts:
        next(rollouts(part))


def say_damaged(error: BadFile) -> None:
    """Name a file that holds no episode, or no longer the one that it held when it was opened."""
    _say_skipped(error.path, f"it holds no episode ({error.reason})")


def say_all_damaged(damaged: int, dataset: Dataset) -> None:
    """Say how many files were damaged; UserError if all of them."""
    _say_count(damaged, len(dataset.heads))
    if damaged == len(dataset.heads):
        raise UserError("Every rollout is damaged: collect again with `worldmodels collect --noreload`.")


def _say_skipped(path: Path, reason: str) -> None:
    tqdm.write(f"Skipped {path}: {reason}.", file=sys.stderr)


def _say_count(skipped: int, total: int) -> None:
    if skipped:
        tqdm.write(f"Skipped {skipped} of {total} files.", file=sys.stderr)
