"""The bank of starts and the figures of M as a world, against M's own pass and worlds whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.episodes import save_rollout
from worldmodels import envs, memory
from worldmodels.commands import train_mdrnn, train_vae
from worldmodels.data.latents import Latents
from worldmodels.dream import Starts, bank, sampled
from worldmodels.envs import TAKECOVER, World
from worldmodels.memory import MDRNN
from worldmodels.rollout import Rollout
from worldmodels.runs import settings as config
from worldmodels.runs.settings import CARRACING
from worldmodels.training import quality


def episodes(*lengths: int, spread: float = -4.0) -> list[Latents]:
    draw = torch.Generator().manual_seed(0)
    return [
        Latents(torch.randn(t + 1, 4, generator=draw), torch.full((t + 1, 4), spread),
                torch.rand(t, 3, generator=draw), torch.randn(t, generator=draw), torch.zeros(t))
        for t in lengths
    ]  # fmt: skip


def test_starts_are_states_that_m_meets_in_the_episodes() -> None:
    torch.manual_seed(0)
    memory_, data = MDRNN(z_size=4, hidden_size=8, include_restart=True).requires_grad_(False), episodes(9, 30, 17)
    starts = bank(memory_, data, 200, seed=0)
    met = {}
    for index, episode in enumerate(data):
        z = sampled(episode, index)
        begins = (torch.arange(len(episode.actions)) == 0).float()[None]
        _, h = memory_(z[None, :-1], episode.actions[None], restart=begins)
        for t in range(len(episode.actions)):
            met[z[t].numpy().tobytes()] = (t, h[0, t - 1] if t else torch.zeros(8))
    assert len(starts.z) == 200 and starts.restart[::8].all() and 25 <= starts.restart.sum() < 60
    seen = set()
    for z, h, restart in zip(starts.z, starts.h, starts.restart, strict=True):
        t, expected = met[z.numpy().tobytes()]
        seen.add(t)
        assert bool(restart) == (t == 0)
        torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-5)
    assert max(seen) > 25


class Known(MDRNN):
    """A world that never moves and whose reward is 3 × the gas + 1: M knows it perfectly."""

    def __init__(self, wrong: float = 0.0):
        super().__init__(z_size=4, hidden_size=8, include_reward=True, action_kind="car")
        self.wrong, self.gas = wrong, torch.zeros(0)

    def step(self, z, action, state, restart=None):
        self.gas = action[:, 1]
        return state

    def predict(self, h, mask=None):
        zeros = torch.zeros(len(h), 4, 5)
        reward = 3 * self.gas + 1 + self.wrong
        return memory.Prediction(zeros, zeros, zeros - 6, reward, None)


def test_open_loop_is_one_for_an_m_that_knows_and_zero_for_one_that_knows_the_mean() -> None:
    data = [e._replace(rewards=3 * e.actions[:, 1] + 1) for e in episodes(250, 220, 60)]
    known = quality.open_loop(Known(), data)
    np.testing.assert_allclose(known["r2"], 1, atol=1e-5)
    np.testing.assert_allclose(known["ratio"], 1, rtol=1e-5)
    assert known["rank"] == pytest.approx(1) and known["windows"] == 4  # 100 steps each; 60 is too short
    off = quality.open_loop(Known(wrong=0.25), data)
    assert all(r2 < 0.9 for r2 in off["r2"]) and off["rank"] == pytest.approx(1)
    np.testing.assert_allclose(off["ratio"], 2.75 / 2.5, rtol=0.1)
    short = quality.open_loop(Known(), 4 * data[2:])
    assert len(short["r2"]) == 2 and short["windows"] == 4
    for few in (8 * episodes(30), 3 * episodes(60)):
        none = quality.open_loop(Known(), few)
        assert none["windows"] == 0 and "too few" in next(quality.sentences({"open_loop": none}))


def test_rank_correlation_is_spearman_s() -> None:
    assert quality.rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 100, 1000])) == pytest.approx(1)
    assert quality.rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4: Pearson's correlation of these, by hand
    assert quality.rank_correlation(np.array([1.0, 2, 2, 9]), np.array([5.0, 1, 6, 7])) == pytest.approx(
        0.6325, abs=1e-4
    )
    assert quality.rank_correlation(np.ones(3), np.arange(3.0)) == 0


def test_fixed_policies_are_few_and_different() -> None:
    car = quality.fixed_policies(envs.actions_in(World(CARRACING)), 250)
    assert len(car) == 9 and all(
        x.shape == (250, 3) and x.dtype == np.float32 for x in car.values()
    )  # brake −1 is rest
    swept = car["output 0 to and fro each 60 steps"][:, 0]
    assert (swept[:60] > 0).all() and (swept[60:120] < 0).all() and (swept[120:180] > 0).all()


def test_ranking_drives_the_real_environment_and_the_dream() -> None:
    starts = Starts(torch.zeros(3, 4), torch.zeros(3, 8), torch.zeros(3, 8), torch.ones(3))
    streams = np.stack(list(quality.fixed_policies(envs.actions_in(World(CARRACING)), 40).values()))
    real = quality.real_returns(CARRACING, envs.actions_in(World(CARRACING)), streams, None, episodes=2)
    names = list(quality.fixed_policies(envs.actions_in(World(CARRACING)), 40))
    assert real[names.index("output 1 at +1")] > real[names.index("output 1 at -1")] > -10
    torch.manual_seed(0)
    mdrnn = MDRNN(z_size=4, hidden_size=8, include_reward=True).requires_grad_(False)
    mdrnn.head.weight.zero_()
    mdrnn.head.bias[-1] = 0.5
    np.testing.assert_allclose(quality.dreamed_returns(mdrnn, starts, streams, dreams=3), 20, rtol=1e-5)


def test_take_cover_s_policies_are_ranked_by_their_known_scores_from_first_states(monkeypatch) -> None:
    """In a dream whose end comes with the first z that is no start's, and in one that nothing ends."""
    monkeypatch.setattr(quality, "DREAMS", 2)
    starts = Starts(torch.tensor([[9.0] * 4, [0.0] * 4]), torch.zeros(2, 8), torch.zeros(2, 8), torch.tensor([0.0, 1]))
    mdrnn = MDRNN(
        4, 1, 8, include_terminal=True, include_restart=True, step_reward=1.0, action_kind="threshold"
    ).requires_grad_(False)
    mdrnn.head.weight.zero_()
    mdrnn.head.bias.zero_()
    mdrnn.head.bias[-1] = -1.0
    known = envs.describe(TAKECOVER).baselines
    endless = quality.ranking(mdrnn, starts, TAKECOVER, None)
    assert {name: real for name, (real, _) in endless["policies"].items()} == known
    assert {dreamed for _, dreamed in endless["policies"].values()} == {2100.0} and endless["rank"] == 0
    said = list(quality.sentences({"ranking": endless}))
    assert (
        "sweep-110 751 / 2100" in said[0]
        and "rank correlation 0.00, slope 0.00" in said[0]
        and said[1].startswith("Warning")
    )

    for weight in mdrnn.lstm.parameters():
        weight.zero_()
    mdrnn.lstm.weight_ih_l0[16:24, 4] = 10.0  # the cell reads the action alone: left, h is below 0 and one dies
    mdrnn.head.weight[-1] = -10.0
    left_dies = quality.ranking(mdrnn, starts, TAKECOVER, None)["policies"]
    assert left_dies["left"][1] == 1 and left_dies["stay"][1] == 2100
    assert quality.trusted({"rank": 0.9, "slope": 0.5})
    assert not quality.trusted({"rank": 0.6, "slope": 0.5}) and not quality.trusted({"rank": 0.9, "slope": 0.1})


