"""M: the mixture density recurrent network that predicts the next z and keeps h (paper, appendix A.2).

Shapes: B batch, T time, Z latent, A action, H hidden, K mixtures.

An LSTM reads [z, a]; a linear head turns its hidden state h into a mixture of K Gaussians for the next z: one
mixture for each number of z (the paper), or one over the whole of z (`shared`, ctallec's port). With heads for the
reward and the episode's end it is a world to act in (dream.py), and with one for the value a short dream is enough.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir

LOG_SIGMA_RANGE = (-6.0, 4.0)  # an unbounded log-sigma has driven the likelihood to 1e22
END_WEIGHT = 10.0  # weight of the steps that end an episode in the loss of the end (doomrnn, `factor`)
DEATH_LOGIT = 0.0  # the dream ends above it (paper's code)
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
    """(…,) of the step, in the environment's units"""
    terminal: Tensor | None
    """(…,) logit of the episode's end; `END_WEIGHT` makes it cautious: minus log(END_WEIGHT) it is calibrated"""
    value: Tensor | None = None
    """(…,) what the steps after this one will pay, discounted, in the environment's units"""


class MDRNN(nn.Module):
    """The mixture density recurrent network: 422,368 parameters as in the paper (Z 32, A 3, H 256, K 5).

    The paper's Take Cover reads one number more, 1 where an episode begins, and predicts the end: 1,678,785 parameters
    (Z 64, A 1, H 512). The paper's LSTM has one bias vector: PyTorch's second one is held at zero. ctallec's port
    (`mixture="shared"`, reward and terminal heads) keeps both: 384,071 parameters.
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
        include_restart: bool = False,
        reward_scale: float = 1.0,
        dropout: float = 0.0,
        discount: float = 0.0,
        supply: float = 0.0,
        step_reward: float = 0.0,
        action_kind: str | None = None,
        action_bounds: tuple[list[float], list[float]] | None = None,
    ):
        """
        Args:
            z_size, action_size, hidden_size, gaussians: Z, A, H, K.
            mixture: "dimension" or "shared".
            include_reward, include_terminal: heads for the step's reward and the episode's end.
            include_restart: the LSTM also reads whether the episode begins at this step.
            reward_scale: the reward that counts as one in the loss.
            dropout: share of h that the head does not see, another one in each sequence (training) or dream.
            discount: a head for the value, the sum of later rewards, each step's worth so much of the one before; 0: no
                such head.
            supply: what an episode has to pay in all, about: `faded` says what of it is left; 0: without end.
            step_reward: what each step pays where that is all that is paid (Take Cover: 1); needs no head.
            action_kind: how actions are to be understood ("car", "box", "discrete", …); None: nobody said.
            action_bounds: lowest and highest values of a "box" action, A each.
        """
        super().__init__()
        self.z_size, self.action_size, self.hidden_size, self.gaussians = z_size, action_size, hidden_size, gaussians
        self.logit_rows = z_size if mixture == "dimension" else 1
        self.include_reward, self.include_terminal, self.include_restart = (
            include_reward, include_terminal, include_restart,
        )  # fmt: skip
        self.reward_scale, self.dropout, self.step_reward = reward_scale, dropout, step_reward
        self.look_ahead(discount, supply)
        self.action_kind, self.action_bounds = action_kind, action_bounds
        self.use_bfloat16 = False  # arithmetic of the LSTM in `forward`; the mixture is always float32
        self.lstm = nn.LSTM(z_size + action_size + include_restart, hidden_size, batch_first=True)
        if mixture == "dimension":
            second_bias = self.lstm.get_parameter("bias_hh_l0")
            nn.init.zeros_(second_bias).requires_grad_(False)
        mixture_size = (self.logit_rows + 2 * z_size) * gaussians
        self.head = nn.Linear(hidden_size, mixture_size + include_reward + include_terminal + bool(discount))

    def look_ahead(self, discount: float, supply: float = 0.0) -> None:
        """Let the value look so far. Its unit is a reward of one in every step to come: a head of another discount is
        right on the average."""
        self.discount, self.supply = discount, supply
        self.value_scale = self.reward_scale / (1 - discount + (self.reward_scale / supply if supply else 0.0))

    def faded(self, reward: Tensor) -> Tensor:
        """What later rewards are worth after one of this size (any shape): it was taken from the episode's supply."""
        return torch.exp(-reward.clamp(min=0) / self.supply) if self.supply else torch.ones_like(reward)

    def forward(
        self,
        z: Tensor,
        action: Tensor,
        state: State | None = None,
        restart: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Prediction, Tensor]:
        """Sequences → predictions of z one step later, and h (B, T, H).

        Args:
            z: (B, T, Z).
            action: (B, T, A).
            state: before the first step; None is zeros.
            restart: (B, T), 1 where an episode begins; only M with a restart input reads it, None is nowhere.
            mask: (B, H) of `dropout_mask`.
        """
        packed = None if state is None else (state[0][None], state[1][None])
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.use_bfloat16):
            h, _ = self.lstm(self.inputs(z, action, restart), packed)
        h = h.to(self.head.weight.dtype)
        return self.predict(h, None if mask is None else mask[:, None]), h

    def inputs(self, z: Tensor, action: Tensor, restart: Tensor | None) -> Tensor:
        """What the LSTM reads, (…, Z + A) or (…, Z + A + 1), of z (…, Z), action (…, A) and restart (…,)."""
        if not self.include_restart:
            return torch.cat([z, action], dim=-1)
        begins = z.new_zeros(z.shape[:-1]) if restart is None else restart.to(z.dtype)
        return torch.cat([z, action, begins[..., None]], dim=-1)

    def predict(self, h: Tensor, mask: Tensor | None = None) -> Prediction:
        """h (…, H) → the mixture of the next z; the head sees h · mask."""
        out = self.head(h if mask is None else h * mask)
        sizes = [self.logit_rows * self.gaussians, self.z_size * self.gaussians, self.z_size * self.gaussians]
        logits, mean, log_sigma, rest = out.split([*sizes, out.shape[-1] - sum(sizes)], dim=-1)
        grid = (*h.shape[:-1], -1, self.gaussians)
        return Prediction(
            logits.reshape(grid),
            mean.reshape(grid),
            log_sigma.reshape(grid).clamp(*LOG_SIGMA_RANGE),
            rest[..., 0] * self.reward_scale if self.include_reward else None,
            rest[..., int(self.include_reward)] if self.include_terminal else None,
            rest[..., -1] * self.value_scale if self.discount else None,
        )

    def step(self, z: Tensor, action: Tensor, state: State, restart: Tensor | None = None) -> State:
        """One step of the LSTM alone → the next state. C needs no more of M.

        Args:
            z: (B, Z).
            action: (B, A).
            state: before the step.
            restart: (B,), 1 where an episode begins; None: where h and c are zero, as `initial_state` makes them.
        """
        if self.include_restart and restart is None:
            restart = ~(state[0].any(dim=-1) | state[1].any(dim=-1))
        weights = [getattr(self.lstm, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        return torch.lstm_cell(self.inputs(z, action, restart), state, *weights)

    def dropout_mask(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """(B, H): 0 where the head is not to see h, 1 / (1 − dropout) elsewhere; None for M without dropout."""
        if not self.dropout:
            return None
        weight = self.head.weight
        kept = torch.rand(batch, self.hidden_size, generator=generator, device=weight.device) >= self.dropout
        return kept.to(weight.dtype) / (1 - self.dropout)

    @property
    def pays(self) -> bool:
        """Whether there is something to be earned in its dream: predicted rewards, or steps that may be the last."""
        return self.include_reward or bool(self.step_reward and self.include_terminal)

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
    prediction: Prediction,
    z: Tensor,
    reward: Tensor,
    terminal: Tensor,
    mask: Tensor,
    reward_scale: float = 1.0,
    value: Tensor | None = None,
    value_scale: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """NLL of the next z, plus squared errors of reward and value and cross-entropy of the end where M predicts them.

    Args:
        prediction: of the next step, leading axes (B, T).
        z: (B, T, Z) the next z.
        reward: (B, T).
        terminal: (B, T), 0 or 1.
        mask: (B, T), 1 where the step exists: shorter episodes are padded.
        reward_scale: the reward that counts as one.
        value: (B, T) what came after the step, discounted (`worldmodels.data.latents.values`); NaN: nothing to learn.
        value_scale: the value that counts as one.

    Returns:
        The loss, a scalar mean over existing steps (NLL in nats a latent dimension; the scaled reward weighs as one
        dimension more; the scaled value in full; the end in full and its rare positives `END_WEIGHT` times, as
        published), and its parts without a graph.
    """
    steps = mask.sum().clamp(min=1)
    nll = (mixture_nll(prediction, z) * mask).sum() / steps
    loss, metrics = nll, {"nll": nll.detach()}
    if prediction.reward is not None:
        error = (((prediction.reward - reward) / reward_scale).square() * mask).sum() / steps
        loss, metrics["reward"] = loss + error / z.shape[-1], error.detach()
    if prediction.terminal is not None:
        weight = torch.full_like(terminal, END_WEIGHT)
        entropy = F.binary_cross_entropy_with_logits(prediction.terminal, terminal, reduction="none", pos_weight=weight)
        entropy = (entropy * mask).sum() / steps
        loss, metrics["terminal"] = loss + entropy, entropy.detach()
    if prediction.value is not None and value is not None:
        told = mask * value.isfinite()
        error = ((prediction.value - value.nan_to_num()) / value_scale).square()
        error = (error * told).sum() / told.sum().clamp(min=1)
        loss, metrics["value"] = loss + error, error.detach()
    return loss, {"loss": loss.detach(), **metrics}


def loss_of(mdrnn: MDRNN, batch: tuple[Tensor, ...], noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor], float]:
    """M's loss on a `worldmodels.data.latents.Padded` of sequences, its parts, and the number of its steps."""
    mean, logvar, actions, rewards, terminals, mask, restart, values = (x.to(mdrnn.device) for x in batch)
    epsilon = torch.randn(mean.shape, generator=noise, device=mdrnn.device)
    z = mean + torch.exp(0.5 * logvar) * epsilon  # (B, L + 1, Z), sampled anew in every batch
    hidden = mdrnn.dropout_mask(len(z), noise) if mdrnn.training else None
    prediction, _ = mdrnn(z[:, :-1], actions, restart=restart, mask=hidden)
    loss, metrics = mdrnn_loss(
        prediction, z[:, 1:], rewards, terminals, mask, mdrnn.reward_scale, values, mdrnn.value_scale
    )
    return loss, metrics, float(mask.sum())


def sample(
    prediction: Prediction, temperature: float | Tensor, uniform: Tensor | None = None, normal: Tensor | None = None
) -> Tensor:
    """Draw the next z (…, Z): logits are divided by the temperature, sigma multiplied by its square root (paper).

    Args:
        prediction: of M.
        temperature: 0 takes the mean of the likeliest Gaussian and needs no noise.
        uniform: (…, Z) in [0, 1), chooses the Gaussian by the inverse of the weights' distribution function; a shared
            mixture uses the first of the Z.
        normal: (…, Z) standard normal.
    """
    logits, mean, log_sigma = prediction.logits, prediction.mean, prediction.log_sigma
    rows = logits.shape[-2]
    chosen = logits.argmax(dim=-1, keepdim=True)  # (…, rows, 1)
    if uniform is None or normal is None:
        return mean.gather(-1, chosen.expand(*mean.shape[:-1], 1))[..., 0]
    temperature = torch.as_tensor(temperature, dtype=mean.dtype, device=mean.device)
    likeliest = logits.amax(dim=-1, keepdim=True)
    weights = torch.softmax((logits - likeliest) / temperature.clamp(min=1e-6), dim=-1)  # (…, rows, K)
    below = weights.cumsum(dim=-1)[..., :-1]
    drawn = (uniform[..., :rows, None] >= below).sum(dim=-1, keepdim=True)  # (…, rows, 1)
    chosen = torch.where(temperature > 0, drawn, chosen).expand(*mean.shape[:-1], 1)
    sigma = temperature.sqrt() * torch.exp(log_sigma.gather(-1, chosen)[..., 0])
    return mean.gather(-1, chosen)[..., 0] + sigma * normal


def load(logdir: str | Path | RunDir, device: torch.device | str = "cpu") -> MDRNN:
    """The best M of a run, ready to act.

    Raises:
        UserError: there is none, or the file is damaged or of another architecture.
    """
    path = RunDir.of(logdir).trained("mdrnn")
    return build(path, *checkpoint.load(path)).to(device).eval()


def build(path: object, tensors: dict[str, Tensor], meta: dict[str, Any]) -> MDRNN:
    """M rebuilt from a checkpoint's content; UserError when the file holds something else."""
    try:
        memory = MDRNN(**meta["mdrnn"])
        memory.load_state_dict(checkpoint.unpack("mdrnn", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no M of this version: train it again with --noreload.") from error
    return memory.requires_grad_(False)
