"""Episodes on disk: both layouts, bad files, the split, and the order of frames."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from worldmodels.data import dataset as data
from worldmodels.data.dataset import BadFile, Dataset, frame_batches, load_rollout, open_dataset, save_rollout, split
from worldmodels.envs import as_frames
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout


def an_episode(steps: int, number: int = 0) -> Rollout:
    """Compressible frames that carry (number, time) in their first two pixels."""
    rng = np.random.default_rng([steps, number])
    frames = np.repeat(rng.integers(0, 256, (steps + 1, 8, 64, 3), dtype=np.uint8), 8, axis=1)
    frames[:, 0, 0], frames[:, 0, 1] = number, np.arange(steps + 1)[:, None]
    terminals = np.zeros(steps, dtype=bool)
    terminals[-1] = number % 2 == 0
    actions = rng.normal(size=(steps, 3)).astype(np.float32)
    return Rollout(frames, actions, rng.normal(size=steps).astype(np.float32), terminals)


def some_episodes(folder: Path, lengths: list[int]) -> Dataset:
    for number, steps in enumerate(lengths):
        save_rollout(folder / f"rollout_{number:06d}.npz", an_episode(steps, number), seed=100 + number)
    return open_dataset(folder)


def tags(batch: np.ndarray) -> list[tuple[int, int]]:
    """(episode, time) of each frame."""
    return [(int(frame[0, 0, 0]), int(frame[0, 1, 0])) for frame in batch]


def assert_same(rollout: Rollout, other: Rollout) -> None:
    for field in ("frames", "actions", "rewards", "terminals"):
        one, two = getattr(rollout, field), getattr(other, field)
        assert one.dtype == two.dtype and np.array_equal(one, two), field


def damage(path: Path) -> None:
    """Flip the bytes in the middle: the directory at the end of the archive stays, the checksum does not fit."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 50):
        content[place] ^= 0xFF
    path.write_bytes(content)


# ---------------------------------------------------------------------------------------------- one file


def test_a_rollout_comes_back_and_numpy_reads_it(tmp_path):
    episode, path = an_episode(7), tmp_path / "a.npz"
    save_rollout(path, episode, seed=42)
    assert_same(load_rollout(path), episode)
    assert data.load_seed(path) == 42
    with np.load(path, allow_pickle=False) as archive:
        assert {name: (archive[name].dtype, archive[name].shape) for name in archive} == {
            "observations": (np.uint8, (8, 64, 64, 3)),
            "actions": (np.float32, (7, 3)),
            "rewards": (np.float32, (7,)),
            "terminals": (bool, (7,)),
            "seed": (np.int64, ()),
        }
        assert np.array_equal(archive["observations"], episode.frames)
    assert path.stat().st_size < 0.5 * episode.frames.nbytes
    before = path.read_bytes()
    save_rollout(path, episode, seed=42)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]  # nothing temporary is left


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [64, 96])
def test_the_seeds_layout_is_converted(tmp_path, save, size):
    """The seed stores the frame AFTER each action: its first action and reward have no frame before them."""
    rng = np.random.default_rng(0)
    observations = rng.integers(0, 256, (300, size, size, 3), dtype=np.uint8)
    actions, rewards = rng.normal(size=(300, 3)), rng.normal(size=300)
    terminals = np.arange(300) == 299
    folder = tmp_path / "thread_0"
    folder.mkdir()
    save(folder / "rollout_0.npz", observations=observations, rewards=rewards, actions=actions, terminals=terminals)
    rollout = load_rollout(folder / "rollout_0.npz")
    expected = Rollout(
        as_frames(observations), actions[1:].astype(np.float32), rewards[1:].astype(np.float32), terminals[1:]
    )
    assert_same(rollout, expected)
    assert data.load_seed(folder / "rollout_0.npz") is None
    dataset = open_dataset(tmp_path)
    assert dataset.lengths == (299,)
    assert np.array_equal(
        sorted(np.concatenate([*frame_batches(dataset, 64, seed=0, epoch=0)]).sum(axis=(1, 2, 3))),
        sorted(rollout.frames.sum(axis=(1, 2, 3), dtype=np.uint64)),
    )


