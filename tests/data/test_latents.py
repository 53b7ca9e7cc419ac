"""Episodes as V sees them: stored by content, never stale; sequences: every step once, padded behind the mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.helpers.episodes import damage, save_arrays
from worldmodels.data import latents
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import load_rollout
from worldmodels.data.latents import (
    Latents,
    Sequences,
    batches_per_epoch,
    encode_dataset,
    look,
    stored_latents,
    values,
)
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
from worldmodels.vision import VAE


def episode(steps: int, first: int) -> Latents:
    """Frame t of the episode has z = first + t everywhere; action t is first + t."""
    z = torch.arange(first, first + steps + 1, dtype=torch.float32)[:, None].expand(-1, 4)
    t = torch.arange(first, first + steps, dtype=torch.float32)
    return Latents(z, torch.zeros_like(z), t[:, None], t, torch.zeros(steps))


EPISODES = [episode(17, 0), episode(5, 1000), episode(10, 2000)]
ORDER = [[0.0, 1000.0, 2005.0], [2000.0, 10.0, 15.0], [5.0]]  # first action of each sequence, batch by batch
ALL = sorted(float(a) for e in EPISODES for a in e.actions)


def test_every_step_is_seen_once_an_epoch_whatever_the_offset() -> None:
    sequences = Sequences(EPISODES, length=5, batch_size=2)
    for epoch in range(8):
        seen = [float(a) for b in sequences.batches(0, epoch) for a in b.actions[b.mask > 0]]
        assert sorted(seen) == ALL
    assert sorted(float(a) for b in sequences.in_order() for a in b.actions[b.mask > 0]) == ALL


def test_z_is_one_longer_than_the_actions_and_in_step_with_them() -> None:
    for batch in Sequences(EPISODES, length=6, batch_size=3).batches(1, 0):
        assert batch.mean.shape[1] == batch.actions.shape[1] + 1
        inside = batch.mask > 0
        assert torch.equal(batch.mean[:, :-1, 0][inside], batch.actions[..., 0][inside])
        assert torch.equal(batch.mean[:, 1:, 0][inside], batch.actions[..., 0][inside] + 1)
        assert (batch.rewards[~inside] == 0).all()
        first = torch.isin(batch.actions[..., 0], torch.tensor([0.0, 1000.0, 2000.0])) & inside
        assert torch.equal(batch.restart > 0, first)


def test_the_same_seed_and_epoch_give_the_same_batches_and_skip_leaves_out_the_first() -> None:
    sequences = Sequences(EPISODES, length=4, batch_size=2)
    first, again, other = (list(sequences.batches(3, epoch)) for epoch in (5, 5, 6))
    assert all(torch.equal(a.mean, b.mean) for a, b in zip(first, again, strict=True))
    assert any(
        a.mean.shape != b.mean.shape or not torch.equal(a.mean, b.mean) for a, b in zip(first, other, strict=False)
    )
    rest = list(sequences.batches(3, 5, skip=2))
    assert len(rest) == len(first) - 2 and torch.equal(rest[0].mean, first[2].mean)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), length=st.integers(1, 15),
    batch_size=st.integers(1, 6), seed=st.integers(0, 9), epoch=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_windows_cover_every_step_once_and_skip_leaves_the_rest(lengths, length, batch_size, seed, epoch, data) -> None:
    episodes = [episode(steps, 1000 * number) for number, steps in enumerate(lengths)]
    every = sorted(float(action) for e in episodes for action in e.actions)
    sequences = Sequences(episodes, length, batch_size)
    offsets = [data.draw(st.integers(0, min(length, steps) - 1)) for steps in lengths]
    for index, steps in enumerate(lengths):
        own = [(start, end) for number, start, end in sequences.windows(offsets) if number == index]
        assert own[0][0] == 0 and own[-1][1] == steps
        assert all(before[1] == after[0] for before, after in zip(own, own[1:], strict=False))
        assert all(end - start == length for start, end in own[1:-1]) and all(
            end - start <= length for start, end in own
        )
        assert not offsets[index] or own[0][1] == min(offsets[index], steps)
    whole = list(sequences.batches(seed, epoch))
    for found in (whole, list(sequences.in_order())):
        assert sorted(float(action) for batch in found for action in batch.actions[batch.mask > 0]) == every
        for batch in found:
            inside = batch.mask > 0
            assert torch.equal(batch.mean[:, :-1, 0][inside], batch.actions[..., 0][inside])
            assert torch.equal(batch.mean[:, 1:, 0][inside], batch.actions[..., 0][inside] + 1)
            assert len(batch.mask) <= batch_size and batch.mask.shape[1] <= length and batch.mask[:, 0].all()
            assert not batch.actions[~inside].any() and not batch.rewards[~inside].any()
    assert abs(len(whole) - batches_per_epoch(lengths, length, batch_size)) <= len(lengths)
    skip = data.draw(st.integers(0, len(whole) + 1))
    rest = list(sequences.batches(seed, epoch, skip))
    assert len(rest) == len(whole[skip:])
    assert all(
        torch.equal(x, y) for one, two in zip(rest, whole[skip:], strict=True) for x, y in zip(one, two, strict=True)
    )


def test_windows_worked_out_by_hand() -> None:
    sequences = Sequences([episode(7, 0), episode(4, 0)], length=3, batch_size=2)
    assert sequences.windows([2, 0]) == [(0, 0, 2), (0, 2, 5), (0, 5, 7), (1, 0, 3), (1, 3, 4)]
    assert sequences.windows([0, 1]) == [(0, 0, 3), (0, 3, 6), (0, 6, 7), (1, 0, 1), (1, 1, 4)]
    assert [batches_per_epoch(*given) for given in (([7, 4], 3, 2), ([6, 3], 3, 2), ([1, 1], 3, 1))] == [3, 2, 2]
    assert [batch.mask.sum(dim=1).tolist() for batch in sequences.in_order()] == [[3, 3], [1, 3], [1]]


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_a_batch_is_cut_from_every_column_alike(discount: float) -> None:
    torch.manual_seed(0)
    ended = torch.tensor([0.0, 0, 0, 0, 1])
    episodes = [
        Latents(torch.randn(n + 1, 4), torch.randn(n + 1, 4), torch.randn(n, 2), torch.randn(n), ended[-n:])
        for n in (4, 5)
    ]
    sequences, windows = Sequences(episodes, 4, 3, discount, True, 7.0), [(1, 0, 2), (0, 0, 4), (1, 2, 5)]
    batch = sequences.batch(windows)
    assert batch.mean.shape == batch.logvar.shape == (3, 5, 4) and batch.actions.shape == (3, 4, 2)
    for row, (index, start, end) in enumerate(windows):
        e, steps = episodes[index], slice(start, end)
        value = values(e, discount, True, 7.0) if discount else torch.zeros(5)
        expected = (
            e.mean[start : end + 1], e.logvar[start : end + 1], e.actions[steps], e.rewards[steps], e.terminals[steps],
            torch.ones(end - start), torch.tensor([start == 0] + [False] * (end - start - 1)).float(), value[steps],
        )  # fmt: skip
        for column, own in zip(batch, expected, strict=True):
            assert torch.equal(column[row, : len(own)], own) and not column[row, len(own) :].any()


def test_nothing_ends_and_nothing_is_used_up_unless_it_is_said() -> None:
    ended = Latents(*torch.zeros(2, 3, 4), torch.zeros(2, 1), torch.tensor([2.0, 5.0]), torch.tensor([0.0, 1.0]))
    (plain,) = Sequences([ended], 4, 3, 0.9).values
    assert torch.equal(plain, values(ended, 0.9, ends=False, supply=0.0))


def test_an_episode_that_ended_goes_on_at_the_rate_of_before_its_end() -> None:
    """What ended it is paid once; an episode of one step has nothing else to go by."""
    ended = Latents(*torch.zeros(2, 3, 4), torch.zeros(2, 1), torch.tensor([2.0, 5.0]), torch.tensor([0.0, 1.0]))
    assert values(ended, 0.9, ends=False).tolist() == pytest.approx([5 + 0.9 * 20, 20])
    assert values(ended, 0.9, ends=True).tolist() == [5, 0]
    one = ended._replace(rewards=torch.tensor([2.0]), terminals=torch.tensor([1.0]))
    assert values(one, 0.9, ends=False).tolist() == pytest.approx([20])


def test_an_epoch_has_the_order_that_it_had() -> None:
    """So that a training that was begun by an earlier version goes on with the batches that are left."""
    found = [batch.actions[:, 0, 0].tolist() for batch in Sequences(EPISODES, length=5, batch_size=3).batches(3, 5)]
    assert found == ORDER


def test_offsets_change_from_epoch_to_epoch_and_reach_all_places() -> None:
    """A sequence begins at every step of an episode in some epoch."""
    sequences = Sequences([episode(20, 0)], length=4, batch_size=50)
    begun = {
        float(actions[0]) for epoch in range(60) for batch in sequences.batches(0, epoch) for actions in batch.actions
    }
    assert begun == set(range(20))


# ---------------------------------------------------------------------------------------- as V sees them


class Store:
    """Two episodes, a V in its file, and the folder of what it saw."""

    def __init__(self, folder: Path):
        self.root, self.folder, self.vae_path = folder / "data", folder / "latents", folder / "best.safetensors"
        self.new_v(0)
        for number in range(2):
            self.episode(f"thread_{number}/rollout_0", grey=20 + number)

    def new_v(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.vae = VAE(z_size=4).eval()
        checkpoint.save(self.vae_path, checkpoint.pack("vae", self.vae.state_dict()), {"vae": {"z_size": 4}})

    def episode(self, name: str, **changes: object) -> Path:
        save_arrays(self.root / f"{name}.npz", **changes)
        return self.root / f"{name}.npz"

    def encode(self) -> dict[Path, Latents]:
        return encode_dataset(self.vae, self.vae_path, open_dataset(self.root), self.folder)

    def stored(self) -> list[Latents]:
        return list(stored_latents(self.folder, self.vae_path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def assert_equal(one: Latents, other: Latents) -> None:
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_stored_episodes_are_what_v_sees_and_v_runs_once(store, monkeypatch) -> None:
    first = store.encode()
    for path, seen in first.items():
        assert_equal(seen, look(store.vae, load_rollout(path)))
    monkeypatch.setattr(store.vae, "encode", None)  # not needed again
    for path, seen in store.encode().items():
        assert_equal(seen, first[path])
    assert len(store.stored()) == 2


def test_an_episode_collected_again_is_seen_again(store) -> None:
    """Same name, same length, same size: the old one is gone from the store as well."""
    store.encode()
    path = store.episode("thread_0/rollout_0", grey=220)
    assert_equal(store.encode()[path], look(store.vae, load_rollout(path)))
    assert sorted(float(seen.actions[0, 0]) for seen in store.stored()) == pytest.approx([21 / 255, 220 / 255])


def test_two_paths_that_spell_alike_are_two_episodes(store) -> None:
    one, other = store.episode("a/b", grey=100), store.episode("a_b", grey=101)
    seen = store.encode()
    assert float(seen[one].actions[0, 0]) != float(seen[other].actions[0, 0])
    again = store.encode()
    assert_equal(again[one], seen[one])
    assert_equal(again[other], seen[other])


def test_episodes_seen_in_another_arithmetic_are_seen_again(store) -> None:
    """--precision float32 must not train M on what V saw in bfloat16, nor the other way round."""
    exact = store.encode()
    store.vae.use_bfloat16 = True
    for path, seen in store.encode().items():
        assert_equal(seen, look(store.vae, load_rollout(path)))
        assert not torch.equal(seen.mean, exact[path].mean)
    assert len(store.stored()) == 2


def test_only_what_belongs_to_this_v_is_read(store) -> None:
    store.encode()
    store.new_v(1)
    assert store.stored() == []
    seen = store.encode()
    assert len(store.stored()) == len(seen) == 2
    for path in seen:
        assert_equal(seen[path], look(store.vae, load_rollout(path)))


def test_only_what_belongs_to_this_dataset_is_read(store) -> None:
    extra = store.episode("thread_2/rollout_0", grey=99)
    store.encode()
    assert len(store.stored()) == 3
    extra.unlink()
    (store.root / "thread_0").rename(store.root / "renamed")
    store.encode()
    assert len(store.stored()) == 2 == len(list(store.folder.iterdir()))


def test_foreign_files_in_the_store_are_left_out(store) -> None:
    first = store.encode()
    [name, other] = sorted(path.name for path in store.folder.iterdir())
    content = (store.folder / name).read_bytes()
    tensors, tag = checkpoint.load(store.folder / name)

    def foreign() -> None:
        (store.folder / "text.safetensors").write_text("no tensors")
        (store.folder / "empty.safetensors").write_bytes(b"")
        (store.folder / "cut.safetensors").write_bytes(content[:-9])
        save_file({"x": torch.zeros(1)}, store.folder / "none.safetensors")
        for number, text in enumerate(["null", "[]", "{", "7", '{"vae": null}']):
            save_file({"x": torch.zeros(1)}, store.folder / f"meta{number}.safetensors", metadata={"json": text})
        checkpoint.save(store.folder / "renamed.safetensors", tensors, tag)
        checkpoint.save(store.folder / other, {"mean": torch.zeros(1)}, {**tag, "episode": Path(other).stem})

    foreign()
    assert len(store.stored()) == 1
    for path, seen in store.encode().items():
        assert_equal(seen, first[path])
    assert len(store.stored()) == 2 == len(list(store.folder.iterdir()))


def test_damaged_episodes_are_named_and_left_out(store, capsys) -> None:
    whole = store.episode("whole", observations=np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))
    for number in range(2):
        damage(store.root / f"thread_{number}/rollout_0.npz")
    assert list(store.encode()) == [whole] and len(store.stored()) == 1
    said = capsys.readouterr().err
    assert "thread_1/rollout_0.npz: it holds no episode" in said and "Skipped 2 of 3 files" in said
    damage(whole)
    (store.folder / f"{open_dataset(store.root).heads[2].digest}.safetensors").unlink()
    with pytest.raises(UserError, match="Every rollout is damaged"):
        store.encode()


def test_an_episode_replaced_while_v_looks_is_not_stored_under_the_old_name(store, capsys) -> None:
    dataset = open_dataset(store.root)
    path = store.episode("thread_0/rollout_0", grey=220)
    assert path not in encode_dataset(store.vae, store.vae_path, dataset, store.folder)
    assert "replaced meanwhile" in capsys.readouterr().err and len(store.stored()) == 1


def test_an_interrupted_encoding_continues(store, monkeypatch) -> None:
    looked = []

    def read(path: Path, episode: str | None = None) -> Rollout:
        if len(looked) == 1:
            raise KeyboardInterrupt
        looked.append(path)
        return load_rollout(path, episode)

    monkeypatch.setattr(latents, "load_rollout", read)
    with pytest.raises(KeyboardInterrupt):
        store.encode()
    monkeypatch.setattr(latents, "load_rollout", lambda path, *rest: looked.append(path) or load_rollout(path))
    assert len(store.encode()) == 2 and len(looked) == len(set(looked)) == 2
