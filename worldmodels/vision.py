"""V: the variational auto-encoder that turns a frame into z (paper, appendix A.1).

Shapes: B batch, Z latent. Frames are uint8 (B, 64, 64, 3) outside this file; only here are they float32 in [0, 1].
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir


class VAE(nn.Module):
    """A convolutional VAE: 4,348,547 parameters with z of 32 numbers, 4,446,915 with 64."""

    def __init__(self, z_size: int = 32):
        super().__init__()
        self.z_size = z_size
        self.use_bfloat16 = False  # arithmetic of `forward` and `encode`; z moves by 0.002 of its spread
        self.conv1 = nn.Conv2d(3, 32, 4, stride=2)  # 64 → 31
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)  # 31 → 14
        self.conv3 = nn.Conv2d(64, 128, 4, stride=2)  # 14 → 6
        self.conv4 = nn.Conv2d(128, 256, 4, stride=2)  # 6 → 2
        self.mean = nn.Linear(1024, z_size)
        self.logvar = nn.Linear(1024, z_size)
        self.dense = nn.Linear(z_size, 1024)  # no activation: the paper's code has none
        self.deconv1 = nn.ConvTranspose2d(1024, 128, 5, stride=2)  # 1 → 5
        self.deconv2 = nn.ConvTranspose2d(128, 64, 5, stride=2)  # 5 → 13
        self.deconv3 = nn.ConvTranspose2d(64, 32, 6, stride=2)  # 13 → 30
        self.deconv4 = nn.ConvTranspose2d(32, 3, 6, stride=2)  # 30 → 64
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the convolutions' fast layout; uint8 frames are in it already

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 (B, 3, 64, 64) in [0, 1] → mean and log-variance of z, each (B, Z)."""
        x = F.relu(self.conv1(images))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x)).flatten(1)  # (B, 1024)
        return self.mean(x), self.logvar(x)

    def reconstruct(self, z: Tensor) -> Tensor:
        """z (B, Z) → images float32 (B, 3, 64, 64) in [0, 1]."""
        x = F.relu(self.first_deconvolution(self.dense(z)))  # (B, 128, 5, 5)
        x = F.relu(self.deconv2(x))
        x = F.relu(self.deconv3(x))
        return torch.sigmoid(self.deconv4(x))

    def first_deconvolution(self, x: Tensor) -> Tensor:
        """`deconv1` of x (B, 1024), one pixel a channel → (B, 128, 5, 5).

        On a single pixel a transposed convolution is a matrix product; as one, V trains 1.5 times as fast on a CPU,
        which spends more time on turning the convolution's 3.3 million weights around than on multiplying them.
        """
        weight = self.deconv1.weight.permute(0, 2, 3, 1).flatten(1)  # (1024, 5 · 5 · 128), as it lies in memory
        product = (x @ weight).reshape(-1, 5, 5, 128) + self.deconv1.get_parameter("bias")
        return product.permute(0, 3, 1, 2)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, 64, 64) and standard normal noise (B, Z) → reconstruction, mean, log-variance."""
        with self.autocast():
            mean, logvar = self.posterior(images)
            reconstruction = self.reconstruct(mean + torch.exp(0.5 * logvar) * noise)
        return reconstruction.float(), mean.float(), logvar.float()

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames uint8 (B, 64, 64, 3) → mean and log-variance of z, each float32 (B, Z) on V's device."""
        with self.autocast():
            mean, logvar = self.posterior(to_images(frames, self.device))
        return mean.float(), logvar.float()

    @torch.no_grad()
    def decode(self, z: Tensor) -> np.ndarray:
        """z (B, Z) → frames uint8 (B, 64, 64, 3)."""
        images = self.reconstruct(z.to(self.device))
        return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16)

    @property
    def device(self) -> torch.device:
        return self.mean.weight.device


def to_images(frames: np.ndarray, device: torch.device) -> Tensor:
    """Frames uint8 (B, 64, 64, 3) → images float32 (B, 3, 64, 64) in [0, 1], channels last in memory."""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float().div_(255)


def vae_loss(
    images: Tensor, reconstruction: Tensor, mean: Tensor, logvar: Tensor, free_bits: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of squared error per image + KL, which is not pushed below `free_bits` nats per dimension on the total.

    Args:
        images: (B, 3, 64, 64) in [0, 1].
        reconstruction: (B, 3, 64, 64).
        mean: (B, Z).
        logvar: (B, Z).
        free_bits: the paper's code holds the total KL of an image at 0.5 · Z; 0 is the plain VAE.

    Returns:
        The loss, a scalar mean over the batch, and its parts `loss`, `reconstruction` and `kl` without a graph.
    """
    error = (reconstruction - images).square().sum(dim=(1, 2, 3))  # (B,)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(dim=1)  # (B,) nats
    loss = (error + kl.clamp(min=free_bits * mean.shape[1])).mean()
    return loss, {"loss": loss.detach(), "reconstruction": error.detach().mean(), "kl": kl.detach().mean()}


def load(logdir: str | Path | RunDir, device: torch.device | str = "cpu") -> VAE:
    """The best V of a run, ready to act.

    Raises:
        UserError: there is none, or the file is damaged or of another architecture.
    """
    path = RunDir.of(logdir).trained("vae")
    tensors, meta = checkpoint.load(path)
    return build(path, tensors, meta).to(device).eval()


def build(path: object, tensors: dict[str, Tensor], meta: dict[str, Any]) -> VAE:
    """V rebuilt from a checkpoint's content; UserError when the file holds something else."""
    try:
        vae = VAE(**meta["vae"])
        vae.load_state_dict(checkpoint.unpack("vae", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no V of this version: train it again with --noreload.") from error
    return vae.requires_grad_(False)
