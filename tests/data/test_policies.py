"""Random drivers: their actions belong to the space, depend on (seed, rollout) alone, and are the noise they say."""

import itertools

import gymnasium
import numpy as np
import pytest

from worldmodels import envs
from worldmodels.data import policies
from worldmodels.data.policies import random_policy
from worldmodels.envs import Actions, World, actions_of
from worldmodels.rollout import Episode, drive

CAR = "worldmodels/CarRacing-v3"


def a_kind(name: str) -> Actions:
    spaces = {
        "car": gymnasium.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32)),
        "box": gymnasium.spaces.Box(-3.0, 5.0, (2, 2)),
        "discrete": gymnasium.spaces.Discrete(4, start=1),
    }
    return actions_of(name, spaces[name], name)


def actions(policy: str, kind: Actions, episodes: int = 40, steps: int = 500) -> np.ndarray:
    """(episodes, steps, A)"""
    driver = random_policy(policy, kind, seed=1)
    lanes = np.arange(episodes)
    driver.begin(lanes, [Episode(0, number) for number in lanes])
    return np.stack([driver.act(lanes, np.empty(0)) for _ in range(steps)], axis=1)


@pytest.mark.parametrize("policy", policies.STREAMS)
@pytest.mark.parametrize("name", ["car", "box", "discrete"])
def test_actions_belong_to_the_space(policy, name):
    kind = a_kind(name)
    driven = actions(policy, kind, 10, 200)
    assert driven.dtype == np.float32 and driven.shape == (10, 200, kind.size)
    if name == "discrete":
        assert np.array_equal(driven.sum(axis=2), np.ones((10, 200))) and set(np.unique(driven)) == {0, 1}
        assert set(kind.to_env(driven.reshape(-1, 4))) == {1, 2, 3, 4}
    else:
        low, high = kind.space.low.reshape(-1), kind.space.high.reshape(-1)
        assert (driven >= low).all() and (driven <= high).all()
        if name == "box":
            assert (driven.min(axis=(0, 1)) < low + 1).all() and (driven.max(axis=(0, 1)) > high - 1).all()


def test_noise_depends_on_seed_and_rollout_alone():
    kind = a_kind("car")
    together = actions("gas", kind, 5, 100)
    alone = random_policy("gas", kind, seed=1)
    alone.begin(np.array([2]), [Episode(99, 3)])  # another lane, another track
    assert np.array_equal([alone.act(np.array([2]), np.empty(0))[0] for _ in range(100)], together[3])
    assert len({row.tobytes() for row in together}) == 5
    other = random_policy("gas", kind, seed=2)
    other.begin(np.array([2]), [Episode(99, 3)])
    assert not np.array_equal(other.act(np.array([2]), np.empty(0))[0], together[3, 0])


def test_brown_is_the_seeds_walk():
    """Steps of √(1/50) · N(0, 1) wherever no bound is near; gas and brake average 0.5 (reference: ctallec's port)."""
    driven = actions("brown", a_kind("car"))
    steering = driven[:, :, 0]
    inside = np.abs(steering[:, :-1]) < 0.3  # two steps from the bounds
    assert np.diff(steering)[inside].std() == pytest.approx(np.sqrt(1 / 50), rel=0.03)
    assert driven[:, :, 1:].mean(axis=(0, 1)) == pytest.approx([0.5, 0.5], abs=0.07)
    box = actions("brown", a_kind("box"))[:, :, 0]  # half its range is 4
    assert np.diff(box)[np.abs(box[:, :-1] - 1) < 1.2].std() == pytest.approx(4 * np.sqrt(1 / 50), rel=0.05)


def test_white_is_uniform():
    driven = actions("white", a_kind("car"))
    assert driven.mean(axis=(0, 1)) == pytest.approx([0, 0.5, 0.5], abs=0.02)
    assert driven.std(axis=(0, 1)) == pytest.approx(np.array([2, 1, 1]) / np.sqrt(12), rel=0.02)
    assert abs(np.corrcoef(driven[:, 1:, 0].ravel(), driven[:, :-1, 0].ravel())[0, 1]) < 0.03


def test_gas_is_smooth_and_hardly_brakes():
    driven = actions("gas", a_kind("car"))
    assert driven[:, :, 1].mean() == pytest.approx(0.5, abs=0.03)
    assert driven[:, :, 2].mean() < 0.02 and driven[:, :, 2].max() > 0
    steering = driven[:, :, 0]
    assert steering.std(axis=1).max() > 0.2 and steering.std(axis=1).min() < 0.05  # its size is drawn per rollout
    correlations = [np.corrcoef(lane[1:], lane[:-1])[0, 1] for lane in steering]
    assert min(correlations) < 0.7 and max(correlations) > 0.9  # and its smoothness


def test_gas_drives_further_than_brown():
    """Mean score of 150 steps on 12 tracks."""
    env = envs.make(World(CAR), 12, threads=1, max_steps=150)
    kind = envs.actions_for(World(CAR), env.single_action_space)
    episodes = [Episode(seed, seed) for seed in range(12)]
    scores = {name: drive(env, kind, random_policy(name, kind, 0), episodes)[0].mean() for name in ("brown", "gas")}
    assert scores["gas"] > scores["brown"] + 10, scores


def test_discrete_actions_are_held_as_the_papers_code_holds_them():
    """Whoever draws a number up to 10 and redraws at its multiples redraws after 3.6 steps on average."""
    driven = actions("brown", a_kind("discrete"), 1, 20_000)[0].argmax(axis=1)
    changes = np.flatnonzero(np.diff(driven)) + 1
    runs = np.diff(changes)
    assert np.bincount(driven, minlength=4) == pytest.approx(np.full(4, 5000), rel=0.1)
    # a run of equal actions joins a geometric number of holds: 3.6 · 4/3
    assert runs.mean() == pytest.approx(3.6 * 4 / 3, rel=0.06) and runs.min() == 1


def runs_of(row: np.ndarray) -> list[int]:
    """How long the same number stays, from the first step to the last."""
    return [len(list(run)) for _, run in itertools.groupby(row)]


def test_stays_holds_an_action_for_long():
    driven = actions("stays", a_kind("box"), 40, 2_000)[:, :, 0]
    runs = [length for row in driven for length in runs_of(row)[:-1]]  # the last one is cut
    assert min(runs) >= 30 and 380 < max(runs) < 400
    assert np.mean(runs) == pytest.approx(214.5, rel=0.08)


def test_mixed_is_one_of_three_policies_all_through_an_episode():
    longest = [max(runs_of(row)[:-1]) for row in actions("mixed", a_kind("box"), 300, 1_500)[:, :, 0]]
    shares = np.histogram(longest, [0, 11, 150, 400])[0] / len(longest)
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.08)
