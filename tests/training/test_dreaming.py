"""C in the dream: the gradient is the return's own, carrying over keeps what C does, values are the sums they say."""

import copy

import numpy as np
import pytest
import torch

from tests.helpers.toy import TOY
from worldmodels import envs, memory
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents, values
from worldmodels.dream import DreamStep, bank
from worldmodels.envs import World
from worldmodels.envs.actions import Car
from worldmodels.training.dreaming import PROBES, RIDGE, Climber, carry_over, seen_with, straight

Z, A, H = 4, 3, 8


def world(seed: int = 0, **more) -> memory.MDRNN:
    torch.manual_seed(seed)
    mdrnn = memory.MDRNN(Z, A, H, gaussians=2, discount=0.9, **{"include_reward": True, **more})
    with torch.no_grad():
        mdrnn.head.weight.mul_(3)
        mdrnn.lstm.get_parameter("weight_hh_l0").mul_(3)
    return mdrnn.requires_grad_(False).eval()


def episode(steps: int, seed: int) -> Latents:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(steps + 1, Z, generator=draw)
    actions, rewards = torch.rand(steps, A, generator=draw), torch.randn(steps, generator=draw)
    return Latents(z, torch.full_like(z, -4.0), actions, rewards, torch.zeros(steps))


def car() -> Car:
    actions = envs.actions_in(World("CarRacing-v3"))
    assert isinstance(actions, Car)
    return actions


@pytest.mark.parametrize("ends", [False, True])
def test_values_are_discounted_sums(ends: bool) -> None:
    """Against the sum written out; an end is worth nothing only where ends count."""
    whole = episode(7, 0)._replace(terminals=torch.tensor([0.0] * 6 + [1.0]))
    tail = 0.0 if ends else float(whole.rewards[:-1].mean()) / 0.1  # what ended it is paid once
    wanted = [
        sum(0.9**k * float(r) for k, r in enumerate(whole.rewards[t + 1 :])) + 0.9 ** (6 - t) * tail for t in range(7)
    ]
    np.testing.assert_allclose(values(whole, 0.9, ends), wanted, rtol=1e-5)
    cut = whole._replace(terminals=torch.zeros(7))
    np.testing.assert_array_equal(values(cut, 0.9, True), values(cut, 0.9, False))
    assert float(values(cut, 0.9, False)[-1]) == pytest.approx(float(cut.rewards.mean()) / 0.1)


