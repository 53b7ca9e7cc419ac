"""Drive with a random policy (or a trained agent) and store the episodes.

    worldmodels collect --rollouts 1000 --threads 8
    (the seed: python data/generation_script.py --rollouts 1000 --rootdir datasets/carracing --threads 8)

Writes <rootdir>/rollout_000000.npz …, exactly as many as asked for, and collect.json with the settings they were driven
with; at the end metrics.jsonl, a row an episode, and TensorBoard events. Rollout i depends on (seed, i) alone: neither
`--threads` nor an interruption changes it, so that a collection that was killed goes on where it stopped.

Other settings, or more rollouts than asked for, in the folder are an error; `--noreload` deletes what this command
made there, and nothing else. Further .npz files and subfolders are left alone (training reads them too).
"""

import functools
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from worldmodels import envs
from worldmodels.data import minari as minari_export
from worldmodels.data.dataset import Dataset
from worldmodels.data.episodes import BadFile, episode_length, inspect, load_rewards, save_rollout
from worldmodels.data.policies import RandomPolicy
from worldmodels.envs import ActionKind
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, Policy, Rollout, drive, track_seeds
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs.files import replacing
from worldmodels.runs.settings import Collect
from worldmodels.workers.pool import cores, run_jobs

LANES = 16  # episodes side by side in one worker: enough to spread the interpreter's cost of a step
ALL_LANES = 64  # in all the workers together: 64 recorded episodes of 1,000 frames are 0.8 GB
AGENT_LANES = 8  # an agent's blocks: its arithmetic depends in the last bit on how many lanes it drives at once
NAME = re.compile(r"rollout_(\d{6,})\.npz")


def main(cfg: Collect) -> None:
    root = Path(cfg.rootdir)
    check(cfg)
    try_out(cfg)
    claim(root, cfg)
    missing = [rollout for rollout in range(cfg.rollouts) if not whole(rollout_path(root, rollout))]
    if missing:
        collect(cfg, missing)
    remove_temporary_files(root)
    dataset = collected(root, cfg.rollouts)
    logs.write_whole(root, "rollout", metrics(cfg, dataset))
    size = sum(path.stat().st_size for path in dataset.files) / 1e6
    print(f"{root} holds {cfg.rollouts:,} rollouts: {dataset.steps:,} steps, {size:,.0f} MB.")
    if cfg.format == "minari":
        minari_export.export(dataset, root / "minari", cfg.env, cfg.policy)


def collect(cfg: Collect, missing: list[int]) -> None:
    """Drive the missing rollouts on worker processes."""
    threads = cfg.threads or cores()
    native = envs.describe(cfg.env).native
    parts = blocks(missing) if cfg.policy == "agent" and native else shares(missing, threads, native)
    jobs = [Job(cfg, part, start_options(cfg)) for part in parts]
    steps = 0
    with tqdm(
        total=cfg.rollouts, initial=cfg.rollouts - len(missing), desc="Collecting", unit="rollout", dynamic_ncols=True
    ) as bar:
        for index, driven in run_jobs(drive_rollouts, jobs, min(threads, len(jobs))):
            steps += driven
            bar.update(len(set(jobs[index].rollouts) & set(missing)))
            bar.set_postfix_str(f"{steps / bar.format_dict['elapsed']:.0f} steps/s")


# --------------------------------------------------------------------------------------------- in a worker


@dataclass(frozen=True)
class Job:
    """Rollouts that one worker drives side by side."""

    cfg: Collect
    rollouts: tuple[int, ...]
    options: dict[str, Any] | None
    """of the environment's reset"""


