"""One episode in a file: both layouts, what it is known by, and files that hold none."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.episodes import an_episode, assert_same, save_arrays, save_rollout
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import BadFile, Head, encode, inspect, load_rollout
from worldmodels.envs import as_frames
from worldmodels.rollout import Rollout

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_rollout_comes_back_and_numpy_reads_it(tmp_path):
    episode, path = an_episode(7), tmp_path / "a.npz"
    save_rollout(path, episode, seed=42)
    assert_same(load_rollout(path), episode)
    assert inspect(path).seed == 42
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
    assert path.read_bytes() == before == encode(episode, 42)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]  # nothing temporary is left


@SHARED_FOLDER
@given(
    steps=st.integers(1, 6), height=st.integers(1, 80), width=st.integers(1, 80), number=st.integers(0, 9),
    action_shape=st.lists(st.integers(1, 3), max_size=2), ours=st.booleans(), compressed=st.booleans(),
    types=st.tuples(*[st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?"])] * 3),
)  # fmt: skip
def test_both_layouts_of_any_size_and_type(
    tmp_path, steps, height, width, action_shape, types, ours, compressed, number
):
    """Ours has a frame more than actions; ctallec's port the frame AFTER each action: its first has none before it."""
    rng, stored = np.random.default_rng(number), steps if ours else steps + 1
    frames = rng.integers(0, 256, (steps + 1, height, width, 3), dtype=np.uint8)
    actions, rewards, terminals = (
        rng.integers(0, 2, shape).astype(dtype)
        for shape, dtype in zip([(stored, *action_shape), (stored,), (stored,)], types, strict=True)
    )
    path = tmp_path / "episode.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, observations=frames, actions=actions, rewards=rewards, terminals=terminals)
    used = slice(stored - steps, None)
    expected = Rollout(
        as_frames(frames), actions[used].reshape(steps, -1).astype(np.float32), rewards[used].astype(np.float32),
        terminals[used].astype(bool),
    )  # fmt: skip
    assert_same(load_rollout(path), expected)
    head, score = inspect(path), float(expected.rewards.sum(dtype=np.float64))
    assert head[:-1] == (path, steps, expected.actions.shape[1], score, None) and head.frames == len(expected.frames)
    (np.savez if compressed else np.savez_compressed)(
        path, terminals=terminals, rewards=rewards, actions=actions, observations=frames, more=np.zeros(3)
    )
    assert inspect(path) == head  # the same episode


def test_the_content_decides_what_an_episode_is(tmp_path):
    """Uncompressed files of equally many steps have one size."""
    paths = [tmp_path / name for name in "abc"]
    for path, grey in zip(paths, (20, 220, 20), strict=True):
        save_arrays(path.with_suffix(".npz"), grey=grey)
    one, other, same = (inspect(path.with_suffix(".npz")) for path in paths)
    assert len({path.with_suffix(".npz").stat().st_size for path in paths}) == 1
    assert one == same._replace(path=one.path) and one.digest != other.digest
    for name in ("observations", "actions", "rewards", "terminals"):
        changed = np.ones((6, *{"observations": (64, 64, 3), "actions": (3,)}.get(name, ())))
        save_arrays(tmp_path / "b.npz", grey=20, **{name: changed.astype(np.uint8)})
        assert inspect(tmp_path / "b.npz").digest != one.digest, name
    with pytest.raises(BadFile, match="replaced meanwhile"):
        load_rollout(tmp_path / "b.npz", one.digest)
    assert len(load_rollout(tmp_path / "a.npz", one.digest).rewards) == 5


# ---------------------------------------------------------------------------------------------- no episode


class Bomb:
    """Does harm when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a data file was unpickled",))


def lying(path: Path, header: str) -> None:
    """Rewards whose header says something else than what follows."""
    save_arrays(path, rewards=None)
    text = header.encode() + b"\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(48))


def encrypted(path: Path) -> None:
    """The flag of encryption set in every entry of the archive's directory."""
    save_arrays(path)
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 8] |= 1
        place = content.find(b"PK\x01\x02", place + 4)
    path.write_bytes(content)


