"""The dream: one rule, against M's own forward pass, torch.distributions, and its fast path."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from worldmodels.controller import Controller
from worldmodels.dream import DreamStep, Starts, continuation
from worldmodels.dream_kernels import noise
from worldmodels.envs.actions import Box
from worldmodels.errors import UserError
from worldmodels.fast_dream import BLOCK, Dreams, Population
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint

KINDS = [
    {},
    {"mixture": "shared"},
    {
        "z_size": 7,
        "action_size": 1,
        "hidden_size": 24,
        "gaussians": 3,
        "include_restart": True,
        "include_terminal": True,
    },
    {"include_terminal": True, "dropout": 0.3, "reward_scale": 3.0},
]


def lively(**settings) -> MDRNN:
    """A random M whose dreams move, and end where it predicts the end."""
    torch.manual_seed(1)
    memory = MDRNN(include_reward=True, **settings).requires_grad_(False)
    memory.head.weight.mul_(5)
    if memory.include_terminal:
        memory.head.bias[-1] = -1.0
    return memory


def test_without_a_reward_head_each_step_pays_what_m_says() -> None:
    """Take Cover: 1 per step survived, the last one included, by the rule and on the fast path."""
    torch.manual_seed(1)
    memory = MDRNN(4, 1, 8, include_terminal=True, step_reward=1.0).requires_grad_(False)
    assert memory.pays and not MDRNN(4, 1, 8, include_terminal=True).pays and not MDRNN(4, 1, 8, step_reward=1.0).pays
    memory.head.weight[-1], memory.head.bias[-1] = 60.0, -1.0
    zero = np.zeros(3, np.int64)
    starts = np.random.default_rng(0).standard_normal((3, 4)), *np.zeros((2, 3, 8)), np.ones(3)
    returns, lengths = Dreams(memory, 3).play(
        lambda lanes, _: np.zeros((len(lanes), 1)), zero, 50, np.arange(3), starts
    )
    assert np.array_equal(returns, lengths) and 1 <= lengths.min() < 50
    z, zeros = torch.zeros(2, 4), torch.zeros(2, 8)
    reward = DreamStep(memory)(z, z[:, :1], zeros, zeros, z[:, 0], z, z, 1.0)[3]
    assert reward.tolist() == [1.0, 1.0]


def test_first_starts_are_those_that_begin_an_episode() -> None:
    starts = Starts(torch.arange(12.0).reshape(3, 4), torch.ones(3, 8), torch.ones(3, 8), torch.tensor([0.0, 1, 1]))
    first = starts.first()
    assert torch.equal(first.z, starts.z[1:]) and first.h.shape == first.c.shape == (2, 8) and first.restart.all()
    none = Starts(starts.z, starts.h, starts.c, torch.zeros(3))
    assert len(none.first().z) == 3


# ------------------------------------------------------------------------------------------------- noise


def test_noise_is_uniform_and_normal_and_its_numbers_are_independent() -> None:
    n = 40_000
    uniform, normal = noise(np.arange(n), np.full(n, 3), 8)
    assert uniform.min() >= 0 and uniform.max() < 1
    grid = np.linspace(0.05, 0.95, 19)
    for column in range(8):
        np.testing.assert_allclose([(uniform[:, column] < g).mean() for g in grid], grid, atol=0.012)
        inside = [(normal[:, column] < q).mean() for q in (-2, -1, 0, 1, 2)]
        np.testing.assert_allclose(inside, [0.0228, 0.1587, 0.5, 0.8413, 0.9772], atol=0.012)
    both = np.concatenate([uniform, normal, normal**2], axis=1)
    later = np.concatenate(noise(np.arange(n), np.full(n, 4), 8), axis=1)
    neighbour = np.concatenate(noise(np.arange(n) + 1, np.full(n, 3), 8), axis=1)
    correlation = np.corrcoef(np.concatenate([both, later, neighbour], axis=1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.025


def test_noise_depends_on_key_and_step_alone() -> None:
    keys, steps = np.array([5, 2**61, 5, 7]), np.array([0, 9, 1, 0])
    uniform, normal = noise(keys, steps, 9)
    for i in range(4):
        alone = noise(keys[i : i + 1], steps[i : i + 1], 9)
        assert np.array_equal(alone[0][0], uniform[i]) and np.array_equal(alone[1][0], normal[i])
    assert len(np.unique(uniform)) == uniform.size and len(np.unique(normal)) == normal.size


# -------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("settings", KINDS)
def test_a_step_is_m_s_own_forward_pass(settings) -> None:
    """Shown the real z, DreamStep has M's h, predicts M's reward and, at temperature 0, M's likeliest z."""
    memory, size = lively(**settings), settings.get("z_size", 32)
    z, actions = torch.randn(3, 6, size), torch.randn(3, 6, settings.get("action_size", 3))
    restart = torch.zeros(3, 6)
    restart[:2, 0] = 1
    mask = memory.dropout_mask(3, torch.Generator().manual_seed(0))
    prediction, hs = memory(z, actions, restart=restart, mask=mask)
    (h, c), step = memory.initial_state(3), DreamStep(memory)
    for t in range(6):
        noises = torch.rand(3, size), torch.randn(3, size)
        imagined, h, c, reward, end = step(z[:, t], actions[:, t], h, c, restart[:, t], *noises, 0.0, mask)
        torch.testing.assert_close(h, hs[:, t], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(reward, prediction.reward[:, t], rtol=1e-4, atol=1e-4)
        likeliest = prediction.logits[:, t].argmax(-1, keepdim=True).expand(3, size, 1)
        torch.testing.assert_close(imagined, prediction.mean[:, t].gather(-1, likeliest)[..., 0], rtol=1e-4, atol=1e-4)
        expected = prediction.terminal[:, t] > 0 if memory.include_terminal else torch.zeros(3, dtype=torch.bool)
        assert torch.equal(end, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_dreams_have_the_mixture_s_distribution(temperature) -> None:
    """Many lanes in one state: their next z against torch.distributions, in every number's distribution function."""
    memory, n = lively(), 30_000
    z, action = torch.randn(1, 32).expand(n, -1), torch.randn(1, 3).expand(n, -1)
    state = memory.step(z[:1], action[:1], memory.initial_state(1))
    p = memory.predict(state[0])
    weights, sigma = Categorical(logits=p.logits[0] / temperature), p.log_sigma[0].exp() * temperature**0.5
    reference = MixtureSameFamily(weights, Normal(p.mean[0], sigma))
    dreams = Dreams(memory, n, temperature=temperature)
    dreams.begin(np.arange(n), np.arange(n), z.numpy())
    dreams.step(action.numpy())
    for quantile in (-1.0, -0.3, 0.3, 1.0):
        x = reference.mean + quantile * reference.variance.sqrt()
        share = (torch.from_numpy(dreams.z) < x).float().mean(0)
        assert (share - reference.cdf(x)).abs().max() < 4.5 * 0.5 / n**0.5


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.15])
def test_the_fast_path_is_the_rule(settings, temperature) -> None:
    """Twenty steps of 70 lanes on their own z, from the same starts and noise."""
    memory, n, draw = lively(**settings), BLOCK + 6, np.random.default_rng(2)
    size, keys = memory.z_size, draw.integers(2**62, size=BLOCK + 6)
    z, h, c = (
        torch.from_numpy(draw.standard_normal((n, w), dtype=np.float32))
        for w in (size, memory.hidden_size, memory.hidden_size)
    )
    mask, restart = memory.dropout_mask(n, torch.Generator().manual_seed(0)), torch.arange(n) % 2
    dreams, step = Dreams(memory, n, temperature=temperature), DreamStep(memory)
    hidden = None if mask is None else mask.numpy()
    dreams.begin(np.arange(n), keys, z.numpy(), h.numpy(), c.numpy(), restart.numpy(), hidden)
    alive = np.ones(n, dtype=bool)
    for t in range(20):
        actions = draw.standard_normal((n, memory.action_size), dtype=np.float32)
        uniform, normal = (torch.from_numpy(x) for x in noise(keys, np.full(n, t), size))
        z, h, c, reward, end = step(
            z, torch.from_numpy(actions), h, c, restart, uniform, normal, temperature, mask
        )  # fmt: skip
        restart = torch.zeros(n)
        rewards, ends = dreams.step(actions)
        # A uniform number beside a Gaussian's border may fall to either side: such a lane has parted for ever.
        parted = alive & (np.abs(dreams.z - z.numpy()).max(axis=1) > 1e-3)
        assert parted.sum() <= 1
        alive &= ~parted
        np.testing.assert_allclose(dreams.h[alive], h[alive], atol=1e-3)
        np.testing.assert_allclose(rewards[alive], reward[alive], atol=5e-3)
        assert np.array_equal(ends[alive], end.numpy()[alive])
        alive &= ~ends
        rested = dreams.z[ends].copy()
    assert alive.any() and np.array_equal(rested, dreams.z[ends])
    assert not memory.include_terminal or not alive.all()


