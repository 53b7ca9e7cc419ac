"""V, M and C as the page multiplies them: matrices in 16-bit floats, one safetensors file for each part of the page.

Shapes: Z latent, A action, H hidden, F features of C, O outputs of C, K kernel size, C channels in, D channels out.

The page has one operation, rows times a matrix added to rows that may overlap (static/kernel.js). Pictures are
(line, pixel, channel), so that a line of a kernel meets a line of the picture as one dense matrix:

- a convolution is K matrices (K · C, D), one for each line of its kernel;
- a transposed convolution is K matrices (C, K · D);
- V's `dense` has no activation: with `deconv1` it is ONE linear map from z to 5 · 5 · 128 numbers, which saves
  3.2 million of the decoder's 3.6 million weights.
"""

import torch
from safetensors import torch as safetensors
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.envs.actions import Box
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.vision import VAE

Tensors = dict[str, Tensor]
PANEL = 8  # columns that the page's kernel works on at once


def decoder(vae: VAE) -> Tensors:
    """z → the picture. The last layer has a fourth channel of zeros, the opacity of a canvas."""
    weights = {name: tensor.double() for name, tensor in vae.state_dict().items()}
    kernel = weights["deconv1.weight"].permute(0, 2, 3, 1).flatten(1)  # (1024, 5 · 5 · 128)
    tensors = {
        "decoder.0.weight": (weights["dense.weight"].T @ kernel)[None],  # (1, Z, 5 · 5 · 128)
        "decoder.0.bias": weights["dense.bias"] @ kernel + weights["deconv1.bias"].repeat(25),
    }
    for index in (1, 2, 3):
        weight, bias = weights[f"deconv{index + 1}.weight"], weights[f"deconv{index + 1}.bias"]  # (C, D, K, K)
        if index == 3:
            weight, bias = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, 1)), torch.nn.functional.pad(bias, (0, 1))
        tensors[f"decoder.{index}.weight"] = weight.permute(2, 0, 3, 1).flatten(2)  # (K, C, K · D)
        tensors[f"decoder.{index}.bias"] = bias
    return tensors


def encoder(vae: VAE) -> Tensors:
    """The picture → z's mean; the page needs no variance."""
    weights = {name: tensor.double() for name, tensor in vae.state_dict().items()}
    tensors = {}
    for index in range(4):
        weight = weights[f"conv{index + 1}.weight"]  # (D, C, K, K)
        tensors[f"encoder.{index}.weight"] = weight.permute(2, 3, 1, 0).flatten(1, 2)  # (K, K · C, D)
        tensors[f"encoder.{index}.bias"] = weights[f"conv{index + 1}.bias"]
    mean = weights["mean.weight"].reshape(-1, 256, 2, 2)  # (Z, C, line, pixel): as `posterior` flattens
    tensors["encoder.4.weight"] = mean.permute(2, 3, 1, 0).reshape(1, 1024, -1)
    tensors["encoder.4.bias"] = weights["mean.bias"]
    return tensors


def memory(mdrnn: MDRNN) -> Tensors:
    """[z, action, h] → the LSTM's gates, and h → mixture, reward and end."""
    weights = {name: tensor.double() for name, tensor in mdrnn.state_dict().items()}
    both = torch.cat([weights["lstm.weight_ih_l0"], weights["lstm.weight_hh_l0"]], dim=1)  # (4 H, Z + A + H)
    if mdrnn.include_reward:
        row = (mdrnn.logit_rows + 2 * mdrnn.z_size) * mdrnn.gaussians
        weights["head.weight"][row] *= mdrnn.reward_scale
        weights["head.bias"][row] *= mdrnn.reward_scale
    return {
        "memory.0.weight": both.T[None],
        "memory.0.bias": weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"],
        "memory.1.weight": weights["head.weight"].T[None],
        "memory.1.bias": weights["head.bias"],
    }


def controller(agent: Agent) -> Tensors:
    """What C sees → its raw outputs: one layer, or two with tanh between."""
    shape, flat = agent.controller, agent.population[0].double()
    layers = [(shape.hidden, True), (shape.outputs, True)] if shape.hidden else [(shape.outputs, shape.bias)]
    tensors: Tensors = {}
    width = shape.features
    for index, (size, has_bias) in enumerate(layers):
        weight, flat = flat[: size * width].reshape(size, width), flat[size * width :]
        bias, flat = (flat[:size], flat[size:]) if has_bias else (weight.new_zeros(size), flat)
        tensors |= {f"controller.{index}.weight": weight.T[None], f"controller.{index}.bias": bias}
        width = size
    return tensors


def pack(tensors: Tensors) -> bytes:
    """The tensors as a safetensors file of 16-bit floats, matrices in panels.

    Raises:
        UserError: a number is none, or too large for 16 bits.
    """
    halves = {
        name: (in_panels(tensor) if tensor.dim() == 3 else tensor).half().contiguous()
        for name, tensor in tensors.items()
    }
    for name, tensor in halves.items():
        if not torch.isfinite(tensor).all():
            letter = {"controller": "C", "memory": "M"}.get(name.partition(".")[0], "V")
            raise UserError(f"{letter} holds numbers that are none, or too large: train it again with --noreload.")
    return safetensors.save(halves)


def in_panels(matrices: Tensor) -> Tensor:
    """Matrices (K, depth, columns) as the kernel reads them: (K, columns / 8, depth, 8), zeros where columns lack."""
    count, depth, columns = matrices.shape
    padded = torch.nn.functional.pad(matrices, (0, -columns % PANEL))
    return padded.reshape(count, depth, -1, PANEL).permute(0, 2, 1, 3)


def sizes(agent: Agent) -> dict[str, object]:
    """What the page cannot read off the weights."""
    memory, actions = agent.memory, agent.actions
    bounds = {"low": actions.low.tolist(), "high": actions.high.tolist()} if isinstance(actions, Box) else {}
    return {
        "action": {"kind": actions.name, "size": actions.size, **bounds},
        "inputs": agent.controller.inputs,
        "gaussians": memory.gaussians,
        "mixtures": memory.logit_rows,
        "reward": memory.include_reward,
        "terminal": memory.include_terminal,
        "parameters": {
            "V": sum(p.numel() for p in agent.encoder.vae.parameters()),
            "M": sum(p.numel() for p in memory.parameters() if p.any()),  # the paper's LSTM has no second bias
            "C": agent.population.shape[1],
        },
    }
