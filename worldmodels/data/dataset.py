"""Episodes on disk: how they are written, found, split, and read as shuffled frames or whole rollouts.

Shapes: T steps of an episode, A action size, B batch, H × W pixels of a foreign frame.

An episode is one compressed .npz file (the unit of failure), in one of two layouts:

- ours: observations uint8 (T + 1, 64, 64, 3), actions float32 (T, A), rewards float32 (T,), terminals bool (T,),
  and the track's seed, a scalar; `observations[t]` is what the policy saw when it chose `actions[t]`.
- the seed's (ctallec/world-models): four arrays of one length, `observations[t]` (H, W, 3) the frame AFTER
  `actions[t]`; the frame before the first action was not stored, so that action and its reward have no use.

Nothing here imports torch: the workers that collect stay small.
"""

import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodels.envs import FRAME_SIZE, as_frames
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs.files import replacing
from worldmodels.workers.pool import cores

KEYS = ("observations", "actions", "rewards", "terminals")
COMPRESSION = 1  # zlib level: 22,000 frames/s written and 46,000 read a core, 1.8 kB a frame; 6 is 3 × slower, 1.3 kB
READERS = min(4, cores())  # threads that read ahead; zlib works outside the interpreter's lock
CHUNK = 128  # foreign frames resized at a time: bounds the memory of their float copies


class BadFile(UserError):
    """A file that holds no episode: empty, truncated, damaged or foreign."""

    def __init__(self, path: Path, reason: object):
        super().__init__(f"{path} holds no episode ({reason}): delete it, `worldmodels collect` makes it again.")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BadFile, (self.path, self.reason)


_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What zipfile, zlib and numpy raise on a damaged archive."""


@dataclass(frozen=True)
class Dataset:
    """Episode files, their contents still on disk."""

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    """T, the steps of each"""

    @property
    def steps(self) -> int:
        """Transitions in all the episodes together."""
        return sum(self.lengths)

    @property
    def frames(self) -> int:
        """Frames in all the episodes together: one more than steps in each."""
        return self.steps + len(self.files)

    @property
    def fingerprint(self) -> str:
        """Changes when episodes are added, removed or replaced, not when the folder moves."""
        sizes = [path.stat().st_size for path in self.files]
        return hashlib.sha256(repr([*zip(self.names, self.lengths, sizes, strict=True)]).encode()).hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        """The files' paths below the deepest folder that holds them all."""
        root = os.path.commonpath([path.parent for path in self.files])
        return [path.relative_to(root).as_posix() for path in self.files]


# ---------------------------------------------------------------------------------------------- one file


