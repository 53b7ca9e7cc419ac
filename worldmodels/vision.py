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

CHANGE = 38  # grey levels of 255, by which a pixel must change in a step to count as moved over


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
        self.deconv1.weight.data = self.deconv1.weight.contiguous()  # a matrix: see `first_deconvolution`

    def scale_for_relu(self) -> None:
        """Draw the weights so that a layer's outputs are as large as its inputs (He et al. 2015), and set biases to 0.

        PyTorch's own start makes every layer's outputs smaller than its inputs, eight layers in a row: V begins with
        hardly a trace of the frame in its picture. Each output pixel of a transposed convolution of stride 2 sums over
        a quarter of the kernel's places, the first one's over a single place.
        """
        gains = {
            self.conv1: 2, self.conv2: 2, self.conv3: 2, self.conv4: 2, self.mean: 1, self.logvar: 0.01,
            self.dense: 1, self.deconv1: 2, self.deconv2: 2, self.deconv3: 2, self.deconv4: 1,
        }  # fmt: skip
        for layer, gain in gains.items():
            weight = layer.get_parameter("weight")
            summed: float = weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                summed = len(weight) * (1 if layer is self.deconv1 else weight[0, 0].numel() / 4)
            nn.init.normal_(weight, std=(gain / summed) ** 0.5)
            nn.init.zeros_(layer.get_parameter("bias"))

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
        x = F.relu(deconvolve(self.deconv2, x))
        x = F.relu(self.deconv3(x))
        return torch.sigmoid(deconvolve(self.deconv4, x))

    def first_deconvolution(self, x: Tensor) -> Tensor:
        """`deconv1` of x (B, 1024), one pixel a channel → (B, 128, 5, 5).

        On a single pixel a transposed convolution is a matrix product; as one, V trains 1.5 times as fast on a CPU,
        which spends more time on turning the convolution's 3.3 million weights around than on multiplying them.
        """
        product = x @ self.deconv1.weight.flatten(1)  # (B, 128 · 5 · 5)
        bias = self.deconv1.get_parameter("bias").to(product.dtype)
        images = product.reshape(-1, 128, 5, 5) + bias[:, None, None]
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, 64, 64) and standard normal noise (B, Z) → reconstruction, mean, log-variance."""
        with self.autocast():
            mean, logvar = self.posterior(images)
            reconstruction = self.reconstruct(mean + torch.exp(0.5 * logvar) * noise)
        return reconstruction.float(), mean.float(), logvar.float()

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames uint8 (B, 64, 64, 3) → mean and log-variance of z, each float32 (B, Z) on V's device.

        Raises:
            UserError: they are something else, such as floats from 0 to 1, which would all look black.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (64, 64, 3):
            raise UserError(f"V sees frames uint8 (B, 64, 64, 3), and these are {frames.dtype} {tuple(frames.shape)}.")
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


def deconvolve(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of stride 2 without padding, of x (B, channels, height, width).

    On a CPU `deconv2` and `deconv4` take a third of the time as `_Phases`, and V's training 13% less.
    """
    if x.device.type != "cpu":
        return layer(x)
    weight, bias = layer.weight.to(x.dtype), layer.get_parameter("bias").to(x.dtype)
    return _Phases.apply(x, weight, bias)


class _Phases(torch.autograd.Function):
    """Output pixels of even and of odd row and column each are an ordinary convolution of the input with every other
    row and column of the kernel (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").
    The gradients are those of the transposed convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x (B, i, h, w), weight (i, o, k, k), bias (o,) → (B, o, 2 h + k − 2, 2 w + k − 2)."""
        ctx.save_for_backward(x, weight)
        inputs, outputs, size, _ = weight.shape
        half = -(-size // 2)
        kernel = F.pad(weight, (0, size % 2, 0, size % 2)).view(inputs, outputs, half, 2, half, 2).flip(2, 4)
        kernel = kernel.permute(3, 5, 1, 0, 2, 4).reshape(4 * outputs, inputs, half, half)  # row, column, output
        phases = F.conv2d(x, kernel, bias.repeat(4), padding=half - 1).permute(0, 2, 3, 1)  # (B, h', w', 4 o)
        batch, height, width, _ = phases.shape
        pixels = phases.reshape(batch, height, width, 2, 2, outputs).permute(0, 1, 3, 2, 4, 5)
        image = pixels.reshape(batch, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)
        image = image[:, :, : 2 * height - size % 2, : 2 * width - size % 2]
        return image.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        whole = [weight.shape[1]], [2, 2], [0, 0], [1, 1], True, [0, 0], 1, [True, True, True]
        return torch.ops.aten.convolution_backward(gradient, x, weight, *whole)


def to_images(frames: np.ndarray, device: torch.device) -> Tensor:
    """Frames uint8 (B, 64, 64, 3) → images float32 (B, 3, 64, 64) in [0, 1], channels last in memory."""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float().div_(255)


def moved(pairs: np.ndarray, device: torch.device) -> Tensor:
    """Pairs uint8 (B, 2, 64, 64, 3) of the frame before and the frame → bool (B, 64, 64), the pixels that something
    has moved over: those that differ by `CHANGE` more than the median pixel of their frame, which a flash of the whole
    screen changes with all the others."""
    before, now = torch.from_numpy(pairs).to(device).short().unbind(1)
    change = (now - before).abs().amax(-1)  # (B, 64, 64)
    return change > change.flatten(1).median(1).values[:, None, None] + CHANGE


def vae_loss(
    images: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    logvar: Tensor,
    free_bits: float,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of squared error per image + KL, which is not pushed below `free_bits` nats per dimension on the total.

    Args:
        images: (B, 3, 64, 64) in [0, 1].
        reconstruction: (B, 3, 64, 64).
        mean: (B, Z).
        logvar: (B, Z).
        free_bits: the paper's code holds the total KL of an image at 0.5 · Z; 0 is the plain VAE.
        weight: (B, 64, 64) of each pixel's squared error in the loss; None: 1.

    Returns:
        The loss, a scalar mean over the batch, and its parts `loss`, `reconstruction` (every pixel alike) and `kl`
        without a graph.
    """
    error = (reconstruction - images).square().sum(dim=1)  # (B, 64, 64)
    plain = error.detach().sum(dim=(1, 2)).mean()
    weighted = (error if weight is None else error * weight).sum(dim=(1, 2))  # (B,)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(dim=1)  # (B,) nats
    loss = (weighted + kl.clamp(min=free_bits * mean.shape[1])).mean()
    return loss, {"loss": loss.detach(), "reconstruction": plain, "kl": kl.detach().mean()}


def load(logdir: str | Path | RunDir, device: torch.device | str = "cpu") -> VAE:
    """The best V of a run, ready to act.

    Raises:
        UserError: there is none, or the file is damaged or of another architecture.
    """
    path = RunDir.of(logdir).trained("vae")
    return build(path, *checkpoint.load(path)).to(device).eval()


def build(path: object, tensors: dict[str, Tensor], meta: dict[str, Any]) -> VAE:
    """V rebuilt from a checkpoint's content; UserError when the file holds something else."""
    try:
        vae = VAE(**meta["vae"])
        vae.load_state_dict(checkpoint.unpack("vae", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no V of this version: train it again with --noreload.") from error
    return vae.requires_grad_(False)