@pytest.mark.parametrize(("inputs", "bias"), [("z", True), ("zh", True), ("zch", False)])
def test_a_population_plays_as_it_acts_step_by_step(inputs, bias) -> None:
    """Returns and lengths of whole dreams with C inside, against `Controller.act` between steps; two threads."""
    memory, n, steps, draw = lively(include_terminal=True), BLOCK + 30, 15, np.random.default_rng(0)
    memory.head.bias[-1] = -0.3
    shape = Controller(inputs=inputs, bias=bias)
    parameters = draw.normal(0, 0.2, (5, shape.size)).astype(np.float32)
    actions = Box(gymnasium.spaces.Box(-1.0, 1.0, (3,)))
    candidate, z = np.arange(n) % 5, draw.standard_normal((n, 32), dtype=np.float32)
    plain, fast = Dreams(memory, n, temperature=0.7), Dreams(memory, n, temperature=0.7, threads=2)
    plain.begin(np.arange(n), np.arange(n) // 5, z)
    act, starts = Population(fast, shape, parameters, actions), (z, *np.zeros((2, n, 256)), np.ones(n))
    returns, lengths = fast.play(act, candidate, steps, np.arange(n) // 5, starts)
    expected, alive = np.zeros(n), np.zeros(n, dtype=int)
    for _ in range(steps):
        h, c = torch.from_numpy(plain.h), torch.from_numpy(plain.c)
        raw = shape.act(torch.from_numpy(parameters[candidate]), shape.see(torch.from_numpy(plain.z), (h, c)))
        alive += ~plain.end[:n]
        expected += plain.step(actions.squash(raw.numpy()))[0]
    close = np.isclose(returns, expected, atol=0.05)
    assert close.mean() > 0.95 and np.array_equal(lengths[close], alive[close])
    assert lengths.min() < steps == lengths.max()


def test_a_c_with_a_hidden_layer_is_refused() -> None:
    shape = Controller(inputs="z", hidden=4)
    with pytest.raises(UserError, match="leave --hidden out"):
        Population(Dreams(lively(), 1), shape, np.zeros((1, shape.size)), Box(gymnasium.spaces.Box(-1.0, 1.0, (3,))))


DTYPES = (torch.float32, torch.bfloat16)


class Crowd:
    """E episodes that end early, late, or with step 40, and a population of Cs that dream them."""

    def __init__(self, episodes: int, **settings):
        self.memory, self.episodes, self.steps = lively(include_terminal=True, **settings), episodes, 40
        self.memory.head.weight[-1].mul_(4)
        self.memory.head.bias[-1] = -2.5

    def dreamed(self, which: np.ndarray, lanes: int, threads: int, dtype: torch.dtype) -> np.ndarray:
        """Returns and lengths (2, n) of the episodes `which` (n,), dreamed in this order in so many lanes."""
        n, hidden, draw = self.episodes, self.memory.hidden_size, np.random.default_rng(0)
        z = draw.standard_normal((n, self.memory.z_size), dtype=np.float32)
        h, c = draw.standard_normal((2, n, hidden), dtype=np.float32)
        mask = self.memory.dropout_mask(n, torch.Generator().manual_seed(0))
        shape = Controller(self.memory.z_size, hidden, 3, "zch", bias=False)
        parameters = draw.normal(0, 0.3, (7, shape.size))
        dreams = Dreams(self.memory, lanes, temperature=0.9, threads=threads, dtype=dtype)
        act = Population(dreams, shape, parameters, Box(gymnasium.spaces.Box(-1.0, 1.0, (3,))))
        starts = tuple(x[which] for x in (z, h, c, np.arange(n) % 2))
        own = None if mask is None else mask.numpy()[which]
        results = np.stack(dreams.play(act, which % 7, self.steps, which // 3, starts, own))
        dreams.close()
        return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3, "include_restart": True}])
def test_an_episode_is_dreamed_alike_in_any_lane_after_any_other(settings, dtype) -> None:
    """To the last bit, in one lane or a thousand, on one to four threads, in any order: a lane whose episode is over
    begins the next one."""
    crowd, everyone = Crowd(150, hidden_size=64, **settings), np.arange(150)
    alone = crowd.dreamed(everyone, 1, 1, dtype)
    lengths = alone[1]
    assert lengths.min() < 4 and lengths.max() == crowd.steps and len(np.unique(lengths)) > 15
    for lanes, threads in ((7, 1), (BLOCK + 9, 2), (1000, 2), (2 * BLOCK, 4)):
        assert np.array_equal(crowd.dreamed(everyone, lanes, threads, dtype), alone)
    order = np.random.default_rng(1).permutation(150)
    assert np.array_equal(crowd.dreamed(order, 20, 1, dtype), alone[:, order])


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_that_rest_leave_the_others_as_they_are(dtype) -> None:
    """`step` packs those that dream into fewer products: to the last bit what they would be among all."""
    memory, n = lively(), 3 * BLOCK
    z, actions = np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32), np.zeros((n, 3), np.float32)
    full, sparse = Dreams(memory, n, dtype=dtype), Dreams(memory, n, dtype=dtype, threads=2)
    for dreams in (full, sparse):
        dreams.begin(np.arange(n), np.arange(n), z)
    for t in range(12):
        sparse.rest(np.random.default_rng(t).random(n) < 0.3)
        live = sparse.active.copy()
        rested = sparse.z[~live].copy()
        full.step(actions)
        reward, _ = sparse.step(actions)
        assert np.array_equal(sparse.h[live], full.h[live]) and np.array_equal(sparse.z[live], full.z[live])
        assert np.array_equal(sparse.z[~live], rested) and not reward[~live].any()
    assert 0 < live.sum() < BLOCK


