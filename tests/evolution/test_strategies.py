"""Strategies: they climb, resume to the last bit, treat ties as ties, and step as the published implementations do."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as safetensors

from worldmodels.errors import UserError
from worldmodels.evolution import standing
from worldmodels.evolution import strategies as evolution
from worldmodels.evolution.strategies import cma
from worldmodels.runs.directory import RunDir

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


@pytest.mark.parametrize("name", ["cma", "sep-cma"])
def test_cma_is_the_package_s_own(name: str, capsys) -> None:
    """Same random numbers, same scores: the mean follows cma.CMAEvolutionStrategy minimising the negative, silently."""
    ours, generator = evolution.make(name, 6, 8, 0.1, seed=5), np.random.default_rng(5)
    options = {"popsize": 8, "randn": lambda *shape: generator.standard_normal(shape), "seed": np.nan, "verbose": -9,
               "CMA_diagonal": name == "sep-cma"}  # fmt: skip
    theirs = cma.CMAEvolutionStrategy(np.zeros(6), 0.1, options)
    assert capsys.readouterr().out == ""
    for _ in range(10):
        candidates = theirs.ask()
        np.testing.assert_array_equal(ours.ask(), np.array(candidates))
        scores = -(np.array(candidates) ** 2 * np.arange(1, 7)).sum(axis=1)
        theirs.tell(candidates, list(-scores))
        ours.tell(scores)
    np.testing.assert_array_equal(ours.mean, theirs.mean)


def test_importing_says_nothing() -> None:
    """The package misses matplotlib, and says so at every start."""
    hidden = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.pyplot'] = None; import worldmodels.evolution"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


# --------------------------------------------------------------------------------------------------- ranks


@given(st.lists(st.integers(-5, 5) | st.floats(-1e9, 1e9), min_size=2, max_size=30))
def test_a_rank_counts_who_is_beaten_and_half_of_who_is_equal(scores: list[float]) -> None:
    ranks = evolution.centered_ranks(np.array(scores))
    beaten = [sum(other < score for other in scores) for score in scores]
    equal = [sum(other == score for other in scores) - 1 for score in scores]
    np.testing.assert_allclose(ranks, (np.array(beaten) + np.array(equal) / 2) / (len(scores) - 1) - 0.5, atol=1e-12)
    assert abs(ranks.sum()) < 1e-9


def test_ranks_ignore_the_scale_of_the_scores() -> None:
    np.testing.assert_array_equal(evolution.centered_ranks(np.array([5.0, -1e9, 7.0])), [0.0, -0.5, 0.5])
    np.testing.assert_array_equal(evolution.centered_ranks(np.array([0.0, -0.0, 3.0])), [-0.25, -0.25, 0.5])


def flat(points: np.ndarray) -> np.ndarray:
    return np.full(len(points), 7.0)


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_a_generation_of_equal_scores_leaves_the_mean_where_it_is(name: str) -> None:
    """At the start, and in full motion."""
    strategy = evolution.make(name, 20, 16, 0.1, seed=1)
    for _ in range(20):
        strategy.tell(flat(strategy.ask()))
    assert not strategy.mean.any() and strategy.sigma == pytest.approx(0.1, rel=1e-12)
    for _ in range(20):
        strategy.tell(-((strategy.ask() - 0.3) ** 2).sum(axis=1))
    before, sigma = strategy.mean.copy(), strategy.sigma
    strategy.tell(flat(strategy.ask()))
    np.testing.assert_array_equal(strategy.mean, before)
    assert strategy.sigma == sigma


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_a_pair_that_ties_counts_for_neither_side(name: str) -> None:
    """Only pair 1 of three differs: the mean moves along its noise and no other."""
    strategy = evolution.make(name, 4, 6, 0.1, seed=1)
    candidates = strategy.ask()
    strategy.tell(np.array([3.0, 5.0, 9.0, 3.0, 4.0, 9.0]))
    noise = candidates[1] - candidates[4]
    direction = np.sign(noise) if name == "openai-es" else noise / np.linalg.norm(noise)  # Adam's first step is a sign
    np.testing.assert_allclose(
        strategy.mean / np.linalg.norm(strategy.mean), direction / np.linalg.norm(direction), rtol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused_and_changes_nothing(name: str, wrong: float) -> None:
    strategy, again = (evolution.make(name, 6, 8, 0.1, seed=2) for _ in range(2))
    for s in (strategy, again):
        s.tell(-(s.ask() ** 2).sum(axis=1))
        points = s.ask()
    scores = -(points**2).sum(axis=1)
    with pytest.raises(UserError, match=f"Candidate 5 scored {wrong}"):
        strategy.tell(np.where(np.arange(8) == 5, wrong, scores))
    for s in (strategy, again):
        s.tell(scores)
    assert all(np.array_equal(a, b) for a, b in zip(strategy.state().values(), again.state().values(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_another_generation_are_our_own_mistake(name: str) -> None:
    strategy = evolution.make(name, 6, 8, 0.1, seed=2)
    strategy.ask()
    with pytest.raises(AssertionError, match="8 candidates"):
        strategy.tell(np.zeros(7))


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_mirrored_pairs(name: str) -> None:
    strategy = evolution.make(name, 5, 8, 0.1, seed=2)
    for _ in range(3):
        points = strategy.ask()
        np.testing.assert_allclose(points[:4] + points[4:], np.tile(2 * strategy.mean, (4, 1)), atol=1e-12)
        strategy.tell(-((points - 1) ** 2).sum(axis=1))
    assert strategy.mean.any()
    with pytest.raises(AssertionError, match="even"):
        evolution.make(name, 5, 7, 0.1, seed=2)
    many = evolution.make(name, 200, 200, 0.1, seed=2).ask()
    assert many.std() == pytest.approx(0.1, rel=0.03)


# ----------------------------------------------------------------------------------- resuming at any generation


def rounded(points: np.ndarray) -> np.ndarray:
    """A hill with terraces: scores tie."""
    return np.round(-((points - 0.3) ** 2 * np.linspace(1, 50, points.shape[1])).sum(axis=1))


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
@pytest.mark.parametrize("size, score", [(12, rounded), (60, lambda points: rounded(100 * points))])
def test_the_state_of_any_generation_goes_on_to_the_last_bit(name: str, size: int, score) -> None:
    """Through a safetensors file."""
    strategy, files = evolution.make(name, size, 8, 0.1, 3, 0.99), {}
    for generation in range(40):
        strategy.tell(score(strategy.ask()))
        if generation in (0, 1, 2, 3, 17, 30):
            files[generation] = safetensors.save({key: np.ascontiguousarray(x) for key, x in strategy.state().items()})
    for generation, file in files.items():
        again = evolution.make(name, size, 8, 0.1, 3, 0.99)
        again.restore(safetensors.load(file))
        for _ in range(generation + 1, 40):
            again.tell(score(again.ask()))
        assert strategy.state().keys() == again.state().keys()
        for key, value in strategy.state().items():
            np.testing.assert_array_equal(value, again.state()[key], err_msg=f"{key} from generation {generation}")
        np.testing.assert_array_equal(strategy.mean, again.mean)
        assert strategy.sigma == again.sigma


@pytest.mark.parametrize("size", [39, 300])
@pytest.mark.parametrize("name", ["cma", "sep-cma"])
def test_cma_is_replayed(name: str, size: int) -> None:
    strategy, again = (evolution.make(name, size, 4, 0.1, 3) for _ in range(2))
    history = []
    for _ in range(5):
        history.append(rounded(strategy.ask()))
        strategy.tell(history[-1])
    with pytest.raises(ValueError, match="is replayed"):
        again.restore(strategy.state())
    *_, mean = evolution.replay(again, history)
    np.testing.assert_array_equal(mean, strategy.mean)
    for key, value in strategy.state().items():
        np.testing.assert_array_equal(value, again.state()[key], err_msg=key)


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_another_s_state_is_refused(name: str) -> None:
    for other in NAMES:
        if other != name:
            with pytest.raises(KeyError):
                evolution.make(name, 6, 8, 0.1, 3).restore(evolution.make(other, 6, 8, 0.1, 3).state())
    with pytest.raises(ValueError):
        evolution.make(name, 5, 8, 0.1, 3).restore(evolution.make(name, 6, 8, 0.1, 3).state())


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_that_went_elsewhere_is_noticed(name: str) -> None:
    strategy, history = evolution.make(name, 12, 8, 0.1, seed=3), []
    for _ in range(12):
        history.append(rounded(10 * strategy.ask()))
        strategy.tell(history[-1])
    mean, sigma = strategy.mean, strategy.sigma

    def after(seed: int, scores: list[np.ndarray]) -> evolution.Strategy:
        other = evolution.make(name, 12, 8, 0.1, seed)
        list(evolution.replay(other, scores))
        return other

    assert evolution.arrived(after(3, history), mean, sigma)
    assert evolution.arrived(after(3, history), mean + 1e-9 * sigma, sigma * (1 + 1e-9))
    assert not evolution.arrived(after(3, history), mean + 5e-6 * sigma, sigma)
    assert not evolution.arrived(after(3, history), mean, sigma * (1 + 5e-6))
    assert not evolution.arrived(after(4, history), mean, sigma)
    assert not evolution.arrived(after(3, history[:-1]), mean, sigma)
    assert not evolution.arrived(after(3, [history[0][::-1], *history[1:]]), mean, sigma)


@pytest.mark.parametrize("name", ["cma", "sep-cma"])
def test_an_evolution_whose_scores_lead_elsewhere_is_not_continued(name: str, tmp_path) -> None:
    strategy, history, means = evolution.make(name, 12, 8, 0.1, seed=3), [], []
    for _ in range(6):
        history.append(rounded(10 * strategy.ask()))
        strategy.tell(history[-1])
        means.append(strategy.mean)
    arrays = {"means": np.array(means[-2:])} | {f"strategy.{key}": x for key, x in strategy.state().items()}

    def bring_back(scores: list[np.ndarray], arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        fresh = evolution.make(name, 12, 8, 0.1, seed=3)
        return list(standing.bring_back(fresh, scores, arrays, RunDir(tmp_path)))

    np.testing.assert_array_equal(bring_back(history, arrays), means)
    assert len(bring_back(history[::-1], {})) == 6, "version 0.1 kept no means"
    for scores, kept in [
        ([history[0][::-1], *history[1:]], arrays),
        (history, arrays | {"strategy.sigma": arrays["strategy.sigma"] * 1.01}),
    ]:
        with pytest.raises(UserError, match="lead elsewhere"):
            bring_back(scores, kept)


# ------------------------------------------------------------------------- the published implementations


TOP = np.array([0.4, -0.2, 0.1, -0.3])


def hill(points: np.ndarray) -> np.ndarray:
    """What the stored numbers climbed: P = 12, n = 4, first step size 0.1, noise of RandomState(5)."""
    return -((points - TOP) ** 2 @ np.array([1, 2, 3, 4])) + 0.05 * np.cos(37 * points.sum(axis=1))


class OldGenerator:
    """NumPy's frozen generator, which the published implementations draw from."""

    def __init__(self, seed: int):
        self.state = np.random.RandomState(seed)

    def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
        return self.state.randn(*shape)


