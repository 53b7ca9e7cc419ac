"""M against the paper's parameter counts and torch.distributions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from worldmodels.memory import MDRNN, Prediction, dream, mdrnn_loss, mixture_nll, sample


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_paper_s_parameter_count() -> None:
    assert trainable(MDRNN()) == 422_368


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
    for temperature in (1.0, 0.5):
        p = Prediction(logits.expand(n, rows, 5), mean.expand(n, 2, 5), log_sigma.expand(n, 2, 5), None, None)
        z = sample(p, temperature, torch.Generator().manual_seed(1))
        weights = Categorical(logits=(logits / temperature).expand(2, 5))
        reference = MixtureSameFamily(weights, Normal(mean, log_sigma.exp() * temperature**0.5))
        np.testing.assert_allclose(z.mean(0), reference.mean, atol=0.02)
        np.testing.assert_allclose(z.var(0), reference.variance, rtol=0.02)


def test_temperature_zero_is_the_likeliest_mean() -> None:
    logits, mean = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[5.0, 7.0, 9.0]])
    assert sample(Prediction(logits, mean, torch.zeros(1, 3), None, None), 0.0).item() == 7.0


def test_a_dream_starts_with_the_real_sequence_and_is_reproducible() -> None:
    torch.manual_seed(0)
    memory, z, a = MDRNN(), torch.randn(12, 32), torch.randn(12, 3)
    first, again = dream(memory, z, a, warm_up=4), dream(memory, z, a, warm_up=4)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first[:4], z[:4], rtol=0, atol=0)
    assert not torch.equal(first[4:], z[4:])