@pytest.mark.parametrize("collected", [True, False])
def test_training_writes_starts_quality_and_what_actions_mean(tmp_path: Path, collected: bool, monkeypatch) -> None:
    monkeypatch.setattr(quality, "HORIZON", 10)
    draw, folder = np.random.default_rng(0), tmp_path / "rollouts"
    for i in range(8):
        frames = draw.integers(0, 255, (61, 64, 64, 3), dtype=np.uint8)
        actions = draw.uniform(0, 1, (60, 3)).astype(np.float32)
        rollout = Rollout(frames, actions, draw.normal(size=60).astype(np.float32), np.zeros(60, bool))
        save_rollout(folder / f"rollout_{i}.npz", rollout)
    if collected:
        (folder / "collect.json").write_text(json.dumps({"env": CARRACING, "start": "anywhere"}))
    cfg = config.TrainMDRNN(
        logdir=str(tmp_path), rootdir=str(folder), epochs=1, test_fraction=0.5, hidden_size=16, include_reward=True,
        include_restart=True, dropout=0.2, starts=30, nosamples=True,
    )  # fmt: skip
    train_vae.main(config.TrainVAE(logdir=str(tmp_path), rootdir=str(folder), epochs=0, z_size=4))
    train_mdrnn.main(cfg)
    mdrnn = memory.load(tmp_path)
    assert (mdrnn.include_restart, mdrnn.dropout, mdrnn.action_kind) == (True, 0.2, "car" if collected else None)
    assert len(Starts.load(tmp_path / "mdrnn/starts.safetensors", mdrnn).z) == 30
    measured = json.loads((tmp_path / "mdrnn/quality.json").read_text())
    assert len(measured["open_loop"]["r2"]) == 2 and ("ranking" in measured) == collected
    warned = collected and not quality.trusted(measured["ranking"])
    assert len(list(quality.sentences(measured))) == 1 + collected + warned
    train_mdrnn.main(replace(cfg, epochs=2))  # goes on: the labels are no other architecture
    (folder / "collect.json").write_text(json.dumps({"env": CARRACING, "start": "line"}))
    train_mdrnn.main(replace(cfg, epochs=3))
    assert memory.load(tmp_path).action_kind == "car"