PGPELIB = {  # generation: (center, stdev)
    1: ([-0.001254376366350996, -0.004087140314501058, 0.004993011990054609, -0.0011118002036047856],
        [0.10018351771309035, 0.10023172628604146, 0.09901189290210582, 0.09984361342426869]),
    2: ([-0.0017639721183999872, -0.011059096852575376, 0.010018387525706322, -0.007850961122876986],
        [0.10024074688822952, 0.10000099644501512, 0.09881706579757336, 0.09981645403677204]),
    10: ([0.03841424111026791, -0.05104227222328092, 0.031973465388395156, -0.09168042263556667],
         [0.09716915754392763, 0.09587004265008472, 0.09622325838331303, 0.09748549773371885]),
    100: ([0.3887680988382578, -0.1814801216599266, 0.12984094125519946, -0.2823739067458154],
          [0.056164347477370716, 0.04789137129061787, 0.04300089174376975, 0.037617316913009256]),
}  # fmt: skip
"""github.com/nnaisense/pgpelib (by ClipUp's authors) at d00907fe: PGPE(solution_length=4, popsize=12,
center_learning_rate=0.1 * 2 / 30, optimizer="clipup", optimizer_config={"momentum": 0.9, "max_speed": 0.1 * 2 / 15},
stdev_learning_rate=0.1, stdev_init=0.1, stdev_max_change=0.2, solution_ranking=True, seed=5, dtype="float64").
ClipUp reaches its highest speed by the tenth generation."""

