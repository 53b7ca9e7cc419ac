"""V, M and C as ONNX for other tools: four graphs that torch is not needed to run.

Shapes: B batch, Z latent, A action, H hidden, K mixtures, F features of C.

    encoder.onnx      frames float32 (B, 3, 64, 64) in [0, 1] → mean, logvar (B, Z)
    decoder.onnx      z (B, Z) → frames (B, 3, 64, 64)
    memory.onnx       z, action (B, A), h, c (B, H) → h, c, and the mixture of the next z: logits (B, Z or 1, K),
                      mean and log_sigma (B, Z, K); where M has these heads reward, terminal (a logit), value, each (B,)
                      (M that reads a restart has a fifth input `restart` (B,), 1 where an episode begins)
    controller.onnx   features (B, F): z, [z, h] or [z, c, h] → C's raw outputs; what they mean is in controller.json
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from worldmodels.agent import Agent
from worldmodels.envs import FRAME_SIZE
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.playground import weights
from worldmodels.playground.site import check_folder
from worldmodels.runs.files import replacing, write_json

OPSET = 20
SIGNED = "controller.json"  # what a folder of ours holds


class Encode(nn.Module):
    def __init__(self, agent: Agent):
        super().__init__()
        self.vae = agent.encoder.vae

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.posterior(frames)


class Decode(nn.Module):
    """V's decoder, its first two layers folded into one as the page has them."""

    def __init__(self, agent: Agent):
        super().__init__()
        vae = agent.encoder.vae
        folded = {name: nn.Parameter(tensor.float()) for name, tensor in weights.decoder(vae).items()}
        self.weight, self.bias = folded["decoder.0.weight"], folded["decoder.0.bias"]
        self.layers = nn.ModuleList([vae.deconv2, vae.deconv3, vae.deconv4])

    def forward(self, z: Tensor) -> Tensor:
        x = (z @ self.weight[0] + self.bias).reshape(-1, 5, 5, 128).permute(0, 3, 1, 2)
        for layer in self.layers:
            x = layer(torch.relu(x))
        return torch.sigmoid(x)


class Remember(nn.Module):
    """M's step, written out gate by gate: a fused LSTM cell has no ONNX."""

    def __init__(self, mdrnn: MDRNN):
        super().__init__()
        self.mdrnn = mdrnn

    def forward(self, z: Tensor, action: Tensor, h: Tensor, c: Tensor, *restart: Tensor) -> tuple[Tensor, ...]:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        of_input, of_state, bias, second_bias = (self.mdrnn.lstm.get_parameter(name) for name in names)
        gates = self.mdrnn.inputs(z, action, *(restart or (None,))) @ of_input.T + h @ of_state.T + bias + second_bias
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        prediction = self.mdrnn.predict(h)
        return (h, c, *(part for part in prediction if part is not None))


class Control(nn.Module):
    def __init__(self, agent: Agent):
        super().__init__()
        self.controller = agent.controller
        self.weights = nn.Parameter(agent.population[:1], requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.controller.act(self.weights.expand(features.shape[0], -1), features)


def write(agent: Agent, folder: Path) -> list[str]:
    """Write the four graphs and controller.json into a folder; returns the names of the files.

    Raises:
        UserError: the extra `export` is not installed, or `folder` is a file or holds other ones.
    """
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise UserError("--format onnx needs onnx and onnxscript: pip install 'worldmodels-pytorch[export]'.")
    check_folder(folder, SIGNED)
    mdrnn = agent.memory
    sizes = (mdrnn.z_size, mdrnn.action_size, mdrnn.hidden_size, mdrnn.hidden_size, agent.controller.features)
    z, action, h, c, features = (torch.zeros(2, size) for size in sizes)
    restart = {"restart": torch.zeros(2)} if mdrnn.include_restart else {}
    predicted = [name for name, part in mdrnn.predict(h)._asdict().items() if part is not None]
    graphs = {
        "encoder.onnx": (Encode(agent), {"frames": torch.zeros(2, 3, FRAME_SIZE, FRAME_SIZE)}, ["mean", "logvar"]),
        "decoder.onnx": (Decode(agent), {"z": z}, ["frames"]),
        "memory.onnx": (
            Remember(mdrnn),
            {"z": z, "action": action, "h": h, "c": c, **restart},
            ["next_h", "next_c", *predicted],
        ),
        "controller.onnx": (Control(agent), {"features": features}, ["outputs"]),
    }
    for name, (module, inputs, outputs) in graphs.items():
        write_graph(module.eval(), inputs, outputs, folder / name)
    write_json(folder / SIGNED, {name: weights.sizes(agent)[name] for name in ("inputs", "action")})
    return [*graphs, SIGNED]


def write_graph(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """One module as a graph whose first axis is free, the weights inside."""
    batch = torch.export.Dim("batch")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with replacing(path) as temporary, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter talks of its own future
        logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                module, tuple(inputs.values()), str(temporary), input_names=list(inputs), output_names=outputs,
                opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
            )  # fmt: skip
        finally:
            logger.setLevel(level)
