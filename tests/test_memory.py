"""M against the paper's parameter counts and torch.distributions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from worldmodels import pretrained
from worldmodels.memory import MDRNN, Prediction, build, mdrnn_loss, mixture_nll, sample
from worldmodels.runs import checkpoint


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_paper_s_parameter_count() -> None:
    assert trainable(MDRNN()) == 422_368


def test_take_cover_s_parameter_count() -> None:
    memory = MDRNN(z_size=64, action_size=1, hidden_size=512, include_restart=True, include_terminal=True)
    assert trainable(memory) == 1_678_785


def test_the_seed_s_parameter_count() -> None:
    assert trainable(MDRNN(mixture="shared", include_reward=True, include_terminal=True)) == 384_071


@pytest.mark.parametrize("mixture", ["dimension", "shared"])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 6), (4, 1), (3, 5)])
def test_nll_agrees_with_torch_distributions(mixture: str, batch: int, time: int) -> None:
    torch.manual_seed(batch * 10 + time)
    memory = MDRNN(z_size=8, mixture=mixture).double()
    prediction, _ = memory(torch.randn(batch, time, 8).double(), torch.randn(batch, time, 3).double())
    z = torch.randn(batch, time, 8).double()
    sigma = prediction.log_sigma.exp()
    if mixture == "dimension":
        reference = MixtureSameFamily(Categorical(logits=prediction.logits), Normal(prediction.mean, sigma))
        expected = -reference.log_prob(z).sum(dim=-1) / 8
    else:
        gaussians = Independent(Normal(prediction.mean.transpose(-1, -2), sigma.transpose(-1, -2)), 1)
        reference = MixtureSameFamily(Categorical(logits=prediction.logits[..., 0, :]), gaussians)
        expected = -reference.log_prob(z) / 8
    torch.testing.assert_close(mixture_nll(prediction, z), expected, rtol=0, atol=1e-5)


def test_log_sigma_is_bounded() -> None:
    memory = MDRNN()
    with torch.no_grad():
        memory.head.bias.fill_(1e6)
    prediction, _ = memory(torch.randn(1, 2, 32), torch.randn(1, 2, 3))
    assert prediction.log_sigma.abs().max() <= 6
    assert torch.isfinite(mixture_nll(prediction, torch.zeros(1, 2, 32))).all()


def test_masked_steps_change_nothing() -> None:
    torch.manual_seed(0)
    memory = MDRNN(include_reward=True, include_terminal=True)
    z, a, r, d = torch.randn(2, 7, 32), torch.randn(2, 6, 3), torch.randn(2, 6), torch.zeros(2, 6)
    mask = torch.ones(2, 6)
    mask[1, 4:] = 0
    whole, _ = mdrnn_loss(memory(z[:, :-1], a)[0], z[:, 1:], r, d, mask)
    z[1, 5:], a[1, 4:], r[1, 4:], d[1, 4:] = 99.0, 99.0, 99.0, 1.0
    poisoned, _ = mdrnn_loss(memory(z[:, :-1], a)[0], z[:, 1:], r, d, mask)
    torch.testing.assert_close(whole, poisoned)


def test_one_step_is_the_sequence_step_by_step() -> None:
    torch.manual_seed(0)
    memory = MDRNN()
    z, a = torch.randn(3, 5, 32), torch.randn(3, 5, 3)
    _, h = memory(z, a)
    state = memory.initial_state(3)
    for t in range(5):
        state = memory.step(z[:, t], a[:, t], state)
        torch.testing.assert_close(state[0], h[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixture", ["dimension", "shared"])
def test_samples_have_the_mixture_s_moments(mixture: str) -> None:
    """Mean and variance of many samples against torch.distributions; temperature as in the paper."""
    torch.manual_seed(0)
    rows = 2 if mixture == "dimension" else 1
    logits, mean, log_sigma = torch.randn(rows, 5), torch.randn(2, 5), torch.randn(2, 5) * 0.3
    n = 200_000
    uniform, normal = torch.rand(n, 2), torch.randn(n, 2)
    for temperature in (1.0, 0.5):
        p = Prediction(logits.expand(n, rows, 5), mean.expand(n, 2, 5), log_sigma.expand(n, 2, 5), None, None)
        z = sample(p, temperature, uniform, normal)
        weights = Categorical(logits=(logits / temperature).expand(2, 5))
        reference = MixtureSameFamily(weights, Normal(mean, log_sigma.exp() * temperature**0.5))
        np.testing.assert_allclose(z.mean(0), reference.mean, atol=0.02)
        np.testing.assert_allclose(z.var(0), reference.variance, rtol=0.02)


def test_the_uniform_number_chooses_the_gaussian_by_its_share() -> None:
    """The inverse distribution function: weights 0.2, 0.5, 0, 0.3 own [0, 0.2), [0.2, 0.7), nothing, [0.7, 1)."""
    logits = torch.tensor([0.2, 0.5, 0.0, 0.3]).log().expand(6, 1, 4)
    mean = torch.arange(4.0).expand(6, 1, 4)
    uniform = torch.tensor([0.0, 0.199, 0.201, 0.699, 0.701, 1 - 2**-24])[:, None]
    z = sample(Prediction(logits, mean, torch.full((6, 1, 4), -30.0), None, None), 1.0, uniform, torch.zeros(6, 1))
    assert z[:, 0].tolist() == [0, 0, 1, 1, 3, 3]


def test_one_gaussian_serves_the_whole_of_a_shared_mixture() -> None:
    logits, mean = torch.zeros(100, 1, 3), torch.arange(3.0).expand(100, 8, 3)
    z = sample(
        Prediction(logits, mean, torch.zeros(100, 8, 3), None, None), 1.0, torch.rand(100, 8), torch.zeros(100, 8)
    )
    assert (z == z[:, :1]).all() and z[:, 0].unique().tolist() == [0, 1, 2]


def test_temperature_zero_is_the_likeliest_mean_whatever_the_noise() -> None:
    logits, mean = torch.tensor([[0.0, 3.0, 3.0, 1.0]]), torch.tensor([[5.0, 7.0, 8.0, 9.0]])
    prediction = Prediction(logits, mean, torch.zeros(1, 4), None, None)
    assert sample(prediction, 0.0).item() == 7.0
    for uniform in (0.0, 0.5, 0.99):
        assert sample(prediction, 0.0, torch.tensor([uniform]), torch.tensor([2.0])).item() == 7.0


def test_deaths_weigh_ten_times_and_the_end_is_not_divided_by_z() -> None:
    torch.manual_seed(0)
    memory = MDRNN(include_reward=True, include_terminal=True, reward_scale=4.0)
    z, action, reward = torch.randn(2, 5, 32), torch.randn(2, 5, 3), torch.randn(2, 5) * 4
    terminal, mask = torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]), torch.tensor([[1.0] * 5, [1, 1, 1, 1, 0]])
    prediction, _ = memory(z, action)
    loss, metrics = mdrnn_loss(prediction, z, reward, terminal, mask, memory.reward_scale)
    dies = torch.sigmoid(prediction.terminal)
    entropy = -(10 * terminal * dies.log() + (1 - terminal) * (1 - dies).log())
    torch.testing.assert_close(metrics["terminal"], (entropy * mask).sum() / 9)
    error = (prediction.reward - reward) ** 2 / 16
    torch.testing.assert_close(metrics["reward"], (error * mask).sum() / 9)
    torch.testing.assert_close(loss, metrics["nll"] + metrics["reward"] / 32 + metrics["terminal"])


def test_the_loss_is_a_mean_over_the_steps_that_exist_and_holds_no_graph() -> None:
    """One step of five, which counts in full; none, which is no error."""
    torch.manual_seed(0)
    memory = MDRNN(4, 2, 8, include_reward=True, include_terminal=True, discount=0.5)
    z, action, reward = torch.randn(1, 5, 4), torch.randn(1, 5, 2), torch.randn(1, 5)
    value, terminal, mask = torch.randn(1, 5), torch.zeros(1, 5), torch.zeros(1, 5)
    prediction, _ = memory(z, action)
    loss, metrics = mdrnn_loss(prediction, z, reward, terminal, mask, value=value)
    assert loss == 0 and loss.requires_grad and not any(part.requires_grad for part in metrics.values())
    mask[0, 1] = 1
    loss, metrics = mdrnn_loss(prediction, z, reward, terminal, mask, value=value)
    torch.testing.assert_close(metrics["nll"], mixture_nll(prediction, z)[0, 1].detach())
    torch.testing.assert_close(metrics["value"], (prediction.value - value)[0, 1].detach() ** 2)
    mask[0, 3:] = 1
    three = mdrnn_loss(prediction, z, reward, terminal, mask)[1]["nll"]
    torch.testing.assert_close(three, mixture_nll(prediction, z)[0, [1, 3, 4]].mean().detach())
    torch.testing.assert_close(metrics["loss"], loss.detach())


def test_the_value_counts_in_full_by_its_own_scale_and_only_where_it_is_known() -> None:
    torch.manual_seed(0)
    memory = MDRNN(4, 2, 8, discount=0.75, reward_scale=2.0)
    assert memory.value_scale == 8.0
    z, value, mask = torch.randn(2, 3, 4), torch.randn(2, 3) * 8, torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    prediction, _ = memory(z, torch.randn(2, 3, 2))
    nothing = torch.zeros(2, 3)
    loss, metrics = mdrnn_loss(prediction, z, nothing, nothing, mask, 2.0, value, memory.value_scale)
    torch.testing.assert_close(metrics["value"], (((prediction.value - value) / 8) ** 2 * mask).sum().detach() / 4)
    torch.testing.assert_close(loss, metrics["nll"] + metrics["value"])
    assert mdrnn_loss(prediction, z, nothing, nothing, mask)[1].keys() == {"loss", "nll"}, "no value is known"
    plain, _ = MDRNN(4, 2, 8)(z, torch.randn(2, 3, 2))
    assert mdrnn_loss(plain, z, nothing, nothing, mask, value=value)[1].keys() == {"loss", "nll"}, "none is predicted"


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("value", [False, True])
def test_each_head_has_its_row(reward: bool, terminal: bool, value: bool) -> None:
    """Of [mixture, reward, end, value], as many as there are, in this order; reward and value in their units."""
    heads = [2.0] * reward + [3.0] * terminal + [5.0] * value
    memory = MDRNN(4, 2, 8, 3, include_reward=reward, include_terminal=terminal, discount=0.5 * value, reward_scale=10)
    with torch.no_grad():
        memory.head.weight.zero_()
        memory.head.bias.copy_(torch.tensor([*range(4 * 3), *range(100, 112), *[-9.0] * 6, *[9.0] * 6, *heads]))
    said = memory.predict(torch.zeros(2, 8))
    assert said.logits[0].tolist() == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(4)]
    assert (said.mean - said.logits == 100).all() and said.log_sigma[0].flatten().tolist() == [-6.0] * 6 + [4.0] * 6
    for number, expected in (
        (said.reward, 20.0 * reward),
        (said.terminal, 3.0 * terminal),
        (said.value, 100.0 * value),
    ):
        assert (number is None) == (not expected) and (number is None or number.tolist() == [expected] * 2)


def test_a_sequence_goes_on_from_a_state() -> None:
    torch.manual_seed(0)
    memory, z, action = MDRNN(4, 2, 8), torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    whole, h = memory(z, action)
    state = memory.initial_state(3)
    assert state[0].data_ptr() != state[1].data_ptr(), "written to one at a time"
    for t in range(2):
        state = memory.step(z[:, t], action[:, t], state)
    rest, later = memory(z[:, 2:], action[:, 2:], state)
    torch.testing.assert_close(later, h[:, 2:])
    torch.testing.assert_close(rest.mean, whole.mean[:, 2:])


def test_the_paper_s_lstm_has_one_bias_and_the_port_s_two() -> None:
    paper, port = (MDRNN(mixture=mixture).lstm.get_parameter("bias_hh_l0") for mixture in ("dimension", "shared"))
    assert not paper.any() and not paper.requires_grad and port.all() and port.requires_grad


def test_a_gaussian_of_no_weight_is_never_chosen() -> None:
    """Not even by the lowest number."""
    logits, mean = torch.tensor([[[-torch.inf, 0.0, -torch.inf]]]), torch.tensor([[[1.0, 2.0, 3.0]]])
    prediction = Prediction(logits, mean, torch.zeros(1, 1, 3), None, None)
    for uniform in (0.0, 1 - 2**-24):
        assert sample(prediction, 1.0, torch.tensor([[uniform]]), torch.zeros(1, 1)).item() == 2.0


def test_each_z_has_its_own_noise_and_each_row_of_a_shared_mixture_its_first_number() -> None:
    torch.manual_seed(0)
    mean, normal, uniform = torch.arange(12.0).reshape(1, 4, 3).expand(5, 4, 3), torch.randn(5, 4), torch.rand(5, 4)
    for rows in (4, 1):
        z = sample(
            Prediction(torch.zeros(5, rows, 3), mean, torch.full((5, 4, 3), 0.5), None, None), 0.25, uniform, normal
        )
        chosen = (uniform * 3).floor().long()[:, :rows].expand(5, 4)
        expected = mean.gather(-1, chosen[..., None])[..., 0] + 0.5 * np.exp(0.5) * normal
        torch.testing.assert_close(z, expected)


def test_what_pays() -> None:
    """A reward head, or steps that pay where M knows the end."""
    assert [
        MDRNN(4, 1, 8, include_reward=reward, include_terminal=terminal, step_reward=step).pays
        for reward, terminal, step in ((0, 0, 0.0), (1, 0, 0.0), (0, 1, 0.0), (0, 0, 1.0), (0, 1, 1.0))
    ] == [False, True, False, False, True]


def test_the_reward_is_predicted_in_the_environment_s_units() -> None:
    torch.manual_seed(0)
    memory, h = MDRNN(include_reward=True, reward_scale=1.0), torch.randn(4, 256)
    plain = memory.predict(h).reward
    memory.reward_scale = 50.0
    torch.testing.assert_close(memory.predict(h).reward, 50 * plain)


def test_what_came_after_is_learned_only_where_it_is_told() -> None:
    """Steps whose value is no number give the head of the value no gradient, and the mean is over the others."""
    torch.manual_seed(0)
    memory = MDRNN(z_size=4, hidden_size=8, discount=0.9)
    z, told = torch.randn(2, 5, 4), torch.randn(2, 5)
    known = told.index_fill(0, torch.tensor([1]), torch.nan)

    def loss(value: torch.Tensor, rows: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        prediction, _ = memory(z[rows], torch.zeros(2, 5, 3)[rows])
        mask = torch.ones(2, 5)[rows]
        return mdrnn_loss(prediction, z[rows], mask, mask, mask, 1.0, value[rows], memory.value_scale)

    _, half = loss(known, slice(0, 2))
    _, alone = loss(told, slice(0, 1))
    torch.testing.assert_close(half["value"], alone["value"])
    value, parts = loss(torch.full((2, 5), torch.nan), slice(0, 2))
    assert parts["value"] == 0 and value.isfinite()
    value.backward()
    assert memory.head.weight.grad is not None
    assert not memory.head.weight.grad[-1].any() and memory.head.weight.grad[:-1].any()


def test_looking_farther_ahead_keeps_a_steady_reward_s_value() -> None:
    memory = MDRNN(discount=0.9, reward_scale=2.0)
    h = torch.randn(3, 256)
    before = memory.predict(h).value
    memory.look_ahead(0.99)
    assert memory.discount == 0.99 and before is not None
    torch.testing.assert_close(memory.predict(h).value, before * 10)
    memory.look_ahead(0.99, supply=200.0)  # of which two are paid in every step
    torch.testing.assert_close(memory.predict(h).value, before * 5)


def test_m_reads_where_an_episode_begins() -> None:
    torch.manual_seed(0)
    memory, z, action = MDRNN(include_restart=True), torch.randn(2, 4, 32), torch.randn(2, 4, 3)
    begins = torch.zeros(2, 4)
    begins[1, 0] = 1
    _, h = memory(z, action, restart=begins)
    _, without = memory(z, action)
    assert torch.equal(h[0], without[0]) and not torch.isclose(h[1, 0], without[1, 0]).all()
    fresh, used = memory.initial_state(2), (h[:, 0], h[:, 0])
    for state, restart in ((fresh, torch.ones(2)), (used, torch.zeros(2))):
        said, guessed = memory.step(z[:, 1], action[:, 1], state, restart), memory.step(z[:, 1], action[:, 1], state)
        assert torch.equal(said[0], guessed[0]) and torch.equal(said[1], guessed[1])


def test_a_step_begins_an_episode_where_the_memory_is_empty() -> None:
    """h and c all zero, and nothing else; what is said of it counts more."""
    torch.manual_seed(0)
    mdrnn = MDRNN(4, 3, 8, include_restart=True)
    z, action, (h, c) = torch.randn(4, 4), torch.randn(4, 3), mdrnn.initial_state(4)
    h, c = h.clone(), c.clone()
    h[1, 3], c[2, 5], h[3], c[3] = 0.1, 0.1, 0.2, 0.2
    for ours, theirs in zip(
        mdrnn.step(z, action, (h, c)), mdrnn.step(z, action, (h, c), torch.tensor([1.0, 0, 0, 0])), strict=True
    ):
        assert torch.equal(ours, theirs)
    said = mdrnn.step(z, action, (h, c), torch.tensor([0.0, 1, 1, 1]))[0]
    assert not torch.isclose(said, mdrnn.step(z, action, (h, c))[0]).all(dim=1).any()


def test_a_dropout_mask_hides_its_share_of_h_from_the_head_alone() -> None:
    torch.manual_seed(0)
    memory, generator = MDRNN(dropout=0.25), torch.Generator().manual_seed(0)
    mask = memory.dropout_mask(400, generator)
    assert mask.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(memory.dropout_mask(400, torch.Generator().manual_seed(0)), mask), "the generator's alone"
    z, action = torch.randn(3, 4, 32), torch.randn(3, 4, 3)
    masked, h = memory(z, action, mask=mask[:3])
    plain, same = memory(z, action)
    assert torch.equal(h, same) and not torch.isclose(masked.mean, plain.mean).all()
    torch.testing.assert_close(masked.mean[1], memory.predict(h[1] * mask[1]).mean)
    assert MDRNN().dropout_mask(3, generator) is None


def test_an_m_of_before_the_new_settings_loads_and_acts_the_same() -> None:
    """The settings in its file name neither restart nor dropout nor actions."""
    path = pretrained.HERE / "carracing/mdrnn/best.safetensors"
    tensors, meta = checkpoint.load(path)
    old = ("z_size", "action_size", "hidden_size", "gaussians", "mixture")
    settings = {name: meta["mdrnn"][name] for name in old} | {"include_reward": False, "include_terminal": False}
    memory = build(path, tensors | old_head(tensors), {"mdrnn": settings})
    assert sum(p.numel() for p in memory.parameters()) - 1024 == 422_368
    h, c = memory.initial_state(1)
    weights = {name.removeprefix("mdrnn.lstm."): w.float() for name, w in tensors.items() if "lstm" in name}
    z, action = torch.randn(1, 32), torch.rand(1, 3)
    gates = torch.cat([z, action], 1) @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
    i, _, g, o = gates.chunk(4, dim=1)
    expected = o.sigmoid() * (i.sigmoid() * g.tanh()).tanh()
    torch.testing.assert_close(memory.step(z, action, (h, c))[0], expected)


def old_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mixture's rows of the head alone."""
    return {name: tensor[:480] for name, tensor in tensors.items() if "head" in name}