OPENAI = {  # generation: parameters
    1: [-0.049999779158653335, -0.049999932221802205, 0.049999944518645194, -0.04999975083832913],
    2: [-0.06348230932552165, -0.09588824644519456, 0.08636634007495311, -0.09512779014288208],
    10: [0.24669001782374364, -0.23473666269141483, 0.1171985433186654, -0.39519606048065536],
    100: [0.38643464561275825, -0.17942793085334457, 0.11114641536218187, -0.2863164022273294],
}
"""github.com/openai/evolution-strategies-starter at 951f1998: compute_centered_ranks and batched_weighted_sum of
es_distributed/es.py, Adam of es_distributed/optimizers.py with stepsize 0.05, noise_stdev 0.1, l2coeff 0. Its Adam
adds epsilon to the uncorrected second moment: 4e-6 of the first step."""


def test_pgpe_is_the_published_one() -> None:
    strategy = evolution.PGPE(4, 12, 0.1, 0, 1.0)
    strategy.generator = OldGenerator(5)
    for generation in range(1, 101):
        strategy.tell(hill(strategy.ask()))
        if generation in PGPELIB:
            center, stdev = PGPELIB[generation]
            np.testing.assert_allclose(strategy.mean, center, rtol=1e-9)
            np.testing.assert_allclose(strategy.sigmas, stdev, rtol=1e-9)
            assert strategy.sigma == pytest.approx(np.mean(stdev), rel=1e-9)