class Bomb:
    """Does harm when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a data file was unpickled",))


def bad_files(folder: Path) -> list[str]:
    """Ten files that are no episodes, and a whole one; returns the names of the bad ones."""
    episode = an_episode(20)
    save_rollout(folder / "whole.npz", episode)
    content = (folder / "whole.npz").read_bytes()
    arrays = {"observations": episode.frames, "actions": episode.actions, "rewards": episode.rewards}
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("no archive")
    for percent in (1, 50, 99):
        (folder / f"truncated{percent}.npz").write_bytes(content[: len(content) * percent // 100])
    (folder / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    np.savez(folder / "foreign.npz", weights=np.zeros(3))
    np.savez(folder / "objects.npz", **arrays, terminals=np.array([Bomb()] * 20, dtype=object))
    np.savez(folder / "lengths.npz", **arrays, terminals=np.zeros(3, dtype=bool))
    np.savez(folder / "floats.npz", **{**arrays, "observations": episode.frames / 255.0}, terminals=episode.terminals)
    return sorted(path.name for path in folder.iterdir() if path.name != "whole.npz")


def test_bad_files_are_named_skipped_and_counted(tmp_path, capsys):
    names = bad_files(tmp_path)
    assert len(names) == 10
    dataset = open_dataset(tmp_path)
    assert [path.name for path in dataset.files] == ["whole.npz"] and dataset.lengths == (20,)
    said = capsys.readouterr().err
    assert all(f"Skipped {tmp_path / name}" in said for name in names)
    assert "Skipped 10 of 11 files" in said
    for name in names:
        with pytest.raises(BadFile, match=name):
            load_rollout(tmp_path / name)


def test_nothing_is_unpickled(tmp_path):
    """Where no header is looked at first, too: the seed of a track, and a file replaced after it was opened."""
    dataset = some_episodes(tmp_path, [20, 20])
    np.savez(dataset.files[0], observations=np.array([Bomb()] * 21, dtype=object), seed=np.array(Bomb(), dtype=object))
    with pytest.raises(BadFile, match="allow_pickle"):
        data.load_seed(dataset.files[0])
    assert {episode for batch in batches(dataset) for episode, _ in tags(batch)} == {1}


def test_bad_file_survives_the_way_from_a_worker(tmp_path):
    error = pickle.loads(pickle.dumps(BadFile(tmp_path, "empty")))
    assert isinstance(error, BadFile) and error.path == tmp_path and "empty" in str(error)


def test_nothing_to_open(tmp_path):
    with pytest.raises(UserError, match="does not exist; `worldmodels collect --rootdir"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="no .npz file; `worldmodels collect"):
        open_dataset(tmp_path)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 .npz files holds an episode"):
        open_dataset(tmp_path)


def test_a_damaged_rollout_is_left_out(tmp_path, capsys):
    dataset = some_episodes(tmp_path, [30, 30, 30])
    damage(dataset.files[1])
    assert [index for index, _ in data.rollouts(dataset)] == [0, 2]
    said = capsys.readouterr().err
    assert str(dataset.files[1]) in said and "Skipped 1 of 3 files" in said
    for path in (dataset.files[0], dataset.files[2]):
        damage(path)
    with pytest.raises(UserError, match="Every rollout is damaged"):
        list(data.rollouts(dataset))


# ------------------------------------------------------------------------------------------------- split


def numbered(count: int, root: str = "somewhere") -> Dataset:
    files = tuple(Path(root) / f"rollout_{number:06d}.npz" for number in range(count))
    return Dataset(files, tuple(range(1, count + 1)))


@pytest.mark.parametrize("count", [2, 3, 9, 10, 600, 1000])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_split_takes_the_fraction_of_any_number(count, fraction):
    dataset = numbered(count)
    train, test = split(dataset, fraction)
    assert len(test.files) == min(max(round(fraction * count), 1), count - 1)
    assert sorted(train.files + test.files) == sorted(dataset.files)
    lengths = dict(zip(dataset.files, dataset.lengths, strict=True))
    for part in (train, test):
        assert part.lengths == tuple(lengths[path] for path in part.files)


def test_split_depends_on_names_alone():
    _, test = split(numbered(100), 0.2)
    _, moved = split(numbered(100, "/elsewhere/deep"), 0.2)
    assert test.lengths == moved.lengths
    reversed_order = Dataset(numbered(100).files[::-1], numbered(100).lengths[::-1])
    assert sorted(split(reversed_order, 0.2)[1].files) == sorted(test.files)
    grown = set(split(numbered(110), 0.2)[1].files)
    assert len(set(test.files) & grown) >= 17  # most stay in the test set when episodes are added


def test_one_rollout_cannot_be_split():
    with pytest.raises(UserError, match="only one rollout .*two are needed"):
        split(numbered(1), 0.1)
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            split(numbered(5), fraction)


def test_fingerprint_changes_with_the_episodes(tmp_path):
    (tmp_path / "a").mkdir()
    dataset = some_episodes(tmp_path / "a", [4, 5])
    before = dataset.fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    moved = open_dataset(tmp_path / "b")
    assert moved.fingerprint == before and moved.names == dataset.names
    assert some_episodes(tmp_path / "b", [4, 5, 6]).fingerprint != before
    save_rollout(moved.files[1], an_episode(5, 77))
    assert moved.fingerprint != before


# ------------------------------------------------------------------------------------------------ frames


LENGTHS = [30, 1, 17, 200, 55, 44, 60, 9]


def batches(dataset: Dataset, size: int = 32, **changes) -> list[np.ndarray]:
    return list(frame_batches(dataset, size, **{"seed": 3, "epoch": 0, "buffer_frames": 240, **changes}))


def test_every_frame_comes_once_in_random_order(tmp_path):
    dataset = some_episodes(tmp_path, LENGTHS)
    assert dataset.steps == sum(LENGTHS) and dataset.frames == sum(LENGTHS) + len(LENGTHS)
    found = batches(dataset)
    assert [len(batch) for batch in found] == [32] * (dataset.frames // 32) + [dataset.frames % 32]
    assert all(batch.shape[1:] == (64, 64, 3) and batch.dtype == np.uint8 for batch in found)
    frames = {tag: frame for batch in found for tag, frame in zip(tags(batch), batch, strict=True)}
    assert len(frames) == dataset.frames
    for number, steps in enumerate(LENGTHS):
        for time, frame in enumerate(an_episode(steps, number).frames):
            assert np.array_equal(frames[number, time], frame)
    mixed = [len({episode for episode, _ in tags(batch)}) for batch in batches(dataset, buffer_frames=10_000)]
    assert min(mixed) >= 4  # one batch holds frames of many episodes where the buffer does
    order = [time for batch in found for episode, time in tags(batch) if episode == 3]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.3  # and of any time in them


@pytest.mark.parametrize("buffer_frames", [1, 240, 10_000])
@pytest.mark.parametrize("size", [1, 32, 100, 1000])
def test_skip_leaves_the_rest_unchanged(tmp_path, size, buffer_frames):
    dataset = some_episodes(tmp_path, LENGTHS)
    whole = [tags(batch) for batch in batches(dataset, size, buffer_frames=buffer_frames)]
    steps = max(1, len(whole) // 5)
    for skip in [*range(0, len(whole), steps), len(whole) - 1, len(whole), len(whole) + 1]:
        rest = [tags(batch) for batch in batches(dataset, size, buffer_frames=buffer_frames, skip=skip)]
        assert rest == whole[skip:]


def test_the_key_decides_the_order(tmp_path):
    dataset = some_episodes(tmp_path, LENGTHS)
    first = [tags(batch) for batch in batches(dataset)]
    assert [tags(batch) for batch in batches(dataset)] == first
    assert [tags(batch) for batch in batches(dataset, epoch=1)] != first
    assert [tags(batch) for batch in batches(dataset, seed=4)] != first
    begun_with = {frozenset(episode for episode, _ in tags(batches(dataset, epoch=epoch)[0])) for epoch in range(5)}
    assert len(begun_with) > 1  # the files are shuffled too


def test_a_file_damaged_meanwhile_changes_no_other_batch(tmp_path, capsys):
    dataset = some_episodes(tmp_path, LENGTHS)
    whole = [tags(batch) for batch in batches(dataset)]
    damage(dataset.files[4])
    expected = [[tag for tag in batch if tag[0] != 4] for batch in whole]
    assert [tags(batch) for batch in batches(dataset)] == expected
    said = capsys.readouterr().err
    assert str(dataset.files[4]) in said and "Skipped 1 of 8 files" in said
    assert [tags(batch) for batch in batches(dataset, skip=5)] == expected[5:]
    save_rollout(dataset.files[5], an_episode(3, 5))  # a whole file, but not the one that was opened
    expected = [[tag for tag in batch if tag[0] != 5] for batch in expected]
    expected = [batch for batch in expected if batch]
    assert [tags(batch) for batch in batches(dataset)] == expected
    for path in dataset.files:
        path.unlink()
    with pytest.raises(UserError, match="Every rollout is damaged"):
        batches(dataset)


def test_memory_stays_within_the_buffer(tmp_path):
    """60 episodes of 100 frames, 74 MB, through a buffer of 800 frames, 10 MB."""
    dataset = some_episodes(tmp_path, [99] * 60)
    frame = 64 * 64 * 3
    tracemalloc.start()
    for _ in frame_batches(dataset, 32, seed=0, epoch=0, buffer_frames=800):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    being_read = data.READERS * 2 * 100 * frame  # each thread: the array, and what it was decoded from
    assert peak < (800 + 2 * 32) * frame + being_read