def test_what_is_paid_is_taken_from_the_supply() -> None:
    """Against the sum written out; of all that a steady drive will be paid, its speed decides less than without."""
    one = episode(6, 0)
    left = [0.9 * np.exp(-max(float(r), 0) / 5) for r in one.rewards]
    usual = float(one.rewards.mean())
    tail = usual / (1 - 0.9 * np.exp(-max(usual, 0) / 5))
    wanted = [
        sum(float(np.prod(left[t + 1 : k])) * float(one.rewards[k]) for k in range(t + 1, 6))
        + float(np.prod(left[t + 1 :])) * tail
        for t in range(6)
    ]
    np.testing.assert_allclose(values(one, 0.9, False, 5.0), wanted, rtol=1e-5)
    slow, fast = (one._replace(rewards=torch.full((6,), reward)) for reward in (1.0, 2.0))
    for supply, ratio in ((0.0, 2.0), (20.0, 1.36), (1e9, 2.0)):
        ahead = [float(values(drive, 0.99, False, supply)[0]) for drive in (slow, fast)]
        assert ahead[1] / ahead[0] == pytest.approx(ratio, rel=0.2 if supply == 20 else 1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {}, {"supply": 3.0}, {"include_terminal": True}, {"include_terminal": True, "include_restart": True},
        {"include_terminal": True, "include_reward": False, "step_reward": 1.0},
    ],
)  # fmt: skip
def test_the_dream_is_dream_step_and_its_gradient_is_its_own(more: dict) -> None:
    """A dream of a Climber against DreamStep step by step, and its gradient against differences."""
    mdrnn, shape, supply = world(**more), Controller(Z, H, 3), more.get("supply")
    starts = bank(mdrnn, [episode(30, 1)], 6, seed=0)
    climber = Climber(mdrnn, shape, car(), temperature=1.0, horizon=5)
    parameters = torch.randn(shape.size, generator=torch.Generator().manual_seed(3)) * 0.3
    parameters[-1] = 3.0  # the brake is on: past its corner the gradient would not be that of the return
    many = parameters.expand(6, -1)
    paid, value = climber.dream(many, starts, torch.Generator().manual_seed(5))

    draw, (z, h, c, restart), total = torch.Generator().manual_seed(5), vars(starts).values(), torch.zeros(6)
    left = torch.ones(6)
    for _ in range(5):
        action = torch.from_numpy(car().squash(shape.act(many, shape.see(z, (h, c))).numpy()))
        uniform, normal = torch.rand(z.shape, generator=draw), torch.randn(z.shape, generator=draw)
        z, h, c, reward, _ = DreamStep(mdrnn)(z, action, h, c, restart, uniform, normal, 1.0)
        total += left * reward
        left *= torch.exp(-reward.clamp(min=0) / supply) if supply else 1.0
        restart = torch.zeros(6)
        if mdrnn.include_terminal:
            left *= 1 - torch.sigmoid(mdrnn.predict(h).terminal)
    torch.testing.assert_close(paid, total)
    torch.testing.assert_close(value, left * mdrnn.predict(h).value)

    weights = parameters.clone().requires_grad_(True)
    paid, value = climber.dream(weights.expand(6, -1), starts, torch.Generator().manual_seed(5))
    (paid + value).mean().backward()
    assert weights.grad is not None

    def mean(moved: torch.Tensor) -> float:
        return float(
            sum(x.double().mean() for x in climber.dream(moved.expand(6, -1), starts, torch.Generator().manual_seed(5)))
        )

    for i, scale in ((1, 1.0), (Z + 2, 1.0), (shape.features + 3, 2.0), (-2, 2.0)):  # half a tanh is the gas
        step = torch.zeros(shape.size).index_fill_(0, torch.tensor(i % shape.size), 1e-2)
        slope = scale * (mean(parameters + step) - mean(parameters - step)) / 2e-2
        assert abs(float(weights.grad[i]) - slope) <= 0.05 * abs(slope) + 2e-2 * float(weights.grad.abs().max())


def test_climbing_climbs_and_leaves_m_alone() -> None:
    mdrnn, shape = world(), Controller(Z, H, 3)
    before = copy.deepcopy(mdrnn.state_dict())
    starts = bank(mdrnn, [episode(60, 1)], 32 * 40, seed=0)
    climber = Climber(mdrnn, shape, car(), temperature=1.0, horizon=6)
    first = starts.some(slice(256))

    def worth(parameters: np.ndarray) -> float:
        many = torch.from_numpy(parameters).float().expand(256, -1)
        return float(sum(x.mean() for x in climber.dream(many, first, torch.Generator().manual_seed(9))))

    climbed = climber.climb(np.zeros(shape.size), starts, 32, 0.03, 0.01, torch.Generator().manual_seed(0))
    assert worth(climbed) > worth(np.zeros(shape.size)) + 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in mdrnn.state_dict().items())


def test_a_neighbour_of_c_drives_in_every_dream() -> None:
    """Each of them as far away as asked for, around C itself; and without a spread C drives in all."""
    mdrnn, shape, driven = world(), Controller(Z, H, 3), []

    class Watched(Climber):
        def dream(self, parameters, starts, draw):
            driven.append(parameters.detach().numpy().copy())
            return super().dream(parameters, starts, draw)

    starts, c = bank(mdrnn, [episode(60, 1)], 512, seed=0), np.random.default_rng(0).standard_normal(shape.size)
    for spread in (0.2, 0.0):
        Watched(mdrnn, shape, car(), 1.0, 2).climb(c, starts, 512, 0.03, spread, torch.Generator().manual_seed(0))
    apart = driven[0] - c
    np.testing.assert_allclose(apart.std(axis=0), 0.2, rtol=0.15)
    assert np.abs(apart.mean(axis=0)).max() < 0.05 and np.abs(np.corrcoef(apart[:8]) - np.eye(8)).max() < 0.7
    np.testing.assert_allclose(driven[1], np.tile(c, (512, 1)), rtol=1e-6)