STEP2 = np.arange(6) == 2
BAD = {  # what is wrong with a file, and what is said of it
    "empty": (lambda path: path.write_bytes(b""), "zip"),
    "text": (lambda path: path.write_text("no archive"), "zip"),
    "folder": (lambda path: path.mkdir(), "directory"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "zip"),
    "array": (lambda path: np.save(path.open("wb"), np.zeros(3)), "zip"),
    "foreign": (lambda path: np.savez(path, weights=np.zeros(3)), "observations.npy"),
    "no-rewards": (lambda path: save_arrays(path, rewards=None), "rewards.npy"),
    "objects": (lambda path: save_arrays(path, terminals=np.array([Bomb()] * 6, dtype=object)), "object"),
    "object-seed": (lambda path: save_arrays(path, seed=np.array(Bomb(), dtype=object)), "allow_pickle"),
    "strings": (lambda path: save_arrays(path, actions=np.array([["left"] * 3] * 6)), "<U4 instead of numbers"),
    "bytes": (lambda path: save_arrays(path, rewards=np.array([b"1"] * 6)), "instead of numbers"),
    "complex": (lambda path: save_arrays(path, rewards=np.zeros(6, complex)), "complex128 instead of numbers"),
    "dates": (lambda path: save_arrays(path, rewards=np.zeros(6, "M8[s]")), "instead of numbers"),
    "records": (lambda path: save_arrays(path, actions=np.zeros((6, 3), [("a", "f4")])), "instead of numbers"),
    "floats": (lambda path: save_arrays(path, observations=np.zeros((6, 64, 64, 3))), "instead of uint8"),
    "grey": (lambda path: save_arrays(path, observations=np.zeros((6, 64, 64, 1), np.uint8)), "instead of uint8"),
    "flat": (lambda path: save_arrays(path, observations=np.zeros((6, 64), np.uint8)), "instead of uint8"),
    "no-height": (lambda path: save_arrays(path, observations=np.zeros((6, 0, 9, 3), np.uint8)), "instead of uint8"),
    "scalar": (lambda path: save_arrays(path, rewards=np.array(1.0)), "lengths differ"),
    "column": (lambda path: save_arrays(path, rewards=np.zeros((6, 1))), "lengths differ"),
    "lengths": (lambda path: save_arrays(path, terminals=np.zeros(3, bool)), "lengths differ"),
    "frames": (lambda path: save_arrays(path, observations=np.zeros((9, 64, 64, 3), np.uint8)), "9 frames for 6"),
    "no-step": (lambda path: save_arrays(path, steps=1), "no step"),
    "no-steps": (lambda path: save_arrays(path, steps=0), "no step"),
    "no-action": (lambda path: save_arrays(path, actions=np.zeros((6, 0))), "without a number"),
    "nan-reward": (lambda path: save_arrays(path, rewards=np.where(STEP2, np.nan, 0)), "rewards of step 2 are nan"),
    "infinite-reward": (lambda path: save_arrays(path, rewards=np.where(STEP2, -np.inf, 0)), "step 2 are -inf"),
    "too-large-reward": (lambda path: save_arrays(path, rewards=np.where(STEP2, 1e300, 0)), "step 2 are inf"),
    "nan-action": (lambda path: save_arrays(path, actions=np.where(STEP2[:, None], np.nan, 0)), "actions of step 2"),
    "nan-terminal": (lambda path: save_arrays(path, terminals=np.where(STEP2, np.nan, 0)), "terminals of step 2"),
    "two-seeds": (lambda path: save_arrays(path, seed=np.zeros(2, int)), "instead of one integer"),
    "text-seed": (lambda path: save_arrays(path, seed=np.array("1")), "instead of one integer"),
    "huge": (lambda path: lying(path, "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,)}"), "48 bytes"),
    "negative": (lambda path: lying(path, "{'descr': '<f8', 'fortran_order': False, 'shape': (-6,)}"), "48 bytes"),
    "no-header": (lambda path: lying(path, "{'descr': "), "header"),
    "deep-header": (lambda path: lying(path, "(" * 5000), "header"),
    "odd-header": (lambda path: lying(path, "{'descr': 7, 'fortran_order': 0, 'shape': 'six'}"), "shape"),
    "encrypted": (encrypted, "encrypted"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_holds_no_episode_is_named_and_left_out(tmp_path, capsys, kind):
    make, reason = BAD[kind]
    path = tmp_path / f"{kind}.npz"
    make(path)
    save_rollout(tmp_path / "whole.npz", an_episode(20))
    dataset = open_dataset(tmp_path)
    assert [file.name for file in dataset.files] == ["whole.npz"]
    said = capsys.readouterr().err
    assert f"Skipped {path}: " in said and reason in said and "Skipped 1 of 2 files" in said
    if "seed" not in kind:
        with pytest.raises(BadFile, match=path.name):
            load_rollout(path)


def test_the_first_step_of_ctallecs_port_may_be_anything(tmp_path):
    save_arrays(tmp_path / "a.npz", rewards=np.where(np.arange(6) == 0, np.nan, 0))
    assert inspect(tmp_path / "a.npz").length == 5
    save_arrays(tmp_path / "a.npz", rewards=np.where(np.arange(6) == 1, np.nan, 0))
    with pytest.raises(BadFile, match="rewards of step 1 are nan"):
        inspect(tmp_path / "a.npz")


@SHARED_FOLDER
@given(data=st.data(), compressed=st.booleans())
def test_damaged_bytes_never_pass_and_never_raise_anything_else(tmp_path, data, compressed):
    """Bytes changed or cut off anywhere: the file is a BadFile, or still exactly the episode it was."""
    path, buffer = tmp_path / "a.npz", io.BytesIO()
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.integers(0, 256, (3, 2, 2, 3), dtype=np.uint8), "actions": rng.normal(size=(2, 3)),
        "rewards": rng.normal(size=2), "terminals": np.array([False, True]), "seed": np.array(3),
    }  # fmt: skip
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    content = bytearray(buffer.getvalue())
    path.write_bytes(content)
    whole = load_rollout(path)
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="end")]
    else:
        for _ in range(data.draw(st.integers(1, 3), label="changes")):
            content[data.draw(st.integers(0, len(content) - 1), label="place")] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        head = inspect(path)
        rollout = load_rollout(path)
    except BadFile:
        return
    assert_same(rollout, whole)
    assert head.length == 2


def test_nothing_is_unpickled_where_no_header_is_looked_at(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, observations=np.array([Bomb()] * 6, dtype=object), seed=np.array(Bomb(), dtype=object))
    for read in (load_rollout, inspect):
        with pytest.raises(BadFile):
            read(path)


def test_bad_file_survives_the_way_from_a_worker(tmp_path):
    error = pickle.loads(pickle.dumps(BadFile(tmp_path, "empty")))
    assert isinstance(error, BadFile) and error.path == tmp_path and "empty" in str(error)
    head = Head(tmp_path, 1, 2, 3.0, None, "a")
    assert pickle.loads(pickle.dumps(head)) == head
