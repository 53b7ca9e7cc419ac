"""Train V on the collected frames.

    worldmodels train-vae --logdir exp_dir          (ctallec's port: python trainvae.py --logdir exp_dir)
    torchrun --nproc-per-node 4 -m worldmodels train-vae --logdir exp_dir

Writes <logdir>/vae: best.safetensors (lowest test loss; with what `quantized` needs to know), last.safetensors (to
continue), metrics.jsonl, TensorBoard events, and after every epoch samples/reconstruction_NNNN.png (real above, V's
below) and samples/samples_NNNN.png.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldmodels import quantized, vision
from worldmodels.data.dataset import Dataset, open_dataset, read_some, split
from worldmodels.data.frames import frame_batches
from worldmodels.errors import UserError
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import TrainVAE
from worldmodels.show.pictures import write_grid
from worldmodels.training.fit import Trainee, fit, generator
from worldmodels.training.ranks import Ranks
from worldmodels.vision import VAE, moved, to_images, vae_loss
from worldmodels.workers.places import choose_bfloat16, choose_device

CALIBRATION = 512  # test frames on which V's largest activations are measured


def main(cfg: TrainVAE, begin: Callable[[], None] = lambda: None) -> None:
    """Train; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    ranks = Ranks(choose_device(cfg.device))
    device, folder = ranks.device, RunDir.of(cfg.logdir).vae
    dataset = open_dataset(cfg.rootdir)
    train, test = split(dataset, cfg.test_fraction)

    torch.manual_seed(cfg.seed)
    vae = begin_with(cfg).to(device)
    vae.use_bfloat16 = choose_bfloat16(cfg.precision, device)
    precision = "bfloat16" if vae.use_bfloat16 else "float32"
    optimizer = torch.optim.Adam(vae.parameters(), lr=cfg.learning_rate, fused=True)

    def beside() -> dict[str, Tensor]:
        frames = next(frame_batches(test, min(CALIBRATION, test.frames), seed=cfg.seed, epoch=0))
        return {quantized.KEY: quantized.largest_activations(vae, frames)}

    def loss(frames: np.ndarray, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor], float]:
        weight = None
        if cfg.motion:
            weight, frames = 1 + cfg.motion * moved(frames, device), frames[:, 1]
        images = to_images(frames, device)
        epsilon = torch.randn(len(frames), cfg.z_size, generator=noise, device=device)
        reconstruction, mean, logvar = vae(images, epsilon)
        value, metrics = vae_loss(images, reconstruction, mean, logvar, cfg.free_bits, weight)
        return value, metrics, len(frames)

    def batches(part: Dataset, epoch: int, skip: int = 0) -> Iterator[np.ndarray]:
        return frame_batches(part, cfg.batch_size, seed=cfg.seed, epoch=epoch, skip=skip, before=bool(cfg.motion))

    def pictures(epoch: int) -> None:
        shown = next(frame_batches(test, 10, seed=cfg.seed, epoch=0))
        mean, _ = vae.encode(shown)
        prior = torch.randn(10, cfg.z_size, generator=generator(device, cfg.seed), device=device)
        write_grid(folder / "samples" / f"reconstruction_{epoch:04d}.png", [shown, vae.decode(mean)])
        write_grid(folder / "samples" / f"samples_{epoch:04d}.png", [vae.decode(prior)])

    trainee = Trainee(
        "vae", "V", vae, {"z_size": cfg.z_size}, optimizer, folder, precision, loss,
        data=dataset.fingerprint,
        cut=f"{cfg.batch_size} frames",
        batches=partial(batches, train),
        batches_per_epoch=math.ceil(train.frames / cfg.batch_size),
        test_batches=partial(batches, test, 0),
        rate_name="frames_per_second",
        about={"began": cfg.init if cfg.warm is None else "warm"},
        beside=beside,
        pictures=None if cfg.nosamples else pictures,
    )  # fmt: skip
    fit(trainee, cfg, ranks, look=lambda: read_some(train, test), begin=begin)


def begin_with(cfg: TrainVAE) -> VAE:
    """V before its first batch, or before what is continued takes its place; UserError where the run that it is to
    begin with has no V, or one of another size."""
    continued = not cfg.noreload and (RunDir.of(cfg.logdir).vae / "last.safetensors").exists()
    if cfg.warm is None or continued:
        vae = VAE(cfg.z_size)
        if cfg.init == "he":
            vae.scale_for_relu()
        return vae
    vae = vision.load(cfg.warm).requires_grad_(True).train()
    if vae.z_size != cfg.z_size:
        raise UserError(
            f"The V of {cfg.warm} makes z of {vae.z_size} numbers: use --z-size {vae.z_size}, or no --warm."
        )
    return vae
