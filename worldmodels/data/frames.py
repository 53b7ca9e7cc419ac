"""Frames for V: all the frames of a dataset in random order, a part of them in memory at a time.

Shapes: T steps of an episode, B batch.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from worldmodels.data.dataset import Dataset, say_all_damaged, say_damaged
from worldmodels.data.episodes import BadFile, Head, load_rollout
from worldmodels.envs import FRAME_SIZE
from worldmodels.workers.places import cores

READERS = min(4, cores())  # threads that read ahead; zlib works outside the interpreter's lock


class _Part:
    """The frames of a few episodes in memory, read by threads while the part before is in use."""

    def __init__(self, heads: list[Head], readers: ThreadPoolExecutor):
        ends = np.cumsum([head.frames for head in heads])
        self.frames = np.empty((ends[-1], FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
        self.before = np.arange(-1, len(self.frames) - 1)
        """(frames,) the place of the frame before each in its episode; a first frame's own"""
        self.before[[0, *ends[:-1]]] += 1
        self._reads: list[tuple[slice, Future[None]]] = []
        for head, begin, end in zip(heads, [0, *ends], ends, strict=False):
            place = slice(begin, end)
            self._reads.append((place, readers.submit(_read_frames, head, self.frames[place])))

    def wait(self) -> tuple[np.ndarray, int]:
        """Until all is read: (bool (frames,), which of them could be read; how many files could not)."""
        intact, damaged = np.ones(len(self.frames), dtype=bool), 0
        for place, read in self._reads:
            try:
                read.result()
            except BadFile as error:
                say_damaged(error)
                intact[place] = False
                damaged += 1
        return intact, damaged


def _read_frames(head: Head, out: np.ndarray) -> None:
    """The frames of an episode into `out` uint8 (T + 1, 64, 64, 3)."""
    out[:] = load_rollout(head.path, head.digest).frames


def _parts(heads: tuple[Head, ...], order: np.ndarray, limit: int) -> list[list[Head]]:
    """Episodes in this order, cut into parts of at most `limit` frames (or one episode that is longer)."""
    parts: list[list[Head]] = []
    held = limit + 1
    for index in order:
        head = heads[index]
        if held + head.frames > limit:
            parts.append([])
            held = 0
        parts[-1].append(head)
        held += head.frames
    return parts


def frame_batches(
    dataset: Dataset, batch_size: int, *, seed: int, epoch: int, skip: int = 0, buffer_frames: int = 60_000,
    before: bool = False,
) -> Iterator[np.ndarray]:  # fmt: skip
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
        before: yield pairs (B, 2, 64, 64, 3) instead, of the frame before and the frame; an episode's first frame
            stands for the one before it.

    Raises:
        UserError: no file could be read.
    """
    rng = np.random.default_rng([seed, epoch])
    parts = _parts(dataset.heads, rng.permutation(len(dataset.heads)), buffer_frames // 2)
    counts = [sum(head.frames for head in part) for part in parts]
    ends = np.cumsum(counts).tolist()
    shuffles = [np.random.default_rng([seed, epoch, 1 + part]) for part in range(len(parts))]
    first = next((part for part, end in enumerate(ends) if end > skip * batch_size), len(parts))
    damaged = 0
    batch: list[np.ndarray] = []  # pieces of the batch being filled: it may begin in one part and end in the next

    readers = ThreadPoolExecutor(READERS)
    try:
        ahead = _Part(parts[first], readers) if first < len(parts) else None
        for part in range(first, len(parts)):
            assert ahead is not None
            frames, earlier, (intact, bad) = ahead.frames, ahead.before, ahead.wait()
            ahead = _Part(parts[part + 1], readers) if part + 1 < len(parts) else None
            damaged += bad
            begin, end = ends[part] - counts[part], ends[part]  # this part's places in the whole order
            order = shuffles[part].permutation(counts[part])
            for number in range(max(skip, begin // batch_size), -(-end // batch_size)):
                chosen = order[max(number * batch_size - begin, 0) : (number + 1) * batch_size - begin]
                chosen = chosen[intact[chosen]]
                batch.append(frames[np.stack([earlier[chosen], chosen], axis=1)] if before else frames[chosen])
                if (number + 1) * batch_size <= end or end == ends[-1]:
                    whole, batch = np.concatenate(batch), []
                    if len(whole):
                        yield whole
            del frames
    finally:
        readers.shutdown(cancel_futures=True)
    if not skip:
        say_all_damaged(damaged, dataset)
