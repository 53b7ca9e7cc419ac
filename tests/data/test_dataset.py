"""Many episodes: what is found, what is left out, and a split that no neighbour changes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.episodes import an_episode, damage, save_arrays, save_rollout, some_episodes
from worldmodels.data import dataset as data
from worldmodels.data.dataset import Dataset, open_dataset, split
from worldmodels.data.episodes import Head
from worldmodels.errors import UserError


def test_nothing_to_open(tmp_path):
    with pytest.raises(UserError, match="does not exist; `worldmodels collect --rootdir"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="no .npz file; `worldmodels collect"):
        open_dataset(tmp_path)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 .npz files holds an episode"):
        open_dataset(tmp_path)


def test_episodes_of_another_game_are_left_out(tmp_path, capsys):
    for number in range(3):
        save_arrays(tmp_path / f"b/rollout_{number}.npz", grey=number)
    save_arrays(tmp_path / "a/other.npz", actions=np.zeros((6, 2)))
    assert len(open_dataset(tmp_path).files) == 3
    said = capsys.readouterr().err
    assert f"Skipped {tmp_path / 'a/other.npz'}: its actions have 2 numbers, those of most episodes 3" in said
    assert "Skipped 1 of 4 files" in said
    (tmp_path / "a/other.npz").unlink()
    save_arrays(tmp_path / "a/more.npz", actions=np.zeros((6, 5)))
    assert open_dataset(tmp_path).heads[0].action_size == 3, "the most episodes decide, not the most numbers"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="This system has no named pipes.")
def test_a_pipe_is_named_and_not_waited_for(tmp_path, capsys):
    save_arrays(tmp_path / "a.npz")
    assert open_dataset(tmp_path).steps and not capsys.readouterr().err
    os.mkfifo(tmp_path / "b.npz")
    assert open_dataset(tmp_path).files == (tmp_path / "a.npz",)
    assert "b.npz: it holds no episode (a directory or a pipe)" in capsys.readouterr().err


def test_a_damaged_rollout_is_left_out(tmp_path, capsys):
    dataset = some_episodes(tmp_path, [30, 30, 30, 30])
    damage(dataset.files[1])
    save_rollout(dataset.files[3], an_episode(30, 77))  # whole, but not the one that was opened
    assert [head for head, _ in data.rollouts(dataset)] == [dataset.heads[0], dataset.heads[2]]
    said = capsys.readouterr().err
    assert str(dataset.files[1]) in said and "Skipped 2 of 4 files" in said
    assert f"{dataset.files[3]}: it holds no episode (its content is another: it was replaced" in said
    for path in (dataset.files[0], dataset.files[2]):
        damage(path)
    with pytest.raises(UserError, match="Every rollout is damaged"):
        list(data.rollouts(dataset))


# ------------------------------------------------------------------------------------------ the fingerprint


def test_the_fingerprint_is_the_content_s(tmp_path):
    dataset = some_episodes(tmp_path / "a", [4, 5])
    before = dataset.fingerprint
    assert len(before) == 16, "as a training holds it that goes on"
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_dataset(tmp_path / "b").fingerprint == before == open_dataset(tmp_path).fingerprint
    assert some_episodes(tmp_path / "b", [4, 5, 6]).fingerprint != before
    (tmp_path / "b/rollout_000002.npz").unlink()
    assert open_dataset(tmp_path).fingerprint == before
    first, second = open_dataset(tmp_path).files
    first.rename(tmp_path / "b/rollout_000009.npz")  # the same episodes in another order: other batches
    assert open_dataset(tmp_path).fingerprint != before


def test_an_episode_of_the_same_name_and_size_is_another(tmp_path):
    for number in range(2):
        save_arrays(tmp_path / f"thread_{number}/rollout_0.npz", grey=20 + number)
    before = open_dataset(tmp_path)
    sizes = [path.stat().st_size for path in before.files]
    save_arrays(tmp_path / "thread_1/rollout_0.npz", grey=220)
    after = open_dataset(tmp_path)
    assert [path.stat().st_size for path in after.files] == sizes and after.lengths == before.lengths
    assert after.fingerprint != before.fingerprint


# ------------------------------------------------------------------------------------------------- split


def numbered(count: int, root: str = "somewhere", first: int = 0) -> Dataset:
    numbers = range(first, first + count)
    paths = [Path(root) / f"rollout_{number:06d}.npz" for number in numbers]
    return Dataset(tuple(Head(path, n + 1, 3, 0.0, n, f"content {n}") for path, n in zip(paths, numbers, strict=True)))


def together(*parts: Dataset) -> Dataset:
    return Dataset(sum((part.heads for part in parts), ()))


def digests(dataset: Dataset) -> set[str]:
    return {head.digest for head in dataset.heads}


@given(
    count=st.integers(2, 60), fraction=st.floats(0, 1, exclude_min=True, exclude_max=True), first=st.integers(0, 999)
)
def test_every_episode_lies_on_one_side_and_none_is_empty(count, fraction, first):
    dataset = numbered(count, first=first)
    train, test = split(dataset, fraction)
    assert sorted(train.heads + test.heads) == sorted(dataset.heads)
    assert train.files and test.files
    assert list(train.files) == sorted(train.files) and list(test.files) == sorted(test.files)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
def test_about_the_fraction_is_held_back(fraction):
    _, test = split(numbered(5000), fraction)
    deviation = np.sqrt(5000 * fraction * (1 - fraction))
    assert abs(len(test.files) - 5000 * fraction) < 3 * deviation


def test_of_few_episodes_the_nearest_goes_to_the_empty_side():
    few = numbered(3)
    draws = {head.digest: int.from_bytes(key[:8], "big") for head, key in zip(few.heads, few.identities, strict=True)}
    ranked = sorted(draws, key=lambda name: draws[name])
    assert digests(split(few, 1e-9)[1]) == {ranked[0]}
    assert digests(split(few, 1 - 1e-9)[0]) == {ranked[2]}


@given(
    count=st.integers(100, 200), more=st.integers(1, 300), seed=st.integers(0, 99),
    roots=st.permutations(["run/rollouts", "run/previous/rollouts", "a", "z/deep/er"]),
)  # fmt: skip
def test_no_neighbour_and_no_folder_moves_an_episode_to_the_other_side(count, more, seed, roots):
    alone = numbered(count, roots[0])
    train, test = split(alone, 0.1)
    everything = together(alone, numbered(more, roots[1], first=100 + count), numbered(5, roots[2], first=9000))
    shuffled = everything.subset(np.random.default_rng(seed).permutation(len(everything.files)))
    for grown in (everything, shuffled, together(numbered(count, roots[3]), numbered(more, roots[1], first=5000))):
        new_train, new_test = split(grown, 0.1)
        assert digests(test) <= digests(new_test) and digests(train) <= digests(new_train)


def test_a_second_iteration_holds_back_what_the_first_did(tmp_path):
    """The first opened its rollouts; the second opens the run, in which they lie below previous/ or beside it."""
    run = tmp_path / "run"
    for number in range(40):
        save_arrays(run / f"rollouts/rollout_{number:06d}.npz", grey=number)
    _, test = split(open_dataset(run / "rollouts"), 0.2)
    held_back = digests(test)
    assert len(held_back) > 1
    for number in range(20):
        save_arrays(run / f"more/rollout_{number:06d}.npz", grey=100 + number)
    assert held_back <= digests(split(open_dataset(run), 0.2)[1])
    shutil.move(run / "rollouts", run / "previous/rollouts")
    shutil.move(run / "more", run / "rollouts")
    assert held_back <= digests(split(open_dataset(run), 0.2)[1])
    shutil.move(run, tmp_path / "elsewhere")
    assert held_back <= digests(split(open_dataset(tmp_path), 0.2)[1])


def test_a_copy_lies_on_the_side_of_its_original(tmp_path):
    for number in range(40):
        save_arrays(tmp_path / f"a/rollout_{number}.npz", grey=number)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    train, test = split(open_dataset(tmp_path), 0.2)
    assert not digests(train) & digests(test)


def test_equal_episodes_of_a_toy_are_told_apart_by_name(tmp_path):
    for number in range(100):
        save_arrays(tmp_path / f"rollout_{number}.npz")
    _, test = split(open_dataset(tmp_path), 0.1)
    assert 4 <= len(test.files) <= 20


def test_one_rollout_cannot_be_split():
    with pytest.raises(UserError, match="only one rollout .*two are needed"):
        split(numbered(1), 0.1)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            split(numbered(5), fraction)


def test_a_name_that_no_encoding_holds(tmp_path):
    for name in (b"\xff.npz", "été 1.npz".encode()):
        save_arrays(tmp_path / os.fsdecode(name))
    assert len(set(open_dataset(tmp_path).identities)) == 2
