"""Strategies: they climb, they replay to the last bit, and CMA-ES is the `cma` package's."""

import cma
import numpy as np
import pytest

from worldmodels.evolution import strategies as evolution

NAMES = ["cma", "sep-cma", "openai-es", "pgpe"]


def score(points: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    """A noisy hill whose top is 0.3 away in every coordinate."""
    return -((points - 0.3) ** 2).sum(axis=1) + noise.normal(0, 0.1, len(points))


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_climbs(name: str) -> None:
    strategy, noise = evolution.make(name, 30, 16, 0.1, seed=1), np.random.default_rng(0)
    for _ in range(150):
        strategy.tell(score(strategy.ask(), noise))
    assert ((strategy.mean - 0.3) ** 2).sum() < 0.25 * 30 * 0.09


@pytest.mark.parametrize("name", NAMES)
def test_replaying_the_scores_rebuilds_the_strategy(name: str) -> None:
    strategy, noise, history = evolution.make(name, 12, 8, 0.1, seed=3), np.random.default_rng(0), []
    for _ in range(20):
        history.append(score(strategy.ask(), noise))
        strategy.tell(history[-1])
    np.random.seed(99)  # the global generator has no say
    again = evolution.make(name, 12, 8, 0.1, seed=3)
    means = list(evolution.replay(again, history))
    np.testing.assert_array_equal(means[-1], again.mean)
    np.testing.assert_array_equal(again.mean, strategy.mean)
    np.testing.assert_array_equal(again.ask(), strategy.ask())
    assert again.sigma == strategy.sigma


@pytest.mark.parametrize("name", NAMES)
def test_different_seeds_draw_different_candidates(name: str) -> None:
    first, second = (evolution.make(name, 5, 4, 0.1, seed=s).ask() for s in (1, 2))
    assert first.shape == second.shape == (4, 5)
    assert not np.allclose(first, second)


def test_cma_is_the_package_s_own() -> None:
    """Same random numbers, same scores: the mean follows cma.CMAEvolutionStrategy minimising the negative."""
    ours, generator = evolution.make("cma", 6, 8, 0.1, seed=5), np.random.default_rng(5)
    options = {"popsize": 8, "randn": lambda *shape: generator.standard_normal(shape), "seed": np.nan, "verbose": -9}
    theirs = cma.CMAEvolutionStrategy(np.zeros(6), 0.1, options)
    for _ in range(10):
        candidates = theirs.ask()
        np.testing.assert_array_equal(ours.ask(), np.array(candidates))
        scores = -(np.array(candidates) ** 2).sum(axis=1)
        theirs.tell(candidates, list(-scores))
        ours.tell(scores)
    np.testing.assert_array_equal(ours.mean, theirs.mean)


def test_ranks_ignore_the_scale_of_the_scores() -> None:
    np.testing.assert_allclose(evolution.centered_ranks(np.array([5.0, -1e9, 7.0])), [0.0, -0.5, 0.5])


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_decay_shrinks_the_steps(name: str) -> None:
    steady, shrinking = (evolution.make(name, 12, 8, 0.1, 3, decay) for decay in (1.0, 0.9))
    for strategy in (steady, shrinking):
        for _ in range(20):
            strategy.tell(-(strategy.ask() ** 2).sum(axis=1))
    assert shrinking.sigma == pytest.approx(steady.sigma * 0.9**20, rel=0.3)
