"""Frames for V: each once per epoch, in an order that the key decides, whatever was skipped or damaged."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.episodes import an_episode, damage, save_arrays, save_rollout, some_episodes
from worldmodels.data import frames as data
from worldmodels.data.dataset import Dataset, open_dataset
from worldmodels.data.episodes import load_rollout
from worldmodels.data.frames import frame_batches
from worldmodels.errors import UserError


def tags(batch: np.ndarray) -> list[tuple[int, int]]:
    """(episode, time) of each frame."""
    return [(int(frame[0, 0, 0]), int(frame[0, 1, 0])) for frame in batch]


LENGTHS = [30, 1, 17, 200, 55, 44, 60, 9]
EVERY = [(episode, time) for episode, steps in enumerate(LENGTHS) for time in range(steps + 1)]


def batches(dataset: Dataset, size: int = 32, **changes) -> list[np.ndarray]:
    return list(frame_batches(dataset, size, **{"seed": 3, "epoch": 0, "buffer_frames": 240, **changes}))


def test_every_frame_comes_once_in_random_order(dataset):
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return some_episodes(tmp_path_factory.mktemp("episodes"), LENGTHS)


@settings(max_examples=60)
@given(data=st.data(), size=st.integers(1, 500), buffer=st.integers(1, 1000), key=st.tuples(*[st.integers(0, 9)] * 2))
def test_every_frame_once_and_skip_leaves_the_rest_unchanged(dataset, data, size, buffer, key):
    changes = {"buffer_frames": buffer, "seed": key[0], "epoch": key[1]}
    whole = [tags(batch) for batch in batches(dataset, size, **changes)]
    assert sorted(tag for batch in whole for tag in batch) == EVERY
    assert [len(batch) for batch in whole[:-1]] == [size] * (len(whole) - 1)
    skip = data.draw(st.integers(0, len(whole) + 1), label="skip")
    assert [tags(batch) for batch in batches(dataset, size, skip=skip, **changes)] == whole[skip:]


def test_each_frame_comes_with_the_one_before_it(dataset):
    for plain, pairs in zip(batches(dataset), batches(dataset, before=True), strict=True):
        assert np.array_equal(pairs[:, 1], plain)
        expected = [(episode, max(time - 1, 0)) for episode, time in tags(plain)]
        assert tags(pairs[:, 0]) == expected


def test_frames_of_both_layouts_come_as_rollouts_have_them(tmp_path):
    rng = np.random.default_rng(0)
    save_arrays(tmp_path / "small.npz", 50, observations=rng.integers(0, 256, (50, 64, 64, 3), dtype=np.uint8))
    save_arrays(tmp_path / "large.npz", 300, observations=rng.integers(0, 256, (300, 96, 70, 3), dtype=np.uint8))
    save_rollout(tmp_path / "ours.npz", an_episode(40))
    opened = open_dataset(tmp_path)
    found = np.concatenate(batches(opened, 64))
    expected = np.concatenate([load_rollout(path).frames for path in opened.files])
    assert sorted(frame.tobytes() for frame in found) == sorted(frame.tobytes() for frame in expected)


def test_the_key_decides_the_order(dataset):
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
    save_rollout(dataset.files[5], an_episode(LENGTHS[5], 99))  # as long and whole, but not the one that was opened
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
