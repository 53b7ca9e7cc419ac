"""The space that evolution searches: all of C's weights, or those of a few principal directions of what C sees.

Shapes: P population, n parameters of C, s numbers searched, F features, D directions, O outputs, M samples.
"""

import numpy as np
import torch

from worldmodels import memory
from worldmodels.controller import Controller
from worldmodels.data.latents import stored_latents
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.runs.directory import RunDir

WHITENING_SAMPLE = 20_000  # features the principal directions are computed from


class Search:
    """Points of the search space (P, s) → parameter vectors of C (P, n)."""

    def __init__(self, controller: Controller, basis: np.ndarray | None = None, origin: np.ndarray | None = None):
        """`basis`: float64 (s, n), or None to search all the weights; `origin`: float64 (n,), where the search begins
        (None: at 0)."""
        self.basis, self.size = basis, controller.size if basis is None else len(basis)
        self.origin = origin

    def parameters(self, points: np.ndarray) -> np.ndarray:
        """float (P, s) or (s,) → float32 (P, n) or (n,)."""
        moved = points if self.basis is None else points @ self.basis
        return (moved if self.origin is None else self.origin + moved).astype(np.float32)


def whitened_directions(features: np.ndarray, directions: int, outputs: int) -> np.ndarray:
    """The linear map from a smaller search space to C's parameters.

    [z, h] is nearly one-dimensional: a few principal directions hold almost all of its variance. Searching weights
    of those directions, each scaled to unit variance, gives every coordinate the same say.

    Args:
        features: float (M, F), a sample of what C sees.
        directions: D ≤ F, how many principal directions to keep.
        outputs: O.

    Returns:
        float64 (O·(D + 1), n): a point x of the search space, O rows of D weights and then O biases of the centred
        features, is the parameter vector x @ basis.
    """
    mean = features.mean(axis=0)
    _, singular, rows = np.linalg.svd(features - mean, full_matrices=False)
    scale = singular[:directions] / np.sqrt(len(features))
    whitening = rows[:directions] / np.maximum(scale, 1e-6)[:, None]  # (D, F)
    width = features.shape[1]
    basis = np.zeros((outputs * (directions + 1), (width + 1) * outputs))
    for o in range(outputs):
        block = slice(o * directions, (o + 1) * directions)
        basis[block, o * width : (o + 1) * width] = whitening
        basis[block, outputs * width + o] = -whitening @ mean  # centre: w · (x − mean)
        basis[outputs * directions + o, outputs * width + o] = 1
    return basis


def basis_of(shape: Controller, run: RunDir, directions: int) -> np.ndarray:
    """The principal directions of what C sees in M's episodes, as `whitened_directions` gives them."""
    sample = seen_by_c(shape, memory.load(run), run)
    most = min(shape.features, len(sample) - 1)
    if directions > most:
        raise UserError(f"--directions is {directions}: what C sees in M's episodes has {most} at most.")
    return whitened_directions(sample, directions, shape.outputs)


def seen_by_c(shape: Controller, mdrnn: MDRNN, run: RunDir) -> np.ndarray:
    """A sample of what C sees, float64 (M, F): z and M's state over the episodes that M was trained on."""
    seen: list[torch.Tensor] = []
    for episode in stored_latents(run.latents, run.trained("vae")):
        state, z = mdrnn.initial_state(1), episode.mean
        for t in range(len(episode.actions)):
            seen.append(shape.see(z[t : t + 1], state))
            with torch.no_grad():
                state = mdrnn.step(z[t : t + 1], episode.actions[t : t + 1], state)
        if len(seen) >= WHITENING_SAMPLE:
            break
    if not seen:
        raise UserError(f"{run.latents} holds no episodes as V sees them: run `worldmodels train-mdrnn` again first.")
    return torch.cat(seen).double().numpy()
