"""Train M on the episodes as V sees them.

    worldmodels train-mdrnn --logdir exp_dir        (ctallec's port: python trainmdrnn.py --logdir exp_dir)
    torchrun --nproc-per-node 4 -m worldmodels train-mdrnn --logdir exp_dir

V runs once over the data; its mean and log-variance are stored in <logdir>/mdrnn/latents, and z is sampled anew in
every batch (paper, appendix A.2). Writes <logdir>/mdrnn: best.safetensors, last.safetensors, metrics.jsonl,
TensorBoard events, and after every epoch samples/dream_NNNN.png (real, V's reconstruction, M's dream). In the end
starts.safetensors, the bank of real states from which dreams begin, and, where its dream pays, quality.json: how
good a world it is.
"""

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from worldmodels import envs, memory, vision
from worldmodels.data.dataset import Dataset, open_dataset, read_some, split
from worldmodels.data.episodes import load_rollout
from worldmodels.data.latents import Latents, Sequences, batches_per_epoch, encode_dataset
from worldmodels.dream import bank, continuation
from worldmodels.envs import World
from worldmodels.envs.actions import Box
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json, write_json
from worldmodels.runs.settings import TrainMDRNN
from worldmodels.show.pictures import DREAM_COLUMNS, DREAM_STRIDE, DREAM_WARM_UP, write_grid
from worldmodels.training import quality
from worldmodels.training.fit import Trainee, fit
from worldmodels.training.ranks import Ranks
from worldmodels.vision import VAE
from worldmodels.workers.places import choose_bfloat16, choose_device


def main(cfg: TrainMDRNN, begin: Callable[[], None] = lambda: None) -> None:
    """Train; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    ranks = Ranks(choose_device(cfg.device))
    run = RunDir.of(cfg.logdir)
    bfloat16 = choose_bfloat16(cfg.precision, ranks.device)
    vae_path = run.trained("vae")
    weights = vae_path.read_bytes()
    vae = vision.load(run, ranks.device)
    vae.use_bfloat16 = bfloat16
    dataset = open_dataset(cfg.rootdir)
    train, test = split(dataset, cfg.test_fraction)
    collection = collection_of(dataset)
    mdrnn, settings, labels = untrained(cfg, vae.z_size, dataset.heads[0].action_size, collection)
    mdrnn = mdrnn.to(ranks.device)
    mdrnn.use_bfloat16 = bfloat16
    precision = "bfloat16" if bfloat16 else "float32"
    trained = [parameter for parameter in mdrnn.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=cfg.learning_rate, fused=True)

    @cache
    def seen() -> dict[Path, Latents]:
        """What V sees takes the place of what was there: not before it is known that this training begins."""
        if vae_path.read_bytes() != weights:
            raise UserError(f"{vae_path} has changed meanwhile: run the command again when V is trained.")
        with ranks.in_turn():
            return encode_dataset(vae, vae_path, dataset, run.latents)

    @cache
    def sequences(part: Dataset) -> Sequences:
        episodes = list(some(seen(), part).values())
        return Sequences(episodes, cfg.sequence_length, cfg.batch_size, cfg.discount, cfg.include_terminal)

    def pictures(epoch: int) -> None:
        picture(run, vae, mdrnn, some(seen(), test), cfg.seed, epoch)

    def look() -> None:
        read_some(train, test)
        seen()

    trainee = Trainee(
        "mdrnn", "M", mdrnn, settings, optimizer, run.mdrnn, precision, partial(memory.loss_of, mdrnn),
        data=hashlib.sha256(dataset.fingerprint.encode() + weights).hexdigest()[:16],
        cut=f"{cfg.batch_size} sequences of {cfg.sequence_length}",
        batches=lambda epoch, skip: sequences(train).batches(cfg.seed, epoch, skip),
        batches_per_epoch=batches_per_epoch(train.lengths, cfg.sequence_length, cfg.batch_size),
        test_batches=lambda: sequences(test).in_order(),
        rate_name="transitions_per_second",
        clip=cfg.clip,
        labels=labels,
        about={"V": checkpoint.digest(vae_path)},
        pictures=None if cfg.nosamples else pictures,
    )  # fmt: skip
    fit(trainee, cfg, ranks, look=look, begin=begin)

    episodes = list(seen().values())
    if ranks.first and not went_on(run):
        measure(cfg, run, episodes, sequences(test), collection)


def some(episodes: dict[Path, Latents], part: Dataset) -> dict[Path, Latents]:
    """The episodes of a part of the dataset, without those that were damaged."""
    return {path: episodes[path] for path in part.files if path in episodes}


def untrained(
    cfg: TrainMDRNN, z_size: int, action_size: int, collection: dict[str, Any]
) -> tuple[MDRNN, dict[str, Any], dict[str, Any]]:
    """(M for such episodes, the settings of its architecture, its labels: the kind of action)."""
    always = ("hidden_size", "gaussians", "mixture", "include_reward", "include_terminal")
    later = ("include_restart", "reward_scale", "dropout", "discount")  # an M of before these can still be trained on
    changed = [name for name in later if getattr(cfg, name) != getattr(TrainMDRNN(), name)]
    settings: dict[str, Any] = {"z_size": z_size, "action_size": action_size}
    settings |= {name: getattr(cfg, name) for name in (*always, *changed)}
    labels = action_labels(collection["env"]) if collection else {}
    torch.manual_seed(cfg.seed)
    return MDRNN(**settings, **labels), settings, labels


def picture(run: RunDir, vae: VAE, mdrnn: MDRNN, test: dict[Path, Latents], seed: int, epoch: int) -> None:
    """samples/dream_NNNN.png: the middle of the longest test episode, as it was, as V sees it, and M's dream of it."""
    path = max(test, key=lambda path: len(test[path].actions))
    z, actions = test[path].mean.to(mdrnn.device), test[path].actions.to(mdrnn.device)
    steps = min(DREAM_COLUMNS * DREAM_STRIDE, len(actions))
    middle = (len(actions) - steps) // 2
    shown = slice(middle, middle + steps)
    dreamed = continuation(mdrnn, z[shown], actions[shown], min(DREAM_WARM_UP, steps), seed=seed)
    real = load_rollout(path).frames[shown][::DREAM_STRIDE]
    rows = [real, vae.decode(z[shown][::DREAM_STRIDE]), vae.decode(dreamed[::DREAM_STRIDE])]
    write_grid(run.mdrnn / "samples" / f"dream_{epoch:04d}.png", rows)


