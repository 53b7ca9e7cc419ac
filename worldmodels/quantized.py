"""V's encoder in 8-bit integers: the eyes with which C drives while it evolves, on processors with VNNI.

Weights are rounded to 255 levels in every output channel and activations to 256 in every layer (Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Their products are
summed exactly, so a frame's code does not depend on the frames beside it. z moves by 0.008 of its spread, far less than
V's own sigma, and comes 2.4 times as fast as in bfloat16 and 4.4 times as fast as in float32.

Shapes: B batch, Z latent.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.errors import UserError
from worldmodels.vision import VAE, to_images
from worldmodels.workers.places import choose_bfloat16

KEY = "largest"  # of the tensor beside V's weights in its checkpoint


@torch.no_grad()
def largest_activations(vae: VAE, frames: np.ndarray) -> Tensor:
    """The largest outputs float32 (3,) of V's first three convolutions on frames uint8 (B, 64, 64, 3).

    Rounded up to the next eighth of a power of two, up to 9% more: frames not seen here may go a little beyond, and the
    threads on which it is measured leave no trace.
    """
    x, largest = to_images(frames, vae.device), []
    for convolution in (vae.conv1, vae.conv2, vae.conv3):
        x = F.relu(convolution(x))
        largest.append(x.max().clamp(min=1e-6))
    return torch.stack(largest).log2().mul(8).ceil().div(8).exp2().cpu()


class QuantizedVAE:
    """A V that can only encode."""

    def __init__(self, vae: VAE, largest: Tensor):
        """
        Args:
            vae: on the CPU.
            largest: float32 (3,), of `largest_activations`; what goes beyond is cut off.
        """
        steps = [1 / 255, *(largest / 255).tolist()]  # what one level is worth, before each convolution
        self.convolutions = [
            _Convolution(convolution, before, after)
            for convolution, before, after in zip(
                (vae.conv1, vae.conv2, vae.conv3, vae.conv4), steps, [*steps[1:], None], strict=True
            )
        ]
        self.mean, self.logvar = vae.mean, vae.logvar

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames uint8 (B, 64, 64, 3) → mean and log-variance of z, each float32 (B, Z)."""
        x = torch.from_numpy(frames).permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            x = convolution(x)
        x = x.flatten(1)  # (B, 1024)
        return self.mean(x), self.logvar(x)


class _Convolution:
    """A convolution and ReLU of levels."""

    def __init__(self, convolution: nn.Conv2d, before: float, after: float | None):
        """
        Args:
            convolution: in float32.
            before: what one level of the input is worth.
            after: what one level of the output is worth; None: the output is float32.
        """
        weight = convolution.weight.detach()
        self.before, self.after, self.bias = before, after, convolution.bias
        self.step = (weight.abs().amax(dim=(1, 2, 3)) / 127).clamp(min=1e-12)  # (channels,)
        self.zero = torch.zeros(len(weight), dtype=torch.int64)
        self.shape = list(convolution.stride), list(convolution.padding), list(convolution.dilation)
        levels = (weight / self.step[:, None, None, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qconv_prepack(levels, self.step, before, 0, *self.shape, 1, None)

    def __call__(self, x: Tensor) -> Tensor:
        """Levels uint8 (B, channels, height, width) → levels uint8, or numbers float32."""
        kind = torch.float32 if self.after is None else torch.uint8
        return torch.ops.onednn.qconv2d_pointwise(
            x, self.before, 0, self.packed, self.step, self.zero, self.bias, *self.shape, 1,
            self.after or 1.0, 0, kind, "relu", [], "",
        )  # fmt: skip


def obstacle(tensors: dict[str, Tensor], device: torch.device) -> str | None:
    """Why V, of the tensors of its checkpoint, cannot be quantized on the device; None: it can."""
    if device.type != "cpu":
        return "V encodes in int8 on processors only"
    if not supported():
        return "This processor or this PyTorch cannot multiply 8-bit integers fast (VNNI)"
    if KEY not in tensors:
        return "The checkpoint of V does not say how large its activations become, as those from now on do"
    return None


def choose_precision(asked: str, tensors: dict[str, Tensor], device: torch.device) -> str:
    """In which arithmetic V, of the tensors of its checkpoint, encodes while C drives: float32, bfloat16 or int8.

    `auto` is int8 where nothing is in the way, else bfloat16 where that is fast.

    Raises:
        UserError: int8 is asked for, and there is an obstacle.
    """
    if asked in ("float32", "bfloat16"):
        return asked
    why = obstacle(tensors, device)
    if why is None:
        return "int8"
    if asked == "int8":
        raise refused(why)
    return "bfloat16" if choose_bfloat16("auto", device) else "float32"


def quantize(vae: VAE, tensors: dict[str, Tensor]) -> QuantizedVAE:
    """V, of the tensors of its checkpoint, in 8-bit integers.

    Raises:
        UserError: there is an obstacle.
    """
    if why := obstacle(tensors, vae.device):
        raise refused(why)
    return QuantizedVAE(vae, tensors[KEY])


def refused(why: str) -> UserError:
    return UserError(f"{why}: use --precision bfloat16 or float32.")


@functools.cache
def supported() -> bool:
    """Whether this processor sums products of 8-bit integers in one instruction (VNNI), and PyTorch can tell it to.

    The operators are private to PyTorch, so they are tried, not trusted. Without VNNI sums of two products overflow.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False
    try:
        trial = _Convolution(nn.Conv2d(1, 1, 1), 1.0, 1.0)
        return trial(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)).dtype == torch.uint8
    except (AttributeError, RuntimeError, TypeError):
        return False