def test_a_climb_is_adam_on_the_mean_of_its_neighbours() -> None:
    """Three steps written out, with gradients long enough to be cut; and the last dreams' reward per step."""
    mdrnn, shape = world(reward_scale=1e4), Controller(Z, H, 3)
    starts, c = bank(mdrnn, [episode(60, 1)], 24, seed=0), np.random.default_rng(0).standard_normal(shape.size) * 0.3
    climber, draw = Climber(mdrnn, shape, car(), 1.0, 3), torch.Generator().manual_seed(4)
    weights, first, second, cut = torch.tensor(c, dtype=torch.float32), 0.0, 0.0, 0
    for step in range(3):
        part = starts.some(slice(8 * step, 8 * step + 8))
        many = (weights + 0.1 * torch.randn(8, shape.size, generator=draw)).requires_grad_(True)
        paid, value = climber.dream(many, part, draw)
        (gradient,) = torch.autograd.grad(-(paid + value).mean(), many)
        gradient = gradient.sum(0)
        cut += bool(gradient.norm() > 200)
        gradient = gradient * min(1, 200 / (float(gradient.norm()) + 1e-6))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.02 / (1 - 0.9 ** (step + 1))
        weights = weights - rate * first / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    torch.manual_seed(1)  # nobody draws from there
    climbed = climber.climb(c, starts, 8, 0.02, 0.1, torch.Generator().manual_seed(4))
    assert cut, "no gradient was long enough"
    np.testing.assert_allclose(climbed, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("env", ["CarRacing-v3", TOY])
def test_actions_keep_their_rule_and_get_a_gradient(env: str) -> None:
    actions = envs.actions_in(World(env))
    raw = torch.linspace(-2, 2, 3 * actions.outputs).reshape(3, -1).requires_grad_(True)
    action = straight(actions, raw)
    np.testing.assert_allclose(action.detach(), actions.squash(raw.detach().numpy()), atol=1e-6)
    action.sum().backward()
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad, 1 - torch.tanh(raw.detach()) ** 2)


@pytest.mark.parametrize("restart", [False, True])
def test_what_c_sees_is_m_s_memory_before_the_step(restart: bool) -> None:
    """[z, h, 1] of two episodes, h step by step."""
    mdrnn, episodes = world(include_restart=restart), [episode(4, 0), episode(3, 1)]
    rows = []
    for one in episodes:
        state = mdrnn.initial_state(1)
        for t in range(len(one.actions)):
            rows.append(torch.cat([one.mean[t], state[0][0], torch.ones(1)]))
            state = mdrnn.step(one.mean[t : t + 1], one.actions[t : t + 1], state)
    np.testing.assert_allclose(seen_with(mdrnn, episodes), torch.stack(rows).double(), rtol=1e-4, atol=1e-6)


def test_carrying_over_is_least_squares_with_a_ridge_toward_the_old_weights() -> None:
    """Fewer states than numbers, so that the ridge decides; three Cs at a time."""
    shape, episodes, old, new = Controller(Z, H, 3), [episode(6, 0)], world(0), world(1)
    parameters = np.random.default_rng(0).standard_normal((3, shape.size))
    before, after = seen_with(old, episodes), seen_with(new, episodes)
    ridge = (RIDGE * len(after)) ** 0.5 * np.eye(after.shape[1])
    for c, ours in zip(parameters, carry_over(shape, parameters, old, new, episodes), strict=True):
        size = 3 * shape.features
        weights = np.column_stack([c[:size].reshape(3, -1), c[size:]])
        rest = np.vstack([(before - after) @ weights.T, np.zeros((after.shape[1], 3))])
        weights = weights + np.linalg.lstsq(np.vstack([after, ridge]), rest, rcond=None)[0].T
        np.testing.assert_allclose(ours, np.concatenate([weights[:, :-1].ravel(), weights[:, -1]]), rtol=1e-6)


