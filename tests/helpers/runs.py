"""Runs without training: V, M and C of random weights that fit together."""

from pathlib import Path

import numpy as np
import torch

from worldmodels import memory, quantized, vision
from worldmodels.controller import Controller, save
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir

Z, H = 4, 8


def save_agent(logdir: Path, actions: int, seed: int = 1, env: str = "CarRacing-v3") -> Path:
    """A run directory with an untrained V, M and C that fit together, and that act on what they see."""
    torch.manual_seed(seed)
    vae, mdrnn = vision.VAE(Z), memory.MDRNN(Z, actions, H)
    with torch.no_grad():
        vae.mean.weight.mul_(100)  # a fresh V hardly tells two frames apart, nor two z
        vae.dense.weight.mul_(100)
        mdrnn.head.weight.mul_(10)
    noise = np.random.default_rng(seed).integers(256, size=(64, 64, 64, 3), dtype=np.uint8)
    largest = {quantized.KEY: quantized.largest_activations(vae, noise)}
    shape = {"z_size": Z, "action_size": actions, "hidden_size": H}
    for name, model, settings in (("vae", vae, {"z_size": Z}), ("mdrnn", mdrnn, shape)):
        tensors = checkpoint.pack(name, model.state_dict()) | (largest if name == "vae" else {})
        checkpoint.save(logdir / name / "best.safetensors", tensors, {name: settings})
    controller = Controller(Z, H, actions)
    parameters = torch.randn(controller.size).numpy().astype(np.float32)
    save(RunDir(logdir), controller, parameters, {"agent": {"sample_z": False, "seed": 0}, "env": env})
    return logdir
