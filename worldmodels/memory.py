"""M: the mixture density recurrent network that predicts the next z and keeps h (paper, appendix A.2).

Shapes: B batch, T time, Z latent, A action, H hidden, K mixtures.

An LSTM reads [z, a]; a linear head turns its hidden state h into a mixture of K Gaussians for the next z: one
mixture for each number of z (the paper), or one over the whole of z (`shared`, the seed's port).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir

LOG_SIGMA_RANGE = (-6.0, 4.0)  # an unbounded log-sigma has driven the likelihood to 1e22
State = tuple[Tensor, Tensor]  # (h, c), each (B, H)


class Prediction(NamedTuple):
    """What M says about the next step; leading axes are (B, T) or (B,)."""

    logits: Tensor
    """(…, Z, K) of the mixtures' weights; (…, 1, K) when one mixture is shared by the whole of z"""
    mean: Tensor
    """(…, Z, K)"""
    log_sigma: Tensor
    """(…, Z, K)"""
    reward: Tensor | None
    """(…,)"""
    terminal: Tensor | None
    """(…,) logit of the episode's end"""


class MDRNN(nn.Module):
    """The mixture density recurrent network: 422,368 parameters as in the paper (Z 32, A 3, H 256, K 5).

    The paper's LSTM has one bias vector: PyTorch's second one is held at zero. The seed's port (`mixture="shared"`,
    reward and terminal heads) keeps both: 384,071 parameters.
    """

    def __init__(
        self,
        z_size: int = 32,
        action_size: int = 3,
        hidden_size: int = 256,
        gaussians: int = 5,
        mixture: str = "dimension",
        include_reward: bool = False,
        include_terminal: bool = False,
    ):
        super().__init__()
        self.z_size, self.action_size, self.hidden_size, self.gaussians = z_size, action_size, hidden_size, gaussians
        self.logit_rows = z_size if mixture == "dimension" else 1
        self.include_reward, self.include_terminal = include_reward, include_terminal
        self.use_bfloat16 = False  # arithmetic of the LSTM in `forward`; the mixture is always float32
        self.lstm = nn.LSTM(z_size + action_size, hidden_size, batch_first=True)
        if mixture == "dimension":
            second_bias = self.lstm.get_parameter("bias_hh_l0")
            nn.init.zeros_(second_bias).requires_grad_(False)
        mixture_size = (self.logit_rows + 2 * z_size) * gaussians
        self.head = nn.Linear(hidden_size, mixture_size + include_reward + include_terminal)

    def forward(self, z: Tensor, action: Tensor, state: State | None = None) -> tuple[Prediction, Tensor]:
        """Sequences z (B, T, Z) and action (B, T, A) → predictions of z one step later, and h (B, T, H)."""
        packed = None if state is None else (state[0][None], state[1][None])
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.use_bfloat16):
            h, _ = self.lstm(torch.cat([z, action], dim=-1), packed)
        h = h.to(self.head.weight.dtype)
        return self.predict(h), h

    def predict(self, h: Tensor) -> Prediction:
        """h (…, H) → the mixture of the next z."""
        out = self.head(h)
        sizes = [self.logit_rows * self.gaussians, self.z_size * self.gaussians, self.z_size * self.gaussians]
        logits, mean, log_sigma, rest = out.split([*sizes, out.shape[-1] - sum(sizes)], dim=-1)
        grid = (*h.shape[:-1], -1, self.gaussians)
        return Prediction(
            logits.reshape(grid),
            mean.reshape(grid),
            log_sigma.reshape(grid).clamp(*LOG_SIGMA_RANGE),
            rest[..., 0] if self.include_reward else None,
            rest[..., -1] if self.include_terminal else None,
        )

    def step(self, z: Tensor, action: Tensor, state: State) -> State:
        """One step of the LSTM alone: z (B, Z), action (B, A), state → the next state. C needs no more of M."""
        weights = [getattr(self.lstm, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        return torch.lstm_cell(torch.cat([z, action], dim=-1), state, *weights)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def initial_state(self, batch: int) -> State:
        """Zeros (B, H), twice: the state at the start of an episode."""
        zeros = self.head.weight.new_zeros(batch, self.hidden_size)
        return zeros, zeros.clone()


def mixture_nll(prediction: Prediction, z: Tensor) -> Tensor:
    """Negative log-likelihood of z (…, Z) in nats, averaged over the Z numbers: (…,).

    One formula serves both mixtures: a shared mixture adds up its dimensions inside each Gaussian, the paper's
    after mixing.
    """
    scaled = (z[..., None] - prediction.mean) * torch.exp(-prediction.log_sigma)
    log_normal = -0.5 * scaled.square() - prediction.log_sigma - 0.5 * np.log(2 * np.pi)  # (…, Z, K)
    if prediction.logits.shape[-2] != z.shape[-1]:
        log_normal = log_normal.sum(dim=-2, keepdim=True)  # (…, 1, K)
    weighted = torch.logsumexp(prediction.logits + log_normal, dim=-1)  # (…, Z or 1)
    return (torch.logsumexp(prediction.logits, dim=-1) - weighted).sum(dim=-1) / z.shape[-1]


def mdrnn_loss(
    prediction: Prediction, z: Tensor, reward: Tensor, terminal: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """NLL of the next z, plus squared error of the reward and cross-entropy of the end where M predicts them.

    Args:
        prediction: of the next step, leading axes (B, T).
        z: (B, T, Z) the next z.
        reward: (B, T).
        terminal: (B, T), 0 or 1.
        mask: (B, T), 1 where the step exists: shorter episodes are padded.

    Returns:
        The loss, a scalar mean over existing steps (NLL in nats a latent dimension; each head weighs as one
        dimension more), and its parts without a graph.
    """
    steps = mask.sum().clamp(min=1)
    nll = (mixture_nll(prediction, z) * mask).sum() / steps
    loss, metrics = nll, {"nll": nll.detach()}
    if prediction.reward is not None:
        error = ((prediction.reward - reward).square() * mask).sum() / steps
        loss, metrics["reward"] = loss + error / z.shape[-1], error.detach()
    if prediction.terminal is not None:
        entropy = F.binary_cross_entropy_with_logits(prediction.terminal, terminal, reduction="none")
        entropy = (entropy * mask).sum() / steps
        loss, metrics["terminal"] = loss + entropy / z.shape[-1], entropy.detach()
    return loss, {"loss": loss.detach(), **metrics}


def sample(prediction: Prediction, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw the next z (…, Z): logits are divided by the temperature, sigma multiplied by its square root (paper).

    Temperature 0 takes the mean of the likeliest Gaussian.
    """
    logits, mean, log_sigma = prediction.logits, prediction.mean, prediction.log_sigma
    if temperature > 0:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        logits = logits / temperature - torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))  # Gumbel's trick
    chosen = logits.argmax(dim=-1, keepdim=True).expand(*mean.shape[:-1], 1)  # (…, Z, 1)
    z = mean.gather(-1, chosen)[..., 0]
    if temperature == 0:
        return z
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    return z + temperature**0.5 * torch.exp(log_sigma.gather(-1, chosen)[..., 0]) * noise


@torch.no_grad()
def dream(memory: MDRNN, z: Tensor, actions: Tensor, warm_up: int, temperature: float = 1.0, seed: int = 0) -> Tensor:
    """What M imagines: it watches `warm_up` real steps, then goes on with its own z and the same actions.

    Args:
        memory: M.
        z: (T, Z) the real sequence, of which M sees the first `warm_up` only.
        actions: (T, A).
        warm_up: at least one real z.
        temperature: how adventurous the dream is.
        seed: of the samples.

    Returns:
        (T, Z): the real z for the first `warm_up` steps, then the dream.
    """
    generator = torch.Generator(device=z.device).manual_seed(seed)
    state = memory.initial_state(1)
    dreamed = [z[0]]
    for t in range(len(z) - 1):
        state = memory.step(dreamed[-1][None], actions[t][None], state)
        imagined = sample(memory.predict(state[0]), temperature, generator)[0]
        dreamed.append(z[t + 1] if t + 1 < warm_up else imagined)
    return torch.stack(dreamed)


def load(logdir: str | Path | RunDir, device: torch.device | str = "cpu") -> MDRNN:
    """The best M of a run, ready to act.

    Raises:
        UserError: there is none, or the file is damaged or of another architecture.
    """
    path = RunDir.of(logdir).trained("mdrnn")
    tensors, meta = checkpoint.load(path)
    return build(path, tensors, meta).to(device).eval()


def build(path: object, tensors: dict[str, Tensor], meta: dict) -> MDRNN:
    """M rebuilt from a checkpoint's content; UserError when the file holds something else."""
    try:
        memory = MDRNN(**meta["mdrnn"])
        memory.load_state_dict(checkpoint.unpack("mdrnn", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no M of this version: train it again with --noreload.") from error
    return memory.requires_grad_(False)