def test_openai_es_is_the_published_one() -> None:
    strategy = evolution.OpenAIES(4, 12, 0.1, 0, 1.0)
    strategy.generator = OldGenerator(5)
    for generation in range(1, 101):
        strategy.tell(hill(strategy.ask()))
        if generation in OPENAI:
            np.testing.assert_allclose(strategy.mean, OPENAI[generation], rtol=2e-4)
            assert strategy.sigma == 0.1


# ---------------------------------------------------------------------------------- one step and the formulas


class Given:
    """A generator that draws what it was given."""

    def __init__(self, *noise: list[list[float]]):
        self.noise = [np.array(draw) for draw in noise]

    def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
        draw = self.noise.pop(0)
        assert draw.shape == shape
        return draw


def test_one_step_of_openai_es() -> None:
    """Two pairs, noise (1, 0) and (0, 2); ranks 0.5, 1/6 for plus, −0.5, −1/6 for minus."""
    strategy = evolution.OpenAIES(2, 4, 0.1, 0, 0.9)
    strategy.generator = Given([[1, 0], [0, 2]], [[1, 0], [0, 2]])
    np.testing.assert_allclose(strategy.ask(), [[0.1, 0], [0, 0.2], [-0.1, 0], [0, -0.2]])
    strategy.tell(np.array([9.0, 3.0, 1.0, 2.0]))
    gradient = np.array([1, 2 / 3]) / (4 * 0.1)
    np.testing.assert_allclose(strategy.moment1, 0.1 * gradient)
    np.testing.assert_allclose(strategy.moment2, 0.001 * gradient**2)
    np.testing.assert_allclose(strategy.mean, [0.05, 0.05], rtol=1e-6)  # Adam's first: the step size, each
    assert strategy.sigma == pytest.approx(0.09) and strategy.learning_rate == pytest.approx(0.045)
    strategy.ask()
    strategy.tell(np.array([1.0, 3.0, 9.0, 2.0]))  # the first pair the other way round
    second = np.array([-1, 2 / 3]) / (4 * 0.09)
    m = (0.9 * 0.1 * gradient + 0.1 * second) / (1 - 0.9**2)
    v = (0.999 * 0.001 * gradient**2 + 0.001 * second**2) / (1 - 0.999**2)
    np.testing.assert_allclose(strategy.mean, 0.05 + 0.045 * m / np.sqrt(v), rtol=1e-6)


@pytest.mark.parametrize("kind", [evolution.OpenAIES, evolution.PGPE])
def test_a_number_that_nobody_tried_stays_and_the_others_move(kind) -> None:
    strategy = kind(2, 4, 0.1, 0, 1.0)
    strategy.generator = Given([[1, 0], [2, 0]])
    strategy.ask()
    strategy.tell(np.array([9.0, 3.0, 1.0, 2.0]))
    assert strategy.mean[0] > 0 and strategy.mean[1] == 0


