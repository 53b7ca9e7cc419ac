"""C: the linear controller, a flat parameter vector that evolution can search (paper, section 2.3).

Shapes: P population, L lanes, F features ([z, h] or what C sees), O outputs.
"""

import numpy as np
import torch
from torch import Tensor


def feature_size(inputs: str, z_size: int, hidden_size: int) -> int:
    """F: 288 for [z, h] of the car, 1,088 for [z, c, h] of Take Cover."""
    return {"z": z_size, "zh": z_size + hidden_size, "zch": z_size + 2 * hidden_size}[inputs]


def features(inputs: str, z: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    """What C sees, (L, F): z (L, Z) with h, or with c and h, of M's state (h, c)."""
    h, c = state
    seen = {"z": (z,), "zh": (z, h), "zch": (z, c, h)}[inputs]
    return torch.cat(seen, dim=1)


def parameter_count(feature_size: int, outputs: int, bias: bool = True, hidden: int = 0) -> int:
    """867 for the car: 288 features × 3 outputs + 3; 1,088 for Take Cover, which has no bias.

    `hidden` tanh units between features and outputs (with biases) make it the paper's ablation of z alone.
    """
    if hidden:
        return parameter_count(feature_size, hidden) + parameter_count(hidden, outputs)
    return (feature_size + bias) * outputs


def outputs(parameters: Tensor, features: Tensor, size: int, hidden: int = 0) -> Tensor:
    """C's raw outputs (L, O) of one parameter vector a lane, all lanes in one batched product.

    Args:
        parameters: (L, n), row l drives lane l: O rows of F weights, then O biases where n leaves room for them;
            before them the same of the hidden layer, where there is one.
        features: (L, F).
        size: O.
        hidden: tanh units of the hidden layer.
    """
    lanes, width = features.shape
    if hidden:
        first = parameter_count(width, hidden)
        inside = torch.tanh(outputs(parameters[:, :first], features, hidden))
        return outputs(parameters[:, first:], inside, size)
    weights = parameters[:, : size * width].reshape(lanes, size, width)
    out = torch.bmm(weights, features[:, :, None])[:, :, 0]
    return out + parameters[:, size * width :] if parameters.shape[1] > size * width else out


def whitened_directions(features: np.ndarray, directions: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The linear map from a smaller search space to C's parameters.

    [z, h] is nearly one-dimensional: a few principal directions hold almost all of its variance. Searching weights
    of those directions, each scaled to unit variance, gives every coordinate the same say.

    Args:
        features: float (M, F), a sample of what C sees.
        directions: D ≤ F, how many principal directions to keep.
        outputs: O.

    Returns:
        `basis` float64 (O·(D + 1), n) and `scale` float64 (D,), the kept standard deviations: a point x of the
        search space, O rows of D weights and then O biases of the centred features, is the parameter vector x @ basis.
    """
    mean = features.mean(axis=0)
    _, singular, rows = np.linalg.svd(features - mean, full_matrices=False)
    scale = singular[:directions] / np.sqrt(len(features))
    whitening = rows[:directions] / np.maximum(scale, 1e-6)[:, None]  # (D, F)
    width, size = features.shape[1], outputs
    basis = np.zeros((size * (directions + 1), parameter_count(width, size)))
    for o in range(size):
        block = slice(o * directions, (o + 1) * directions)
        basis[block, o * width : (o + 1) * width] = whitening
        basis[block, size * width + o] = -whitening @ mean  # centre: w · (x − mean)
        basis[size * directions + o, size * width + o] = 1
    return basis, scale