def test_products_are_no_larger_than_the_lanes_that_dream(monkeypatch) -> None:
    """While episodes wait every product is full; in the end it has the rows of those that are left, a multiple of
    eight."""
    crowd, rows = Crowd(300, hidden_size=16), []
    product = Dreams.product
    monkeypatch.setattr(Dreams, "product", lambda *args: rows.append(len(args[-1])) or product(*args))
    _, lengths = crowd.dreamed(np.arange(300), BLOCK, 1, torch.float32)
    full = rows.index(next(count for count in rows if count < BLOCK))
    assert 2 * lengths.sum() <= sum(rows) < 2 * lengths.sum() + 2 * 8 * len(lengths[:BLOCK])
    assert full > len(rows) / 2 and set(rows[full:]) <= set(range(8, BLOCK + 1, 8)) and rows[-1] == 8


def test_a_failure_in_one_thread_stops_the_others() -> None:
    """No thread goes on with what waits: all of it would take half a minute."""
    dreams, begun, keys = Dreams(lively(hidden_size=16), 4 * BLOCK, threads=4), [0], np.arange(300_000)
    z, h = (np.broadcast_to(np.float32(0), (len(keys), width)) for width in (32, 16))

    def act(lanes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        begun[0] = max(begun[0], candidates.max())
        return np.full((len(lanes), 3), np.inf if 100 in candidates else 0.0)

    with pytest.raises(UserError, match="no number"):
        dreams.play(act, keys, 5, keys, (z, h, h, np.zeros(len(keys))))
    dreams.close()
    assert begun[0] < 250_000 and not dreams.active.any()


def test_bfloat16_products_stay_close() -> None:
    memory, n = lively(), 64
    z = np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32)
    results = []
    for dtype in DTYPES:
        dreams = Dreams(memory, n, temperature=0.0, dtype=dtype)
        dreams.begin(np.arange(n), np.arange(n), z)
        dreams.step(np.zeros((n, 3), np.float32))
        results.append(dreams.h.copy())
    assert 0 < np.abs(results[0] - results[1]).max() < 0.02


