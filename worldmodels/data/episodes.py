"""One episode in a file: how it is written, how it is read, and by what it is known.

Shapes: T steps of an episode, A action size, H × W pixels of a foreign frame.

An episode is one compressed .npz file (the unit of failure), in one of two layouts:

- ours: observations uint8 (T + 1, 64, 64, 3), actions float32 (T, A), rewards float32 (T,), terminals bool (T,),
  and the track's seed, a scalar; `observations[t]` is what the policy saw when it chose `actions[t]`.
- ctallec's port (ctallec/world-models): four arrays of one length, `observations[t]` (H, W, 3) the frame AFTER
  `actions[t]`; the frame before the first action was not stored, so that action and its reward have no use.

An episode is known by its content (`Head.digest`), wherever it lies and whatever it is called. Nothing here imports
torch: the workers that collect stay small.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodels.envs import FRAME_SIZE, as_frames
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout

KEYS = ("observations", "actions", "rewards", "terminals")
COMPRESSION = 1  # zlib level: a core writes 22,000 and reads 46,000 frames/s, 1.8 kB per frame; 6 is 3 × slower, 1.3 kB
CHUNK = 128  # foreign frames resized at a time: bounds the memory of their float copies


class BadFile(UserError):
    """A file that holds no episode: empty, truncated, damaged or foreign."""

    def __init__(self, path: Path, reason: object):
        super().__init__(f"{path} holds no episode ({reason}): delete it, `worldmodels collect` makes it again.")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BadFile, (self.path, self.reason)


class Head(NamedTuple):
    """What is known of an episode without its frames."""

    path: Path
    """Its file."""
    length: int
    """T, steps"""
    action_size: int
    """A"""
    score: float
    """Sum of the rewards"""
    seed: int | None
    """Of the track, where the file has it"""
    digest: str
    """Of the four arrays: the same wherever the file lies and however it is compressed."""

    @property
    def frames(self) -> int:
        """T + 1"""
        return self.length + 1


# ------------------------------------------------------------------------------------------------- writing


def encode(rollout: Rollout, seed: int | None = None) -> bytes:
    """An episode, and the seed of its track, as a file of our layout; the same episode gives the same bytes."""
    arrays = {
        "observations": rollout.frames,
        "actions": rollout.actions.astype(np.float32, copy=False),
        "rewards": rollout.rewards.astype(np.float32, copy=False),
        "terminals": rollout.terminals.astype(bool, copy=False),
    }
    if seed is not None:
        arrays["seed"] = np.array(seed, dtype=np.int64)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
        for name, array in arrays.items():  # np.savez_compressed, but for the level
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------- reading


def inspect(path: Path) -> Head:
    """What is known of the episode in a file. All but its frames is read and checked, so that what is said of it here
    holds when it is used; raises BadFile."""
    with _reading(path) as archive:
        length, action_size, skipped = _layout(archive)
        _, rewards, _ = (_numbers(archive, name, skipped) for name in KEYS[1:])
        score = float(rewards.sum(dtype=np.float64))
        return Head(path, length, action_size, score, _seed(archive), _digest(archive))


def load_rollout(path: Path, digest: str | None = None) -> Rollout:
    """The episode in a file of either layout, frames as V sees them.

    The `terminals` of ctallec's port also mark the time limit: its files do not tell one ending from the other.

    Raises:
        BadFile: it holds no episode, or another one than that of `digest`.
    """
    with _reading(path, digest) as archive:
        length, _, skipped = _layout(archive)
        observations = _array(archive, "observations")
        actions, rewards, terminals = (_numbers(archive, name, skipped) for name in KEYS[1:])
    return Rollout(_resized(observations), actions.reshape(length, -1), rewards, terminals.astype(bool))


@contextmanager
def _reading(path: Path, digest: str | None = None) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever goes wrong with it is a BadFile, and so is another content than that of `digest`."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a directory or a pipe")  # reading a pipe would wait for ever
        with zipfile.ZipFile(path) as archive:
            if digest not in (None, _digest(archive)):
                raise ValueError("its content is another: it was replaced meanwhile")
            yield archive
    except Exception as error:  # foreign bytes make zipfile, zlib and numpy raise nearly anything
        raise BadFile(path, " ".join(str(error).split()) or type(error).__name__) from error


def _digest(archive: zipfile.ZipFile) -> str:
    """From the checksums in the archive's directory; reading an array verifies its own."""
    members = [archive.getinfo(f"{name}.npy") for name in KEYS]
    content = [(member.filename, member.file_size, member.CRC) for member in members]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _layout(archive: zipfile.ZipFile) -> tuple[int, int, int]:
    """(T, A, steps at the start that have no frame before them); ValueError says why this is no episode."""
    (frames, frame_type), *others = (_header(archive, name) for name in KEYS)
    (actions, _), (steps, _), (terminals, _) = others
    if len(frames) != 4 or min(frames[1:3]) < 1 or frames[3] != 3 or frame_type != np.uint8:
        raise ValueError(f"observations {frame_type} {frames} instead of uint8 (time, height, width, 3)")
    for name, (_, dtype) in zip(KEYS[1:], others, strict=True):
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} of type {dtype} instead of numbers")
    if len(steps) != 1 or terminals != steps or actions[:1] != steps:
        raise ValueError(f"array lengths differ: actions {actions}, rewards {steps}, terminals {terminals}")
    if frames[0] not in (steps[0], steps[0] + 1):
        raise ValueError(f"{frames[0]} frames for {steps[0]} steps")
    if frames[0] < 2:
        raise ValueError("no step in it")
    action_size = math.prod(actions[1:])
    if action_size < 1:
        raise ValueError(f"actions {actions} without a number")
    length = frames[0] - 1
    return length, action_size, steps[0] - length


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array, without reading it; ValueError where its bytes are more or fewer than those."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read(member)
        size = info.file_size - member.tell()
    if not dtype.hasobject and size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} {dtype} {shape} in {size} bytes")
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, as np.load(allow_pickle=False) reads it; the archive's checksum is verified."""
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _numbers(archive: zipfile.ZipFile, name: str, skipped: int) -> np.ndarray:
    """One array as float32, without the first `skipped` steps; ValueError names the first that is not finite."""
    with np.errstate(over="ignore"):
        numbers = _array(archive, name)[skipped:].astype(np.float32)
    finite = np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    if not finite.all():
        step = int(finite.argmin())
        raise ValueError(f"{name} of step {skipped + step} are {numbers[step].tolist()}")
    return numbers


def _seed(archive: zipfile.ZipFile) -> int | None:
    if "seed.npy" not in archive.namelist():
        return None
    seed = _array(archive, "seed")
    if seed.shape != () or seed.dtype.kind not in "iu":
        raise ValueError(f"a seed {seed.dtype} {seed.shape} instead of one integer")
    return int(seed)


def _resized(observations: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) → (T, 64, 64, 3), a few at a time."""
    if observations.shape[1:3] == (FRAME_SIZE, FRAME_SIZE):
        return observations
    chunks = range(0, len(observations), CHUNK)
    return np.concatenate([as_frames(observations[start : start + CHUNK]) for start in chunks])
