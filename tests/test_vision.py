"""V against the paper's architecture and torch.distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from worldmodels import pretrained, vision
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.vision import VAE, deconvolve, moved, to_images, vae_loss


@pytest.mark.parametrize(("z_size", "parameters"), [(32, 4_348_547), (64, 4_446_915)])
def test_the_paper_s_parameter_counts(z_size: int, parameters: int) -> None:
    assert sum(p.numel() for p in VAE(z_size).parameters()) == parameters


@pytest.mark.parametrize("batch", [1, 5])
def test_encode_and_decode_shapes(batch: int) -> None:
    frames = np.random.default_rng(0).integers(256, size=(batch, 64, 64, 3), dtype=np.uint8)
    vae = VAE()
    mean, logvar = vae.encode(frames)
    assert mean.shape == logvar.shape == (batch, 32)
    decoded = vae.decode(mean)
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8


def test_images_are_the_frames_in_0_to_1() -> None:
    frames = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    images = to_images(frames, torch.device("cpu"))
    assert images.shape == (2, 3, 64, 64)
    np.testing.assert_array_equal((images * 255).round().byte().permute(0, 2, 3, 1).numpy(), frames)


@pytest.mark.parametrize("name", ["deconv2", "deconv4"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_deconvolution_in_phases_is_pytorch_s_and_so_are_its_gradients(name: str, batch: int) -> None:
    torch.manual_seed(0)
    layer = getattr(VAE(), name).double()
    side = {"deconv2": 5, "deconv4": 30}[name]
    ours = torch.randn(batch, layer.in_channels, side, side, dtype=torch.double, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    image, expected = deconvolve(layer, ours), layer(theirs)
    torch.testing.assert_close(image, expected)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((image * weights).sum(), [ours, *layer.parameters()])
    torch.testing.assert_close(
        gradients, torch.autograd.grad((expected * weights).sum(), [theirs, *layer.parameters()])
    )


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_loss_agrees_with_torch_distributions(batch: int, free_bits: float) -> None:
    torch.manual_seed(batch)
    images, reconstruction = torch.rand(batch, 3, 64, 64), torch.rand(batch, 3, 64, 64)
    mean, logvar = torch.randn(batch, 32), torch.randn(batch, 32)
    posterior = Normal(mean, (0.5 * logvar).exp())
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    error = (images - reconstruction).pow(2).flatten(1).sum(dim=1)
    expected = (error + torch.maximum(kl, torch.tensor(free_bits * 32))).mean()
    loss, metrics = vae_loss(images, reconstruction, mean, logvar, free_bits)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(metrics["kl"], kl.mean(), rtol=1e-5, atol=1e-4)


def test_free_bits_leave_a_small_kl_alone() -> None:
    images = torch.rand(3, 3, 64, 64)
    mean = torch.full((3, 32), 0.1, requires_grad=True)
    logvar = torch.zeros(3, 32, requires_grad=True)
    for free_bits, pushed in ((0.5, False), (0.0, True)):
        mean.grad = None
        vae_loss(images, images, mean, logvar, free_bits)[0].backward()
        assert mean.grad is not None
        assert bool(mean.grad.abs().sum() > 0) == pushed


def test_what_moves_is_seen_through_a_flash_of_the_whole_picture() -> None:
    pairs = np.full((3, 2, 64, 64, 3), 90, dtype=np.uint8)
    pairs[0, 1, 10:14, 20:25] = (250, 200, 40)  # something arrives
    pairs[1, 0, 40:43, 5:8] = (250, 230, 40)  # it was there and has left, while
    pairs[1, 1, ..., 0] = 170  # all the rest turns red
    expected = np.zeros((3, 64, 64), dtype=bool)
    expected[0, 10:14, 20:25] = expected[1, 40:43, 5:8] = True
    np.testing.assert_array_equal(moved(pairs, torch.device("cpu")).numpy(), expected)


def test_the_loss_weighs_pixels_and_reports_them_unweighted() -> None:
    images, reconstruction, zeros = torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64), torch.zeros(2, 8)
    reconstruction[0, 0, 3, 4], reconstruction[1, 2, 7, 7] = 1.0, 0.5
    weight = torch.ones(2, 64, 64)
    weight[0, 3, 4] = 5.0
    loss, metrics = vae_loss(images, reconstruction, zeros, zeros, 0.0, weight)
    assert loss.item() == (5 + 0.25) / 2
    assert metrics["reconstruction"].item() == (1 + 0.25) / 2


def test_weights_scaled_for_relu_keep_the_size_of_what_passes() -> None:
    """The picture depends on z, and z on the frame, from the start; with PyTorch's weights hardly so."""
    torch.manual_seed(0)
    z, frames = torch.randn(64, 32), torch.rand(64, 3, 64, 64)
    spread = {}
    for scaled in (False, True):
        vae = VAE()
        if scaled:
            vae.scale_for_relu()
        with torch.no_grad():
            spread[scaled] = vae.reconstruct(z).std(0).mean().item(), vae.posterior(frames)[0].std(0).mean().item()
    assert all(ours > 20 * plain for ours, plain in zip(spread[True], spread[False], strict=True))


def test_a_checkpoint_rebuilds_v_by_itself(tmp_path) -> None:
    vae = VAE(16)
    checkpoint.save(
        tmp_path / "vae" / "best.safetensors", checkpoint.pack("vae", vae.state_dict()), {"vae": {"z_size": 16}}
    )
    frames = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(vision.load(tmp_path).encode(frames), vae.encode(frames), rtol=0, atol=0)


def test_a_missing_v_names_the_command_that_makes_it(tmp_path) -> None:
    with pytest.raises(UserError, match="worldmodels train-vae"):
        vision.load(tmp_path)


def test_a_checkpoint_of_something_else_is_one_sentence(tmp_path) -> None:
    checkpoint.save(tmp_path / "vae" / "best.safetensors", {"vae.x": torch.zeros(1)}, {"vae": {"z_size": 16}})
    with pytest.raises(UserError, match="no V of this version"):
        vision.load(tmp_path)


def test_the_first_deconvolution_is_one() -> None:
    vae = VAE()
    x = torch.randn(3, 1024)
    torch.testing.assert_close(vae.first_deconvolution(x), vae.deconv1(x[:, :, None, None]), rtol=1e-5, atol=1e-5)


def test_bfloat16_moves_z_by_little() -> None:
    frames = np.random.default_rng(0).integers(256, size=(8, 64, 64, 3), dtype=np.uint8)
    vae = vision.load(pretrained.folder("carracing"))
    exact, _ = vae.encode(frames)
    vae.use_bfloat16 = True
    near, _ = vae.encode(frames)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.02 * exact.std()


@pytest.mark.parametrize("frames", [np.ones((1, 64, 64, 3), np.float32), np.ones((64, 64, 3), np.uint8)])
def test_what_are_no_frames_is_one_sentence(frames: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"V sees frames uint8 \(B, 64, 64, 3\), and these are"):
        VAE().encode(frames)