def test_adam_s_epsilon_only_matters_to_gradients_as_small() -> None:
    strategy = evolution.OpenAIES(2, 4, 0.1, 0, 1.0)
    strategy.climb(np.array([1e-8, 1.0]))
    np.testing.assert_allclose(strategy.mean, [0.025, 0.05], rtol=1e-6)  # 1e-8 / (1e-8 + 1e-8)


def test_one_step_of_pgpe() -> None:
    strategy = evolution.PGPE(2, 4, 0.1, 0, 0.9)
    assert strategy.max_speed == pytest.approx(0.1 * np.sqrt(2) / 15)
    assert strategy.step_length == pytest.approx(0.1 * np.sqrt(2) / 30)
    strategy.generator = Given([[1, 0], [0, 2]])
    np.testing.assert_allclose(strategy.ask(), [[0.1, 0], [0, 0.2], [-0.1, 0], [0, -0.2]])
    strategy.tell(np.array([9.0, 3.0, 1.0, 2.0]))
    gradient = np.array(
        [0.1 * 1, 0.2 / 3]
    )  # (plus − minus) · noise, ranks 0.5, 1/6, −0.5, −1/6; its length is no matter
    np.testing.assert_allclose(strategy.mean, 0.1 * np.sqrt(2) / 30 * gradient / np.linalg.norm(gradient))
    np.testing.assert_allclose(strategy.sigmas, 0.09, rtol=1e-12)  # both pairs average to rank 0
    assert strategy.max_speed == pytest.approx(0.9 * 0.1 * np.sqrt(2) / 15)
    assert strategy.step_length == pytest.approx(0.9 * 0.1 * np.sqrt(2) / 30)


def test_pgpe_s_step_sizes_follow_the_better_pair() -> None:
    """Pair 1 is better on both sides: its noise is (2, 0.5), so parameter 1 widens and parameter 2 narrows."""
    strategy = evolution.PGPE(2, 4, 0.1, 0, 1.0)
    strategy.generator = Given([[2, 0.5], [1, 1]])
    strategy.ask()
    strategy.tell(np.array([9.0, 1.0, 8.0, 2.0]))
    surprise = np.array([(1 / 2 + 1 / 6) / 2, -(1 / 2 + 1 / 6) / 2])
    growth = surprise @ (np.array([[4, 0.25], [1, 1]]) - 1) * 0.1 / 2
    np.testing.assert_allclose(strategy.sigmas, 0.1 + 0.1 * growth)
    assert strategy.sigmas[0] > 0.1 > strategy.sigmas[1]


def test_pgpe_s_step_sizes_change_by_a_fifth_at_most() -> None:
    strategy = evolution.PGPE(2, 4, 0.1, 0, 1.0)
    strategy.generator = Given([[9, 0], [0, 9]])
    strategy.ask()
    strategy.tell(np.array([9.0, 1.0, 8.0, 2.0]))
    np.testing.assert_allclose(strategy.sigmas, [0.12, 0.08])


def test_clipup_clips_the_speed_and_keeps_the_momentum() -> None:
    strategy, up = evolution.PGPE(2, 4, 0.3, 0, 1.0), np.array([0.0, 1.0])
    step, most = strategy.step_length, strategy.max_speed
    assert most == 2 * step
    for speed in (step, 1.9 * step, most, most):
        before = strategy.mean
        strategy.climb(1000 * up)
        np.testing.assert_allclose(strategy.mean - before, speed * up)
    before = strategy.mean
    strategy.climb(np.array([1e-9, 0.0]))
    np.testing.assert_allclose(strategy.mean - before, np.array([step, 0.9 * most]) * most / np.hypot(step, 0.9 * most))


@pytest.mark.parametrize("name", ["openai-es", "pgpe"])
def test_decay_shrinks_the_steps(name: str) -> None:
    steady, shrinking = (evolution.make(name, 12, 8, 0.1, 3, decay) for decay in (1.0, 0.9))
    for strategy in (steady, shrinking):
        for _ in range(20):
            strategy.tell(-(strategy.ask() ** 2).sum(axis=1))
    assert shrinking.sigma == pytest.approx(steady.sigma * 0.9**20, rel=0.3)
    for _ in range(5):
        shrinking.tell(flat(shrinking.ask()))
    assert shrinking.sigma == pytest.approx(steady.sigma * 0.9**25, rel=0.3), "flat generations count"