def drive_rollouts(job: Job) -> int:
    """Drive those of the job's rollouts that are not there yet and write each as it ends; returns the steps driven.

    An agent drives the others again too, so that its arithmetic is that of an uninterrupted collection.
    """
    root = Path(job.cfg.rootdir)
    asked = [rollout for rollout in job.rollouts if rollout < job.cfg.rollouts]
    wanted = [rollout for rollout in asked if not whole(rollout_path(root, rollout))]
    if not wanted:
        return 0
    driven = list(job.rollouts) if job.cfg.policy == "agent" else wanted
    env = lanes(job.cfg.env, len(driven) if envs.describe(job.cfg.env).native else 1, job.cfg.max_steps)
    kind = envs.action_kind(envs.describe(job.cfg.env), env.single_action_space)
    episodes = [episode(job.cfg, rollout) for rollout in driven]

    def write(index: int, rollout: Rollout) -> None:
        if driven[index] in wanted:
            save_rollout(rollout_path(root, driven[index]), rollout, episodes[index].seed)

    _, lengths = drive(env, kind, driver(job.cfg, kind), episodes, options=job.options, on_rollout=write)
    return int(lengths.sum())


def episode(cfg: Collect, rollout: int) -> Episode:
    """The track and the driver of a rollout: an agent is the only one of its population, a random policy has as many
    noises as there are rollouts."""
    seed = track_seeds(cfg.seed, rollout, count=1)[0]
    return Episode(seed, candidate=0 if cfg.policy == "agent" else rollout)


@functools.lru_cache(maxsize=1)
def lanes(env_id: str, count: int, max_steps: int | None) -> VectorEnv:
    """The worker's environment, kept from one job to the next."""
    return envs.make(env_id, count, num_threads=1, max_steps=max_steps)


def driver(cfg: Collect, kind: ActionKind) -> Policy:
    """Who drives."""
    return load_agent(cfg, kind) if cfg.policy == "agent" else RandomPolicy(cfg.policy, kind, cfg.seed)


def load_agent(cfg: Collect, kind: ActionKind) -> Policy:
    """The trained agent of `cfg.logdir`; UserError when V, M or C is missing."""
    import torch  # random policies do without: 0.2 GB and two seconds a worker

    from worldmodels import agent

    if parent_process() is not None:
        torch.set_num_threads(1)  # the workers share the cores among them
    return agent.load(cfg.logdir, kind, agent.choose_device(cfg.device))


# ------------------------------------------------------------------------------------------ before driving


def check(cfg: Collect) -> None:
    """UserError for settings that cannot be."""
    config.check(cfg)
    if cfg.start == "anywhere" and not envs.describe(cfg.env).native:
        raise UserError(f"--start anywhere needs our own simulator, and {cfg.env} is another: leave the flag out.")
    if cfg.format == "minari":
        minari_export.require()


def try_out(cfg: Collect) -> None:
    """Make the environment and the driver once in this process and take a step.

    Whatever is wrong with them is said before anything is written, and a simulator that has to be compiled is compiled
    once, not by every worker.
    """
    env = envs.make(cfg.env, 1, num_threads=1, max_steps=cfg.max_steps)
    try:
        kind = envs.action_kind(envs.describe(cfg.env), env.single_action_space)
        driver(cfg, kind)
        env.reset(seed=0, options=start_options(cfg))
        env.step(kind.to_env(np.zeros((1, kind.size), dtype=np.float32)))
    finally:
        env.close()


def start_options(cfg: Collect) -> dict[str, Any] | None:
    """Reset options for `cfg.start`."""
    return envs.TRAINING_START if cfg.start == "anywhere" else None