def test_a_dream_without_a_mask_forgets_the_one_before() -> None:
    memory, lanes = lively(dropout=0.5), np.arange(4)
    z, results = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32), []
    dreams = Dreams(memory, 4, temperature=0.0)
    for mask in (None, memory.dropout_mask(4, torch.Generator().manual_seed(0)).numpy(), None):
        dreams.begin(lanes, lanes, z, mask=mask)
        dreams.step(np.zeros((4, 3), np.float32))
        results.append(dreams.z.copy())
    assert np.array_equal(results[0], results[2]) and not np.allclose(results[0], results[1])


def test_what_is_no_number_is_named_and_impossible_dreams_are_refused() -> None:
    memory = lively()
    dreams = Dreams(memory, 100)
    dreams.begin(np.arange(100), np.arange(100), np.zeros((100, 32), np.float32))
    actions = np.zeros((100, 3), np.float32)
    dreams.step(actions)
    actions[71] = np.inf
    with pytest.raises(UserError, match="lane 71 at step 1"):
        dreams.step(actions)
    memory.head.bias[5] = np.nan
    with pytest.raises(UserError, match="lane 0 at step 0"):
        fresh = Dreams(memory, 2)
        fresh.begin(np.arange(2), np.arange(2), np.zeros((2, 32), np.float32))
        fresh.step(actions[:2])
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"lanes": 0}, {"threads": 0}):
        with pytest.raises(UserError):
            Dreams(**{"mdrnn": memory, "lanes": 1, **wrong})


