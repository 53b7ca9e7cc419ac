"""Train M on the episodes as V sees them.

    worldmodels train-mdrnn --logdir exp_dir        (the seed: python trainmdrnn.py --logdir exp_dir)

V runs once over the data; its mean and log-variance are stored in <logdir>/mdrnn/latents, and z is sampled anew in
every batch (paper, appendix A.2). Writes <logdir>/mdrnn: best.safetensors, last.safetensors, metrics.jsonl,
TensorBoard events, and after every epoch samples/dream_NNNN.png (real, V's reconstruction, M's dream). In the end
starts.safetensors, the bank of real states from which dreams begin, and, where M predicts rewards, quality.json: how
good a world it is.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodels import envs, memory, vision
from worldmodels.agent import choose_bfloat16, choose_device
from worldmodels.data.dataset import Dataset, open_dataset, split
from worldmodels.data.episodes import load_rollout
from worldmodels.data.latents import Batch, Sequences, encode_dataset
from worldmodels.dream import continuation
from worldmodels.memory import MDRNN, mdrnn_loss
from worldmodels.runs.files import read_json, write_json
from worldmodels.runs.settings import TrainMDRNN
from worldmodels.show.pictures import DREAM_COLUMNS, DREAM_STRIDE, DREAM_WARM_UP, write_grid
from worldmodels.training import quality
from worldmodels.training.fit import Trainee, fit


def main(cfg: TrainMDRNN) -> None:
    device = choose_device(cfg.device)
    vae = vision.load(cfg.logdir, device)
    dataset = open_dataset(cfg.rootdir)
    train, test = split(dataset, cfg.test_fraction)
    folder = Path(cfg.logdir) / "mdrnn"
    vae_path = Path(cfg.logdir) / "vae" / "best.safetensors"
    episodes = encode_dataset(vae, vae_path, dataset, folder / "latents")
    train_set, test_set = (
        Sequences([episodes[path] for path in part.files if path in episodes], cfg.sequence_length, cfg.batch_size)
        for part in (train, test)
    )

    torch.manual_seed(cfg.seed)
    settings: dict[str, Any] = {
        "z_size": vae.z_size,
        "action_size": next(iter(episodes.values())).actions.shape[1],
        "hidden_size": cfg.hidden_size,
        "gaussians": cfg.gaussians,
        "mixture": cfg.mixture,
        "include_reward": cfg.include_reward,
        "include_terminal": cfg.include_terminal,
        # What an M of before these settings did not have is left out: it can still be trained on.
        **({"include_restart": True} if cfg.include_restart else {}),
        **({"reward_scale": cfg.reward_scale} if cfg.reward_scale != 1 else {}),
        **({"dropout": cfg.dropout} if cfg.dropout else {}),
    }
    collection = collection_of(dataset)
    labels = action_labels(collection["env"]) if collection else {}
    mdrnn = MDRNN(**settings, **labels).to(device)
    mdrnn.use_bfloat16 = choose_bfloat16(cfg.precision, device)
    trained = [parameter for parameter in mdrnn.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=cfg.learning_rate, fused=True)
    trainee = Trainee("mdrnn", "M", mdrnn, settings, optimizer, folder, labels)

    def loss(batch: Batch, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor], float]:
        mean, logvar, actions, rewards, terminals, mask, restart = (x.to(device) for x in batch)
        epsilon = torch.randn(mean.shape, generator=noise, device=device)
        z = mean + torch.exp(0.5 * logvar) * epsilon  # (B, L + 1, Z), sampled anew in every batch
        hidden = mdrnn.dropout_mask(len(z), noise) if mdrnn.training else None
        prediction, _ = mdrnn(z[:, :-1], actions, restart=restart, mask=hidden)
        value, metrics = mdrnn_loss(prediction, z[:, 1:], rewards, terminals, mask, mdrnn.reward_scale)
        return value, metrics, float(mask.sum())

    def pictures(epoch: int) -> None:
        path = max((path for path in test.files if path in episodes), key=lambda path: len(episodes[path].actions))
        z, actions = episodes[path].mean.to(device), episodes[path].actions.to(device)
        steps = min(DREAM_COLUMNS * DREAM_STRIDE, len(actions))
        middle = (len(actions) - steps) // 2
        shown = slice(middle, middle + steps)
        dreamed = continuation(mdrnn, z[shown], actions[shown], min(DREAM_WARM_UP, steps), seed=cfg.seed)
        real = load_rollout(path).frames[shown][::DREAM_STRIDE]
        rows = [real, vae.decode(z[shown][::DREAM_STRIDE]), vae.decode(dreamed[::DREAM_STRIDE])]
        write_grid(trainee.folder / "samples" / f"dream_{epoch:04d}.png", rows)

    fit(
        trainee,
        cfg,
        data=hashlib.sha256(dataset.fingerprint.encode() + vae_path.read_bytes()).hexdigest()[:16],
        batches=lambda epoch, skip: train_set.batches(cfg.seed, epoch, skip),
        batches_per_epoch=train_set.batches_per_epoch,
        loss=loss,
        test_batches=test_set.in_order,
        rate_name="transitions_per_second",
        clip=cfg.clip,
        after_epoch=None if cfg.nosamples else pictures,
    )

    best = memory.load(cfg.logdir)
    starts = quality.bank(best, list(episodes.values()), cfg.starts, cfg.seed)
    starts.save(folder / "starts.safetensors")
    if cfg.include_reward:
        measured: dict[str, Any] = {"open_loop": quality.open_loop(best, test_set.episodes, seed=cfg.seed)}
        if collection:
            options = envs.TRAINING_START if collection["start"] == "anywhere" else None
            measured["ranking"] = quality.ranking(best, starts, collection["env"], options)
        write_json(folder / "quality.json", measured)
        print("\n".join(quality.sentences(measured)))


def collection_of(dataset: Dataset) -> dict[str, Any]:
    """What collect.json says about the first of the episodes' folders that has one; {} where none has."""
    for folder in sorted({path.parent for path in dataset.files}):
        if (folder / "collect.json").exists():
            return read_json(folder / "collect.json")
    return {}


def action_labels(env_id: str) -> dict[str, Any]:
    """`action_kind` and `action_bounds` of an M of this environment."""
    kind = envs.kind_of(env_id)
    if kind.name != "box":
        return {"action_kind": kind.name}
    low, high = kind.space.low.reshape(-1), kind.space.high.reshape(-1)  # type: ignore[attr-defined]
    return {"action_kind": "box", "action_bounds": [low.tolist(), high.tolist()]}