def blocks(missing: Sequence[int]) -> list[tuple[int, ...]]:
    """The blocks of an agent's rollouts that hold a missing one: always the same blocks, whatever is missing."""
    numbers = sorted({rollout // AGENT_LANES for rollout in missing})
    return [tuple(range(n * AGENT_LANES, (n + 1) * AGENT_LANES)) for n in numbers]


def shares(missing: Sequence[int], threads: int, native: bool) -> list[tuple[int, ...]]:
    """The missing rollouts in equal shares, one a job: a full set of lanes in our own simulator, one elsewhere."""
    most = max(1, min(LANES, ALL_LANES // threads)) if native else 1
    rounds = -(-len(missing) // (threads * most))
    count = min(threads * rounds, len(missing))
    return [tuple(share.tolist()) for share in np.array_split(np.array(missing), count)]


# ---------------------------------------------------------------------------------------------- the folder


def rollout_path(root: Path, rollout: int) -> Path:
    return root / f"rollout_{rollout:06d}.npz"


def own_files(root: Path) -> dict[int, Path]:
    """The rollouts in the folder by number."""
    found = ((NAME.fullmatch(path.name), path) for path in root.glob("rollout_*.npz"))
    return {int(match[1]): path for match, path in found if match}


def metrics_files(root: Path) -> list[Path]:
    """metrics.jsonl and the TensorBoard events beside it."""
    return [*root.glob("metrics.jsonl"), *root.glob("events.out.tfevents.*")]


def whole(path: Path) -> bool:
    """Whether a rollout is there; one that is damaged is named, and will be driven again."""
    if not path.exists():
        return False
    try:
        return episode_length(path) == len(load_rewards(path))
    except BadFile as error:
        tqdm.write(f"{path} is damaged ({error.reason}): it is driven again.", file=sys.stderr)
        return False


def collected(root: Path, rollouts: int) -> Dataset:
    """The first `rollouts` rollouts of the folder."""
    files = tuple(rollout_path(root, rollout) for rollout in range(rollouts))
    return Dataset(files, tuple(inspect(path) for path in files))


def metrics(cfg: Collect, dataset: Dataset) -> list[dict[str, Any]]:
    """A row an episode, in order: number of the rollout from 1, seed of the track, sum of the rewards, steps."""
    rows = []
    for rollout, (path, length) in enumerate(zip(dataset.files, dataset.lengths, strict=True)):
        score = float(load_rewards(path).sum(dtype=np.float64))
        rows.append({"rollout": rollout + 1, "seed": episode(cfg, rollout).seed, "score": score, "length": length})
    return rows


def claim(root: Path, cfg: Collect) -> None:
    """Make the folder ours: settings recorded in collect.json, nothing of another collection in it.

    Raises:
        UserError: it cannot be written, or holds rollouts of other settings, or more of them than asked for.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if cfg.noreload and (root / "collect.json").exists():
            start_over(root)
        wanted, found = settings(cfg), recorded(root)
        if found is None and (own_files(root) or metrics_files(root)):
            held = "rollouts" if own_files(root) else "metrics"
            raise UserError(
                f"{root} holds {held}, but no collect.json that says how they were made: choose another --rootdir."
            )
        if found is not None and found != wanted:
            differences = ", ".join(
                f"{key} {found.get(key)} there, {wanted.get(key)} asked for"
                for key in sorted({*found, *wanted})
                if found.get(key) != wanted.get(key)
            )
            raise UserError(
                f"{root} holds rollouts of other settings ({differences}): "
                "use --noreload to start over, or another --rootdir."
            )
        last = max(own_files(root), default=-1)
        if last >= cfg.rollouts:
            raise UserError(
                f"{root} holds rollouts beyond the {cfg.rollouts} asked for: ask for {last + 1} or more, "
                "use --noreload to start over, or another --rootdir."
            )
        with replacing(root / "collect.json") as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{root} cannot be written ({error}): choose another --rootdir.") from error


def settings(cfg: Collect) -> dict[str, Any]:
    """What decides on the episodes of a collection, as collect.json holds it."""
    chosen = {key: getattr(cfg, key) for key in ("env", "policy", "start", "max_steps", "seed")}
    if cfg.policy == "agent":
        weights = hashlib.sha256()
        for part in ("vae", "mdrnn", "ctrl"):
            weights.update((Path(cfg.logdir) / part / "best.safetensors").read_bytes())
        chosen |= {"logdir": cfg.logdir, "weights": weights.hexdigest()[:16]}
    return chosen


def recorded(root: Path) -> dict[str, Any] | None:
    """The settings in collect.json; None where there is none."""
    path = root / "collect.json"
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("no settings in it")
        return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): choose another --rootdir, or use --noreload.") from error


def start_over(root: Path) -> None:
    """Delete what this command made in the folder; collect.json, by which it knows its own, at last."""
    for path in [*own_files(root).values(), *metrics_files(root)]:
        path.unlink()
    minari_export.remove(root / "minari")
    (root / "collect.json").unlink()


def remove_temporary_files(root: Path) -> None:
    """Delete what killed workers left half written."""
    for path in root.glob(".rollout_*.npz.*.tmp"):
        path.unlink(missing_ok=True)