def test_a_lane_takes_little_memory() -> None:
    """At most 64 KiB a lane: M of 256 units."""
    memory, lanes = MDRNN(include_reward=True, include_terminal=True), 1024
    held = [x for x in vars(Dreams(memory, lanes)).values() if isinstance(x, torch.Tensor | np.ndarray)]
    assert sum(x.nbytes for x in held) / lanes < 64 * 1024


# --------------------------------------------------------------------------------------- sequences and starts


def test_a_continuation_starts_with_the_real_sequence_and_is_reproducible() -> None:
    torch.manual_seed(0)
    memory, z, a = MDRNN(), torch.randn(12, 32), torch.randn(12, 3)
    first, again, other = (continuation(memory, z, a, warm_up=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first[:4], z[:4])
    assert not torch.isclose(first[4:], z[4:]).any() and not torch.isclose(first[4:], other[4:]).all()


def test_starts_survive_their_file(tmp_path) -> None:
    memory = MDRNN(z_size=4, hidden_size=8)
    starts = Starts(torch.randn(3, 4), torch.randn(3, 8), torch.randn(3, 8), torch.tensor([1.0, 0, 0]))
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.pack("mdrnn", memory.state_dict()), {})
    starts.save(tmp_path / "starts.safetensors")
    again = Starts.load(tmp_path / "starts.safetensors", memory)
    assert all(torch.equal(a, b) for a, b in zip(vars(starts).values(), vars(again).values(), strict=True))
    checkpoint.save(tmp_path / "best.safetensors", checkpoint.pack("mdrnn", MDRNN(4, 3, 8).state_dict()), {})
    with pytest.raises(UserError, match="holds starts of another M"):  # of the same sizes
        Starts.load(tmp_path / "starts.safetensors", memory)
    checkpoint.save(tmp_path / "starts.safetensors", vars(starts), {"starts": 3})
    Starts.load(tmp_path / "starts.safetensors", memory)  # earlier versions do not say whose they are
