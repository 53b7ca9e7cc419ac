"""C: the linear controller, weights that evolution can search (paper, section 2.3).

Shapes: P population, L lanes, Z latent, H hidden of M, F features ([z, h] or what C sees), O outputs, n parameters.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir

Inputs = Literal["z", "zh", "zch"]
"""What C sees: z alone, z and h (paper, CarRacing), or z, c and h (paper, Take Cover)."""


@dataclass(frozen=True)
class Controller:
    """The shape of C; its weights are a flat vector of `size` numbers, O rows of F weights and then O biases.

    867 numbers for the car (288 features × 3 outputs + 3), 1,088 for Take Cover (no bias). `hidden` tanh units, whose
    weights and biases come first, make it the paper's ablation of z alone.
    """

    z_size: int = 32
    hidden_size: int = 256
    """H, numbers in M's h."""
    outputs: int = 3
    inputs: Inputs = "zh"
    bias: bool = True
    hidden: int = 0
    """Units of C's own hidden layer; 0 is the paper's linear C."""

    @property
    def features(self) -> int:
        """F: 288 for [z, h] of the car, 1,088 for [z, c, h] of Take Cover."""
        return self.z_size + {"z": 0, "zh": 1, "zch": 2}[self.inputs] * self.hidden_size

    @property
    def size(self) -> int:
        """n, numbers in a parameter vector."""
        if self.hidden:
            return (self.features + 1) * self.hidden + (self.hidden + 1) * self.outputs
        return (self.features + self.bias) * self.outputs

    def see(self, z: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """What C sees, (L, F), of z (L, Z) and M's state (h, c)."""
        h, c = state
        return torch.cat({"z": (z,), "zh": (z, h), "zch": (z, c, h)}[self.inputs], dim=1)

    def act(self, parameters: Tensor, seen: Tensor) -> Tensor:
        """C's raw outputs (L, O) for features (L, F), all lanes in one batched product; row l of `parameters` (L, n)
        drives lane l."""
        if not self.hidden:
            return _layer(parameters, seen, self.outputs, self.bias)
        first = (self.features + 1) * self.hidden
        inside = torch.tanh(_layer(parameters[:, :first], seen, self.hidden, True))
        return _layer(parameters[:, first:], inside, self.outputs, True)


def save(run: RunDir, controller: Controller, parameters: np.ndarray, meta: dict[str, Any]) -> None:
    """Make `parameters` float32 (n,) the run's best C; `meta` (JSON-able) how an agent acts and where C is from."""
    tensors = {"parameters": torch.from_numpy(parameters)}
    checkpoint.save(run.ctrl / "best.safetensors", tensors, {"controller": asdict(controller), **meta})


def load(run: RunDir) -> tuple[Controller, np.ndarray, dict[str, Any]]:
    """The best C of a run: its shape, its parameters float32 (n,), and the rest of what `save` was given.

    Raises:
        UserError: there is none, or the file holds something else.
    """
    path = run.trained("ctrl")
    tensors, meta = checkpoint.load(path)
    try:
        settings = dict(meta["controller"])
        if "z_size" not in settings:  # version 0.1 kept sizes beside the weights of V and M, and the bias in C's length
            agent = {name: settings.pop(name) for name in ("sample_z", "seed")}
            sizes = checkpoint.load(run.trained("mdrnn"))[1]["mdrnn"]
            settings |= {"z_size": sizes["z_size"], "hidden_size": sizes["hidden_size"]}
            settings |= {"outputs": sizes["action_size"], "bias": settings["inputs"] != "zch"}
            meta = {**meta, "agent": agent}
        controller, parameters = Controller(**settings), tensors["parameters"].float().numpy()
        if parameters.shape != (controller.size,):
            raise ValueError(f"{parameters.shape} parameters for {controller}")
        return controller, parameters, meta
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no C of this version: train it again with --noreload.") from error


def _layer(parameters: Tensor, x: Tensor, size: int, bias: bool) -> Tensor:
    """One linear layer a lane: x (L, F) → (L, size); `parameters` (L, (F + bias) · size)."""
    lanes, width = x.shape
    weights = parameters[:, : size * width].reshape(lanes, size, width)
    out = torch.bmm(weights, x[:, :, None])[:, :, 0]
    return out + parameters[:, size * width :] if bias else out
