"""Small episodes for tests: in memory, in files, and damaged."""

from pathlib import Path

import numpy as np

from worldmodels.data.dataset import Dataset, open_dataset
from worldmodels.data.episodes import encode
from worldmodels.rollout import Rollout
from worldmodels.runs.files import write_atomically


def an_episode(steps: int, number: int = 0) -> Rollout:
    """Compressible frames that carry (number, time) in their first two pixels."""
    rng = np.random.default_rng([steps, number])
    frames = np.repeat(rng.integers(0, 256, (steps + 1, 8, 64, 3), dtype=np.uint8), 8, axis=1)
    frames[:, 0, 0], frames[:, 0, 1] = number, np.arange(steps + 1)[:, None]
    terminals = np.zeros(steps, dtype=bool)
    terminals[-1] = number % 2 == 0
    actions = rng.normal(size=(steps, 3)).astype(np.float32)
    return Rollout(frames, actions, rng.normal(size=steps).astype(np.float32), terminals)


def save_rollout(path: Path, rollout: Rollout, seed: int | None = None) -> None:
    write_atomically(path, encode(rollout, seed))


def some_episodes(folder: Path, lengths: list[int]) -> Dataset:
    for number, steps in enumerate(lengths):
        save_rollout(folder / f"rollout_{number:06d}.npz", an_episode(steps, number), seed=100 + number)
    return open_dataset(folder)


def save_arrays(path: Path, steps: int = 6, save=np.savez, **changes: object) -> None:
    """An episode of ctallec's port whose frames are as grey as its actions, or what `changes` makes of it."""
    grey = changes.pop("grey", 7)
    arrays = {
        "observations": np.full((steps, 64, 64, 3), grey, np.uint8),
        "actions": np.full((steps, 3), grey / 255, np.float32),
        "rewards": np.zeros(steps),
        "terminals": np.zeros(steps, bool),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})


def damage(path: Path) -> None:
    """Flip bytes in the frames: the directory at the end of the archive stays, the checksum does not fit."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 50):
        content[place] ^= 0xFF
    path.write_bytes(content)


def assert_same(rollout: Rollout, other: Rollout) -> None:
    for field in ("frames", "actions", "rewards", "terminals"):
        one, two = getattr(rollout, field), getattr(other, field)
        assert one.dtype == two.dtype and np.array_equal(one, two), field