def went_on(run: RunDir) -> bool:
    """Whether the best M is one that learned on with C (`train-in-dream`), which keeps starts of its own."""
    return bool(checkpoint.load(run.trained("mdrnn"))[1].get("went_on"))


def measure(
    cfg: TrainMDRNN, run: RunDir, episodes: list[Latents], test_set: Sequences, collection: dict[str, Any]
) -> None:
    """Write the starts of dreams and, where dreams pay, M's quality as a world."""
    best = memory.load(run)
    starts = bank(best, episodes, cfg.starts, cfg.seed)
    starts.save(run.mdrnn / "starts.safetensors")
    if best.pays:
        measured: dict[str, Any] = {}
        if cfg.include_reward:
            measured["open_loop"] = quality.open_loop(best, test_set.episodes, seed=cfg.seed)
        if collection:
            options = envs.reset_options(collection["env"], collection["start"])
            measured["ranking"] = quality.ranking(best, starts, collection["env"], options)
        write_json(run.mdrnn / "quality.json", measured)
        print("\n".join(quality.sentences(measured)))
    else:
        (run.mdrnn / "quality.json").unlink(missing_ok=True)  # of an M before


def collection_of(dataset: Dataset) -> dict[str, Any]:
    """What collect.json says about the first of the episodes' folders that has one; {} where none has, or where its
    environment is not registered (a file never makes this process import a module) or cannot start so."""
    for folder in sorted({path.parent for path in dataset.files}):
        if (folder / "collect.json").exists():
            found = read_json(folder / "collect.json")
            said = found if isinstance(found, dict) else {}
            env, start = str(said.get("env")), str(said.get("start"))
            return said if envs.registered(env) and start in envs.describe(env).starts else {}
    return {}


def action_labels(env_id: str) -> dict[str, Any]:
    """`action_kind`, `action_bounds` and `step_reward` of an M of this environment."""
    actions, step_reward = envs.actions_in(World(env_id)), envs.describe(env_id).step_reward
    pays = {"step_reward": step_reward} if step_reward else {}
    if not isinstance(actions, Box) or actions.name != "box":
        return {"action_kind": actions.name, **pays}
    return {"action_kind": "box", "action_bounds": [actions.low.tolist(), actions.high.tolist()], **pays}