def save_rollout(path: Path, rollout: Rollout, seed: int | None = None) -> None:
    """Write an episode, and the seed of its track, in our layout; the same episode gives the same bytes."""
    arrays = {
        "observations": rollout.frames,
        "actions": rollout.actions.astype(np.float32, copy=False),
        "rewards": rollout.rewards.astype(np.float32, copy=False),
        "terminals": rollout.terminals.astype(bool, copy=False),
    }
    if seed is not None:
        arrays["seed"] = np.array(seed, dtype=np.int64)
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive,
    ):
        for name, array in arrays.items():  # np.savez_compressed, but for the level
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def episode_length(path: Path) -> int:
    """T of an episode file, read from its headers alone; raises BadFile."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _length({name: _header(archive, name) for name in KEYS})
    except _DAMAGE as error:
        raise BadFile(path, _reason(error)) from error


def load_rollout(path: Path) -> Rollout:
    """The episode in a file of our layout or the seed's, frames as V sees them; raises BadFile.

    The seed's `terminals` also mark the time limit: its files do not tell one ending from the other.
    """
    arrays = _read(path, KEYS)
    steps = len(arrays["rewards"])
    used = slice(steps + 1 - len(arrays["observations"]), None)  # the seed's first action has no frame before it
    return Rollout(
        frames=_resized(arrays["observations"]),
        actions=arrays["actions"][used].reshape(steps - used.start, -1).astype(np.float32),
        rewards=arrays["rewards"][used].astype(np.float32),
        terminals=arrays["terminals"][used].astype(bool),
    )


def load_rewards(path: Path) -> np.ndarray:
    """The rewards float32 (T,) of an episode, without its frames; raises BadFile."""
    return _read(path, ("rewards",))["rewards"]


def load_seed(path: Path) -> int | None:
    """The seed of the track, or None where the file does not say; raises BadFile."""
    try:
        return int(_read(path, ("seed",))["seed"])
    except BadFile as error:
        if isinstance(error.__cause__, KeyError):
            return None
        raise


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array, without reading it."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read(member)
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, as np.load(allow_pickle=False) reads it; the archive's checksum is verified."""
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _length(headers: dict[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    """T, if arrays of these shapes and types are an episode; ValueError says why they are not."""
    frames, steps = headers["observations"], headers["rewards"][0]
    if len(frames[0]) != 4 or frames[0][3] != 3 or frames[1] != np.uint8:
        raise ValueError(f"observations {frames[1]} {frames[0]} instead of uint8 (time, height, width, 3)")
    if any(dtype.hasobject for _, dtype in headers.values()):
        raise ValueError("Python objects instead of numbers")
    if len(steps) != 1 or headers["terminals"][0] != steps or headers["actions"][0][:1] != steps:
        shapes = {name: shape for name, (shape, _) in headers.items()}
        raise ValueError(f"array lengths differ: {shapes}")
    if frames[0][0] not in (steps[0], steps[0] + 1):
        raise ValueError(f"{frames[0][0]} frames for {steps[0]} steps")
    if frames[0][0] < 2:
        raise ValueError("no step in it")
    return frames[0][0] - 1


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an episode file; raises BadFile."""
    try:
        with zipfile.ZipFile(path) as archive:
            if names == KEYS:
                _length({name: _header(archive, name) for name in KEYS})
            return {name: _array(archive, name) for name in names}
    except _DAMAGE as error:
        raise BadFile(path, _reason(error)) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _resized(observations: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) → (T, 64, 64, 3), a few at a time."""
    if observations.shape[1:3] == (FRAME_SIZE, FRAME_SIZE):
        return observations
    chunks = range(0, len(observations), CHUNK)
    return np.concatenate([as_frames(observations[start : start + CHUNK]) for start in chunks])


# -------------------------------------------------------------------------------------------- many files


def open_dataset(rootdir: Path | str) -> Dataset:
    """All the episodes under `rootdir`, subfolders included, in the order of their names; reads only headers.

    Files that hold no episode are named on stderr, left out and counted.

    Raises:
        UserError: there is no such folder, or no episode in it.
    """
    root = Path(rootdir)
    make_some = f"`worldmodels collect --rootdir {root}` makes some"
    if not root.is_dir():
        raise UserError(f"There are no rollouts: the folder {root} does not exist; {make_some}.")
    files, lengths, found = [], [], sorted(root.rglob("*.npz"))
    for path in found:
        try:
            lengths.append(episode_length(path))
            files.append(path)
        except BadFile as error:
            _say_skipped(error)
    _say_count(len(found) - len(files), len(found))
    if not files:
        empty = f"none of its {len(found)} .npz files holds an episode" if found else "it has no .npz file"
        raise UserError(f"There are no rollouts in {root}: {empty}; {make_some}.")
    return Dataset(tuple(files), tuple(lengths))


def split(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """(train, test): `fraction` of the episodes, at least one and never all, are the test set.

    Which ones depends on their names alone (those whose names hash lowest), not on the folder or the order; when
    episodes are added, the test set grows by new ones and hands over only those that leave the lowest fraction.

    Raises:
        UserError: one episode cannot be split, or `fraction` is not between 0 and 1.
    """
    count = len(dataset.files)
    if not 0 < fraction < 1:
        raise UserError(f"The test fraction is {fraction}: choose one between 0 and 1.")
    if count < 2:
        raise UserError(
            f"There is only one rollout ({dataset.files[0]}) where two are needed, one to train on and one to test: "
            "collect more with `worldmodels collect`."
        )
    names = dataset.names
    ranked = sorted(range(count), key=lambda index: hashlib.sha256(names[index].encode()).digest())
    test = sorted(ranked[: min(max(round(fraction * count), 1), count - 1)])
    return _subset(dataset, sorted(set(range(count)) - set(test))), _subset(dataset, test)


def _subset(dataset: Dataset, indices: list[int]) -> Dataset:
    return Dataset(tuple(dataset.files[i] for i in indices), tuple(dataset.lengths[i] for i in indices))


def rollouts(dataset: Dataset) -> Iterator[tuple[int, Rollout]]:
    """(index, episode) one after another; a file that turns out damaged is named, left out and counted.

    Raises:
        UserError: no episode could be read.
    """
    skipped = 0
    for index, path in enumerate(dataset.files):
        try:
            yield index, load_rollout(path)
        except BadFile as error:
            _say_skipped(error)
            skipped += 1
    _finish(skipped, dataset)


def _say_skipped(error: BadFile) -> None:
    tqdm.write(f"Skipped {error.path}: it holds no episode ({error.reason}).", file=sys.stderr)


def _say_count(skipped: int, total: int) -> None:
    if skipped:
        tqdm.write(f"Skipped {skipped} of {total} files.", file=sys.stderr)


def _finish(skipped: int, dataset: Dataset) -> None:
    """Say how many files were damaged; UserError if all of them."""
    _say_count(skipped, len(dataset.files))
    if skipped == len(dataset.files):
        raise UserError("Every rollout is damaged: collect again with `worldmodels collect --noreload`.")


# ------------------------------------------------------------------------------------------------ frames


class _Part:
    """The frames of a few episodes in memory, read by threads while the part before is in use."""

    def __init__(self, dataset: Dataset, members: list[int], readers: ThreadPoolExecutor):
        ends = np.cumsum([dataset.lengths[member] + 1 for member in members])
        self.frames = np.empty((ends[-1], FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
        self._reads: list[tuple[slice, Future[None]]] = []
        for member, begin, end in zip(members, [0, *ends], ends, strict=False):
            place = slice(begin, end)
            self._reads.append((place, readers.submit(_read_frames, dataset.files[member], self.frames[place])))

    def wait(self) -> tuple[np.ndarray, list[BadFile]]:
        """Until all is read: (bool (frames,), which of them could be read; what could not)."""
        intact, damaged = np.ones(len(self.frames), dtype=bool), []
        for place, read in self._reads:
            try:
                read.result()
            except BadFile as error:
                intact[place] = False
                damaged.append(error)
        return intact, damaged


def _read_frames(path: Path, out: np.ndarray) -> None:
    """The frames of an episode into `out` uint8 (T + 1, 64, 64, 3)."""
    observations = _read(path, ("observations",))["observations"]
    if len(observations) != len(out):
        raise BadFile(path, f"{len(observations)} frames where it had {len(out)}: it was replaced meanwhile")
    out[:] = _resized(observations)


def _parts(dataset: Dataset, order: np.ndarray, limit: int) -> list[list[int]]:
    """Episodes in this order, cut into parts of at most `limit` frames (or one episode that is longer)."""
    parts: list[list[int]] = []
    held = limit + 1
    for index in order:
        count = dataset.lengths[index] + 1
        if held + count > limit:
            parts.append([])
            held = 0
        parts[-1].append(int(index))
        held += count
    return parts


def frame_batches(
    dataset: Dataset, batch_size: int, *, seed: int, epoch: int, skip: int = 0, buffer_frames: int = 60_000
) -> Iterator[np.ndarray]:
    """One pass over all the frames in random order: batches uint8 (B, 64, 64, 3), the last one perhaps smaller.

    The files are shuffled, then the frames of a part of them that fits in half the buffer; the other half is being
    read meanwhile. The same (seed, epoch) gives the same batches. A file that turns out damaged is named, left out
    and counted: its frames are missing from the batches planned for them, and no other batch changes (one that was
    planned of such frames alone is left out).

    Args:
        dataset: the episodes.
        batch_size: B.
        seed, epoch: the key of the order.
        skip: leave out the first batches (those already trained on) without reading more than needed.
        buffer_frames: frames in memory at a time, 12 kB each.

    Raises:
        UserError: no file could be read.
    """
    rng = np.random.default_rng([seed, epoch])
    parts = _parts(dataset, rng.permutation(len(dataset.files)), buffer_frames // 2)
    counts = [sum(dataset.lengths[member] + 1 for member in members) for members in parts]
    ends = np.cumsum(counts).tolist()
    shuffles = [np.random.default_rng([seed, epoch, 1 + part]) for part in range(len(parts))]
    first = next((part for part, end in enumerate(ends) if end > skip * batch_size), len(parts))
    damaged: list[BadFile] = []
    batch: list[np.ndarray] = []  # pieces of the batch being filled: it may begin in one part and end in the next

    readers = ThreadPoolExecutor(READERS)
    try:
        ahead = _Part(dataset, parts[first], readers) if first < len(parts) else None
        for part in range(first, len(parts)):
            assert ahead is not None
            frames, (intact, bad) = ahead.frames, ahead.wait()
            ahead = _Part(dataset, parts[part + 1], readers) if part + 1 < len(parts) else None
            for error in bad:
                _say_skipped(error)
            damaged += bad

            begin, end = ends[part] - counts[part], ends[part]  # this part's places in the whole order
            order = shuffles[part].permutation(counts[part])
            for number in range(max(skip, begin // batch_size), -(-end // batch_size)):
                chosen = order[max(number * batch_size - begin, 0) : (number + 1) * batch_size - begin]
                batch.append(frames[chosen[intact[chosen]]])
                if (number + 1) * batch_size <= end or end == ends[-1]:
                    whole, batch = np.concatenate(batch), []
                    if len(whole):
                        yield whole
            del frames
    finally:
        readers.shutdown(cancel_futures=True)
    if not skip:
        _finish(len(damaged), dataset)
