"""Sequences: every step once in an epoch, the same batches for the same seed, padding behind the mask."""

import torch

from worldmodels.data.latents import Latents, Sequences


def episode(steps: int, first: int) -> Latents:
    """Frame t of the episode has z = first + t everywhere; action t is first + t."""
    z = torch.arange(first, first + steps + 1, dtype=torch.float32)[:, None].expand(-1, 4)
    t = torch.arange(first, first + steps, dtype=torch.float32)
    return Latents(z, torch.zeros_like(z), t[:, None], t, torch.zeros(steps))


EPISODES = [episode(17, 0), episode(5, 1000), episode(10, 2000)]
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


def test_the_same_seed_and_epoch_give_the_same_batches_and_skip_leaves_out_the_first() -> None:
    sequences = Sequences(EPISODES, length=4, batch_size=2)
    first, again, other = (list(sequences.batches(3, epoch)) for epoch in (5, 5, 6))
    assert all(torch.equal(a.mean, b.mean) for a, b in zip(first, again, strict=True))
    assert any(
        a.mean.shape != b.mean.shape or not torch.equal(a.mean, b.mean) for a, b in zip(first, other, strict=False)
    )
    rest = list(sequences.batches(3, 5, skip=2))
    assert len(rest) == len(first) - 2 and torch.equal(rest[0].mean, first[2].mean)
