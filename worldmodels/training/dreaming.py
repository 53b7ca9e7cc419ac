"""C learns in the dream: it climbs M's own gradient, and is carried over when M has learned something new.

Shapes: D dreams side by side, S states, Z latent, H hidden, A action, O outputs, F features of C, n parameters of C,
P Cs.

A dream is short, and M's value of its last state stands for all that would come after it. Long dreams are where C finds
what M gets wrong (docs/dream.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodels import memory
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents, values
from worldmodels.dream import Starts, states
from worldmodels.envs import Actions
from worldmodels.memory import MDRNN

RIDGE = 2e-4  # of the least squares in `carry_over`, for features of a size around one
LONGEST = 200.0  # gradient of C's return, cut to this length
PROBES = 6  # states of an episode from which `promise` dreams


@dataclass(frozen=True)
class Climber:
    """A C whose dreams can be differentiated: M's parameters stay as they are."""

    mdrnn: MDRNN
    controller: Controller
    actions: Actions
    temperature: float
    horizon: int
    """Steps of a dream"""

    def dream(self, parameters: Tensor, starts: Starts, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Dream on from D starts, row d of `parameters` (D, n) at the wheel.

        Returns:
            The sum of the dream's rewards (D,) and the value of its last state (D,); what comes after M's end counts as
            much as M believes that the dream has not ended, and what is paid is taken from M's `supply`.
        """
        z, h, c, restart = starts.z, starts.h, starts.c, starts.restart
        hidden = self.mdrnn.dropout_mask(len(z), draw)
        alive, paid, value = torch.ones(len(z)), torch.zeros(len(z)), torch.zeros(len(z))
        for _ in range(self.horizon):
            action = straight(self.actions, self.controller.act(parameters, self.controller.see(z, (h, c))))
            h, c = self.mdrnn.step(z, action, (h, c), restart)
            prediction = self.mdrnn.predict(h, hidden)
            uniform, normal = torch.rand(z.shape, generator=draw), torch.randn(z.shape, generator=draw)
            z, restart = memory.sample(prediction, self.temperature, uniform, normal), torch.zeros_like(restart)
            assert prediction.value is not None
            reward = torch.full_like(paid, self.mdrnn.step_reward) if prediction.reward is None else prediction.reward
            paid = paid + alive * reward
            alive = alive * self.mdrnn.faded(reward)
            if prediction.terminal is not None:
                alive = alive * torch.sigmoid(-prediction.terminal)
            value = alive * prediction.value
        return paid, value

    def climb(
        self, parameters: np.ndarray, starts: Starts, dreams: int, rate: float, spread: float, draw: torch.Generator
    ) -> np.ndarray:
        """C's parameters (n,) after a step of Adam for every `dreams` starts.

        In each dream another candidate drives, its weights `spread` away from C's: what only just succeeds is not worth
        much among neighbours that fail.
        """
        weights = torch.tensor(parameters, dtype=torch.float32, requires_grad=True)
        optimizer = torch.optim.Adam([weights], rate)
        for first in range(0, len(starts.z), dreams):
            part = starts.some(slice(first, first + dreams))
            noise = torch.randn(len(part.z), len(weights), generator=draw)
            paid, value = self.dream(weights + spread * noise, part, draw)
            optimizer.zero_grad()
            (-(paid + value).mean()).backward()
            torch.nn.utils.clip_grad_norm_([weights], LONGEST)
            optimizer.step()
        return weights.detach().numpy().astype(np.float64)

    @torch.no_grad()
    def promise(
        self, population: np.ndarray, episodes: list[Latents], draw: torch.Generator
    ) -> dict[str, float] | None:
        """What the dream promises the candidates from states of their own episodes, and what they were then paid there.

        Candidate i drove episode i. None where no episode is longer than a dream.

        Returns:
            `dreamed` and `real`: rewards of a dream's steps, means; `promised` and `paid`: the same with what comes
            after, M's value and the discounted rest of the episode.
        """
        rng = np.random.default_rng(draw.initial_seed())
        probes = [
            (i, int(t))
            for i, episode in enumerate(episodes)
            if len(episode.actions) > self.horizon
            for t in rng.integers(len(episode.actions) - self.horizon, size=PROBES)
        ]
        if not probes:
            return None
        owner, step = (np.array(column) for column in zip(*probes, strict=True))
        parameters = torch.from_numpy(population[owner]).float()
        dreamed, value = self.dream(parameters, states(self.mdrnn, episodes, owner, step), draw)
        ends = self.mdrnn.include_terminal
        after = [values(episode, self.mdrnn.discount, ends, self.mdrnn.supply) for episode in episodes]
        rewards = torch.stack([episodes[i].rewards[t : t + self.horizon] for i, t in probes])
        left = self.mdrnn.faded(rewards).cumprod(dim=1)  # after each step
        real = rewards[:, 0] + (left[:, :-1] * rewards[:, 1:]).sum(dim=1)
        rest = left[:, -1] * torch.stack([after[i][t + self.horizon - 1] for i, t in probes])
        sums = {"dreamed": dreamed, "real": real, "promised": dreamed + value, "paid": real + rest}
        return {name: float(sum_.mean()) for name, sum_ in sums.items()}


def straight(actions: Actions, raw: Tensor) -> Tensor:
    """C's raw outputs (D, O) → action vectors (D, A), with the gradient of tanh.

    A brake that is off, or a choice, would have none (the straight-through estimator, Bengio et al. 2013). Its size is
    right but for a factor for each output, which Adam does not see.
    """
    soft = torch.tanh(raw)
    return soft + (torch.from_numpy(actions.squash(raw.detach().numpy())) - soft.detach())


def carry_over(
    controller: Controller, parameters: np.ndarray, before: MDRNN, after: MDRNN, episodes: list[Latents],
    seen_anew: list[Latents] | None = None,
) -> np.ndarray:  # fmt: skip
    """Parameters of Cs (P, n) for the h of M as it is `after` training: in the states of `episodes` each of them puts
    out what it did. Where V has changed too, `seen_anew` are the episodes as it sees them now.

    Training gives the numbers in z and h another meaning. Least squares, with a ridge toward the old weights.
    """
    old, new = seen_with(before, episodes), seen_with(after, seen_anew or episodes)  # (S, F + 1)
    count, size = len(parameters), controller.outputs * controller.features
    matrices, biases = parameters[:, :size], parameters[:, size:]
    weights = np.column_stack([matrices.reshape(-1, controller.features), biases.ravel()])  # (P · O, F + 1)
    rest = old @ weights.T - new @ weights.T
    weights += np.linalg.solve(new.T @ new + RIDGE * len(new) * np.eye(new.shape[1]), new.T @ rest).T
    return np.column_stack([weights[:, :-1].reshape(count, -1), weights[:, -1].reshape(count, -1)])


@torch.no_grad()
def seen_with(mdrnn: MDRNN, episodes: list[Latents]) -> np.ndarray:
    """What C sees in the steps of `episodes`, [z, h, 1], float64 (S, Z + H + 1)."""
    rows = []
    for episode in episodes:
        z, steps = episode.mean[:-1], len(episode.actions)
        restart = (torch.arange(steps) == 0).float()
        _, h = mdrnn(z[None], episode.actions[None], restart=restart[None])
        h = torch.cat([torch.zeros(1, mdrnn.hidden_size), h[0, :-1]])
        rows.append(torch.cat([z, h, torch.ones(steps, 1)], dim=1))
    return torch.cat(rows).double().numpy()
