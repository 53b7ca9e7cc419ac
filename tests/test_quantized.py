"""V in 8-bit integers against the same sums in float64, and against V."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldmodels import envs, pretrained, quantized
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.quantized import KEY, QuantizedVAE, largest_activations, quantize
from worldmodels.runs import checkpoint
from worldmodels.vision import VAE, build

here = pytest.mark.skipif(not quantized.supported(), reason="a processor with VNNI")
CPU = torch.device("cpu")


def frames(count: int = 64, seed: int = 0) -> np.ndarray:
    """Pictures of large flat patches, uint8 (count, 64, 64, 3)."""
    patches = np.random.default_rng(seed).integers(256, size=(count, 8, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(patches.repeat(8, axis=1).repeat(8, axis=2))


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE().requires_grad_(False).eval()
    vae.scale_for_relu()
    return vae


def test_the_largest_activations_are_not_exceeded_and_hardly_rounded(vae) -> None:
    x = torch.from_numpy(frames()).permute(0, 3, 1, 2).double() / 255
    for convolution, largest in zip((vae.conv1, vae.conv2, vae.conv3), largest_activations(vae, frames()), strict=True):
        x = F.relu(F.conv2d(x, convolution.weight.double(), convolution.bias.double(), stride=2))
        assert 1 - 1e-6 <= largest / x.max() <= 2 ** (1 / 8) + 1e-6


@here
def test_levels_are_those_of_the_same_sums_in_float64(vae) -> None:
    """Weights to the nearest of 255 levels per channel, outputs of 256 per layer, nothing else."""
    largest = largest_activations(vae, frames())
    levels = torch.from_numpy(frames()).permute(0, 3, 1, 2).double()
    unit, packed = 1 / 255, torch.from_numpy(frames()).permute(0, 3, 1, 2)
    units = [*(largest.double() / 255).tolist(), None]
    ours = QuantizedVAE(vae, largest).convolutions
    theirs = (vae.conv1, vae.conv2, vae.conv3, vae.conv4)
    for convolution, in_integers, after in zip(theirs, ours, units, strict=True):
        step = convolution.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
        sums = F.conv2d(levels, (convolution.weight / step).round().double(), stride=2)
        x = F.relu(sums * unit * step[:, 0, :, :].double() + convolution.bias.double()[:, None, None])
        packed = in_integers(packed)
        if after is None:
            torch.testing.assert_close(packed.double(), x, rtol=1e-5, atol=1e-5)
            break
        levels, unit = (x / after).round().clamp(0, 255), after
        away = (packed.double() - levels).abs()
        assert away.max() <= 1 and (away > 0).double().mean() < 1e-4, "rounded otherwise beyond a tie"
        levels = packed.double()


@here
def test_z_is_v_s_to_three_hundredths_of_its_spread(vae) -> None:
    quick = QuantizedVAE(vae, largest_activations(vae, frames()))
    unseen = frames(200, seed=1)
    for ours, theirs in zip(quick.encode(unseen), vae.encode(unseen), strict=True):
        assert (ours - theirs).std() < 0.03 * theirs.std()


@here
def test_the_package_s_v_sees_the_road_in_integers() -> None:
    tensors, meta = checkpoint.load(pretrained.folder("carracing") / "vae" / "best.safetensors")
    vae = build("V", tensors, meta)
    env = envs.make(World.practice(envs.CARRACING), 8)
    env.reset(seed=list(range(8)))
    seen = np.concatenate([env.step(np.tile(np.float32([0.02, 0.3, 0]), (8, 1)))[0].copy() for _ in range(60)][20:])
    ours, theirs = quantize(vae, tensors).encode(seen)[0], vae.encode(seen)[0]
    assert (ours - theirs).std() < 0.02 * theirs.std()


@here
def test_a_frame_beyond_the_largest_activations_is_cut_off_and_not_wrapped_around(vae) -> None:
    dark = QuantizedVAE(vae, largest_activations(vae, frames() // 4))
    z, expected = dark.encode(frames())[0], vae.encode(frames())[0]
    assert torch.corrcoef(torch.stack([z.flatten(), expected.flatten()]))[0, 1] > 0.5


def test_obstacles_are_named(vae, monkeypatch) -> None:
    tensors = {KEY: largest_activations(vae, frames())}
    assert quantized.obstacle(tensors, torch.device("cuda")) is not None
    monkeypatch.setattr(quantized, "supported", lambda: True)
    assert quantized.obstacle(tensors, CPU) is None
    with pytest.raises(UserError, match="how large its activations"):
        quantize(vae, {})
    monkeypatch.setattr(quantized, "supported", lambda: False)
    with pytest.raises(UserError, match="--precision bfloat16"):
        quantize(vae, tensors)
    with pytest.raises(UserError, match="--precision bfloat16"):
        quantized.choose_precision("int8", tensors, CPU)
    assert quantized.choose_precision("auto", tensors, CPU) in ("bfloat16", "float32")
    assert quantized.choose_precision("bfloat16", tensors, CPU) == "bfloat16"


def test_a_pytorch_without_the_operators_is_no_obstacle_to_importing(monkeypatch) -> None:
    monkeypatch.setattr(torch.ops, "onednn", object())
    assert quantized.supported.__wrapped__() is False
