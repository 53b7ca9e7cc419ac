"""The dream: M as a world to act in (paper, section 4).

Shapes: N lanes (dreams side by side), T time, S starts, E episodes, Z latent, A action, H hidden.

`DreamStep` is the rule: one step of the dream as a module, on any device, for pictures, export and tests; many dreams
at once are in fast_dream.py, and the noise of all of them in dream_kernels.py.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from worldmodels import memory
from worldmodels.data.latents import Latents
from worldmodels.dream_kernels import noise
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint

# ----------------------------------------------------------------------------------------------- the rule


class DreamStep(nn.Module):
    """One step of the dream, M's whole say about the world."""

    def __init__(self, mdrnn: memory.MDRNN):
        super().__init__()
        self.mdrnn = mdrnn

    def forward(
        self,
        z: Tensor,
        action: Tensor,
        h: Tensor,
        c: Tensor,
        restart: Tensor,
        uniform: Tensor,
        normal: Tensor,
        temperature: float | Tensor,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            z: (N, Z) what is seen now.
            action: (N, A) what is done about it.
            h, c: (N, H) M's state before it reads them.
            restart: (N,), 1 where an episode begins; M without a restart input does not read it.
            uniform: (N, Z) in [0, 1).
            normal: (N, Z) standard normal.
            temperature: 0 is deterministic, 1 is M's own spread.
            mask: (N, H) of `MDRNN.dropout_mask`, one for the whole dream.

        Returns:
            The next z (N, Z), h and c (N, H), the step's reward (N,) (M's `step_reward` without a reward head), and
            whether the dream ends, bool (N,) (never without a terminal head).
        """
        h, c = self.mdrnn.step(z, action, (h, c), restart)
        prediction = self.mdrnn.predict(h, mask)
        z = memory.sample(prediction, temperature, uniform, normal)
        nothing = torch.zeros_like(z[:, 0])
        reward = nothing + self.mdrnn.step_reward if prediction.reward is None else prediction.reward
        end = (nothing if prediction.terminal is None else prediction.terminal) > memory.DEATH_LOGIT
        return z, h, c, reward, end


@torch.no_grad()
def continuation(mdrnn: memory.MDRNN, z: Tensor, actions: Tensor, warm_up: int, seed: int) -> Tensor:
    """What M imagines: it watches `warm_up` real steps, then goes on with its own z and the same actions.

    Args:
        mdrnn: M.
        z: (T, Z) the real sequence, of which M sees the first `warm_up` only.
        actions: (T, A).
        warm_up: at least one real z.
        seed: of the noise.

    Returns:
        (T, Z): the real z for the first `warm_up` steps, then the dream.
    """
    step, (h, c) = DreamStep(mdrnn), mdrnn.initial_state(1)
    dreamed = [z[:1]]
    for t in range(len(z) - 1):
        uniform, normal = (torch.from_numpy(x).to(z.device) for x in noise(np.array([seed]), np.array([t]), z.shape[1]))
        restart = z.new_full((1,), t == 0)
        imagined, h, c, _, _ = step(dreamed[-1], actions[t][None], h, c, restart, uniform, normal, 1.0)
        dreamed.append(z[t + 1][None] if t + 1 < warm_up else imagined)
    return torch.cat(dreamed)


# ------------------------------------------------------------------------------------------------- starts

BEST = "best.safetensors"  # M's checkpoint, beside its starts
FIRST_SHARE = 8  # every 8th start is the first state of an episode, as far as there are episodes


@dataclass(frozen=True)
class Starts:
    """The bank of real states from which dreams begin, S of them; all float32."""

    z: Tensor
    """(S, Z)"""
    h: Tensor
    """(S, H)"""
    c: Tensor
    """(S, H)"""
    restart: Tensor
    """(S,), 1 where an episode begins"""

    def first(self) -> "Starts":
        """Those with which episodes begin (all where none does)."""
        chosen = self.restart > 0
        return self.some(chosen) if chosen.any() else self

    def some(self, which: slice | Tensor) -> "Starts":
        """Those of a slice or of a mask bool (S,)."""
        return Starts(*(x[which] for x in vars(self).values()))

    def arrays(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """z, h, c and restart of the starts number `which` int64 (n,), as `Dreams.begin` takes them."""
        z, h, c, restart = (x.numpy()[which] for x in vars(self).values())
        return z, h, c, restart

    def save(self, path: Path) -> None:
        """Write the bank to `path` (safetensors), beside the M whose states they are."""
        checkpoint.save(path, vars(self), {"starts": len(self.z), "mdrnn": checkpoint.digest(path.with_name(BEST))})

    @staticmethod
    def load(path: Path, mdrnn: memory.MDRNN) -> "Starts":
        """The bank of a run; UserError where there is none, it is empty, or it belongs to another M."""
        if not path.exists():
            raise UserError(
                f"There are no starts for dreams in {path.parent}: `worldmodels train-mdrnn` writes them, "
                'or dream from start="prior".'
            )
        tensors, meta = checkpoint.load(path)
        sizes = {"z": (mdrnn.z_size,), "h": (mdrnn.hidden_size,), "c": (mdrnn.hidden_size,), "restart": ()}
        fits = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()} == sizes
        own = checkpoint.digest(path.with_name(BEST))
        if not fits or meta.get("mdrnn", own) != own:  # earlier ones do not say
            raise UserError(
                f"{path} holds starts of another M than {BEST} there: the command that trains it makes new ones in its "
                "end, so run `worldmodels train-mdrnn` or `worldmodels train-in-dream` again."
            )
        if not len(tensors["z"]):
            raise UserError(f'{path} holds no start: run `worldmodels train-mdrnn` again, or dream from start="prior".')
        return Starts(**{name: tensor.float() for name, tensor in tensors.items()})


def bank(mdrnn: memory.MDRNN, episodes: list[Latents], count: int, seed: int) -> Starts:
    """`count` states drawn from the steps of `episodes`, as M (on the CPU) meets them: sampled z, and its h and c."""
    draw = np.random.default_rng([seed, len(episodes)])
    lengths = np.array([len(episode.actions) for episode in episodes])
    owner = draw.choice(len(episodes), size=count, p=lengths / lengths.sum())
    step = draw.integers(lengths[owner])
    step[::FIRST_SHARE] = 0
    return states(mdrnn, episodes, owner, step)


@torch.no_grad()
def states(mdrnn: memory.MDRNN, episodes: list[Latents], owner: np.ndarray, step: np.ndarray) -> Starts:
    """The states before step `step[s]` of the episode `owner[s]`, int64 (S,) each, as M (on the CPU) meets them."""
    used, row = np.unique(owner, return_inverse=True)
    count = len(step)
    actions = pad_sequence([episodes[i].actions for i in used])  # (T, E, A)
    z = pad_sequence([sampled(episodes[i], int(i)) for i in used])  # (T + 1, E, Z)
    state = mdrnn.initial_state(len(used))
    h, c = torch.empty(count, mdrnn.hidden_size), torch.empty(count, mdrnn.hidden_size)
    for t in range(step.max() + 1):
        now = torch.from_numpy(np.flatnonzero(step == t))
        h[now], c[now] = state[0][row[now]], state[1][row[now]]
        state = mdrnn.step(z[t], actions[t], state, torch.full((len(used),), float(t == 0)))
    return Starts(z[step, row], h, c, torch.from_numpy(step == 0).float())


def sampled(episode: Latents, key: int) -> Tensor:
    """The z of an episode (T + 1, Z) as M is trained on them: samples of V's posterior, with the noise of `key`."""
    steps = np.arange(len(episode.mean))
    _, normal = noise(np.full(len(steps), key), steps, episode.mean.shape[1])
    return episode.mean + torch.exp(0.5 * episode.logvar) * torch.from_numpy(normal)