def test_a_promise_is_of_the_candidates_own_states() -> None:
    """Rewards that differ from step to step: what came after a dream is what came after its last step."""
    mdrnn, shape = world(supply=20.0), Controller(Z, H, 3)
    climber, episodes = Climber(mdrnn, shape, car(), 1.0, 4), [episode(12, 0), episode(9, 1)]
    promise = climber.promise(np.zeros((2, shape.size)), episodes, torch.Generator().manual_seed(7))
    rng, real, paid = np.random.default_rng(7), [], []
    for one in episodes:
        after = values(one, 0.9, False, 20.0)
        for t in rng.integers(len(one.actions) - 4, size=PROBES):
            left, sum_ = 1.0, 0.0
            for reward in one.rewards[t : t + 4].tolist():
                sum_, left = sum_ + left * reward, left * np.exp(-max(reward, 0) / 20)
            real.append(sum_)
            paid.append(sum_ + left * float(after[t + 3]))
    assert promise is not None and promise["real"] == pytest.approx(np.mean(real), rel=1e-4)
    assert promise["paid"] == pytest.approx(np.mean(paid), rel=1e-4)


def test_carrying_over_keeps_what_c_does() -> None:
    """Where the new h is the old one turned round, C is turned with it; after training, C is nearer than without."""
    shape, episodes = Controller(Z, H, 3), [episode(200, seed) for seed in range(3)]
    old = world()
    parameters = np.random.default_rng(0).standard_normal(shape.size)
    new = copy.deepcopy(old)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    gates = torch.cat([order + H * k for k in range(4)])
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            weight = old.lstm.get_parameter(name)[gates]
            new.lstm.get_parameter(name).copy_(weight[:, order] if name == "weight_hh_l0" else weight)

    def outputs(mdrnn: memory.MDRNN, c: np.ndarray) -> np.ndarray:
        size = 3 * shape.features
        return seen_with(mdrnn, episodes) @ np.column_stack([c[:size].reshape(3, -1), c[size:]]).T

    wanted = outputs(old, parameters)
    other = np.random.default_rng(1).standard_normal(shape.size)
    carried, also = carry_over(shape, np.stack([parameters, other]), old, new, episodes)
    apart = [np.abs(outputs(new, c) - wanted).mean() for c in (parameters, carried)]
    assert apart[1] < 0.1 * apart[0]
    np.testing.assert_allclose(carry_over(shape, other[None], old, new, episodes)[0], also, atol=1e-9)
    np.testing.assert_allclose(carry_over(shape, parameters[None], old, old, episodes)[0], parameters, atol=1e-9)


def test_the_promise_is_held_against_what_was_paid() -> None:
    """An M that always says 0.5 and a value of 5, against episodes that pay 1 a step."""
    mdrnn, shape = world(), Controller(Z, H, 3)
    with torch.no_grad():
        mdrnn.head.weight[-2:] = 0.0
        mdrnn.head.bias[-2:] = torch.tensor([0.5, 5 / mdrnn.value_scale])
    episodes = [episode(40, seed)._replace(rewards=torch.ones(40)) for seed in range(2)]
    climber = Climber(mdrnn, shape, car(), temperature=1.0, horizon=10)
    population = np.zeros((2, shape.size), np.float32)
    promise = climber.promise(population, episodes, torch.Generator().manual_seed(0))
    assert promise is not None
    assert promise == pytest.approx({"dreamed": 5.0, "real": 10.0, "promised": 10.0, "paid": 20.0})
    assert climber.promise(population, [episode(10, 0)] * 2, torch.Generator().manual_seed(0)) is None
    mdrnn.look_ahead(0.9, 20.0)
    with torch.no_grad():
        mdrnn.head.bias[-1] = 5 / mdrnn.value_scale
    promise = climber.promise(population, episodes, torch.Generator().manual_seed(0))
    assert promise is not None

    def ten(reward: float, after: float) -> tuple[float, float]:
        kept = np.exp(-reward / 20)
        return reward * (1 - kept**10) / (1 - kept), kept**10 * after

    dreamed, real = ten(0.5, 5.0), ten(1.0, 1 / (1 - 0.9 * np.exp(-1 / 20)))
    wanted = {"dreamed": dreamed[0], "real": real[0], "promised": sum(dreamed), "paid": sum(real)}
    assert promise == pytest.approx(wanted, rel=1e-4)
