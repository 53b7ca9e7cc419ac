"""Drive with a random policy (or a trained agent) and store the episodes.

    worldmodels collect --rollouts 1000 --threads 8
    (ctallec's port: python data/generation_script.py --rollouts 1000 --rootdir datasets/carracing --threads 8)

Writes <rootdir>/rollout_000000.npz …, exactly as many as asked for, and collect.json with the settings they were driven
with; at the end metrics.jsonl, a row per episode, and TensorBoard events. Rollout i depends on (seed, i) alone: neither
`--threads` nor an interruption changes it, so that a collection that was killed goes on where it stopped. With
`--longer-than`, rollout i is the first of its episodes that is long enough.

Other settings, or more rollouts than asked for, in the folder are an error; `--noreload` deletes what this command
made there, and nothing else. Further .npz files and subfolders are left alone (training reads them too).
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodels import envs
from worldmodels.data import minari
from worldmodels.data.dataset import Dataset
from worldmodels.data.episodes import BadFile, inspect
from worldmodels.envs import World
from worldmodels.envs.seeds import training_seeds
from worldmodels.errors import UserError
from worldmodels.rollout import Episode
from worldmodels.runs import metrics
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone, write_atomically, write_json
from worldmodels.runs.progress import Pace, machines, progress
from worldmodels.runs.settings import Collect
from worldmodels.workers.driver import Course, Drivers, Job, best_of
from worldmodels.workers.places import Place, choose_device, choose_places, cores
from worldmodels.workers.pool import Pool, open_pool, try_cluster

LANES = 16  # episodes side by side in one worker: enough to spread the interpreter's cost of a step
ALL_LANES = 64  # in all the workers of a machine together: 64 recorded episodes of 1,000 frames are 0.8 GB
MOST_ROLLOUTS = 10**7  # of a collection
AGENT_LANES = 8  # an agent's
ATTEMPTS = 100  # at an episode of more than --longer-than steps
NAME = re.compile(r"rollout_(\d{6,})\.npz")


def main(cfg: Collect) -> None:
    check(cfg)
    root = cfg.folder
    try_out(cfg)
    drivers, population = who_drives(cfg)
    with alone(root, "collecting"):
        claim(root, cfg)
        missing = [rollout for rollout in range(cfg.rollouts) if not whole(rollout_path(root, rollout))]
        if missing:
            collect(cfg, drivers, population, missing)
        remove_temporary_files(root)
        dataset = collected(root, cfg.rollouts)
        metrics.write_whole(root, "rollout", rows(dataset))
        size = sum(path.stat().st_size for path in dataset.files) / 1e6
        print(f"{root} holds {cfg.rollouts:,} rollouts: {dataset.steps:,} steps, {size:,.0f} MB.")
        if cfg.format == "minari":
            minari.export(dataset, root / "minari", cfg.env, cfg.policy)


def collect(cfg: Collect, drivers: Drivers, population: np.ndarray | None, missing: list[int]) -> None:
    """Drive the missing rollouts on workers, and write each job's as it ends; too short ones once more."""
    root, pace, wanted = cfg.folder, Pace(), set(missing)
    course = Course(cfg.start, cfg.max_steps)
    with (
        progress(total=cfg.rollouts, initial=cfg.rollouts - len(missing), desc="Collecting", unit="rollout") as bar,
        open_pool(drivers, where(cfg)[: len(missing)], ray=cfg.ray, most=cfg.threads) as pool,
    ):
        for attempt in range(ATTEMPTS):
            parts = shares(sorted(wanted), pool, drivers.lanes)
            jobs = [
                Job(tuple(episode(cfg, i, attempt) for i in part), population, course, record=True) for part in parts
            ]
            for index, outcome in pool.run(jobs, pace.add):
                for rollout, data, length in zip(parts[index], outcome.rollouts, outcome.lengths, strict=True):
                    if length > cfg.longer_than:
                        write_atomically(rollout_path(root, rollout), data)
                        wanted.remove(rollout)
                        bar.update()
                bar.set_postfix_str(f"{pace}{machines(pool)}", refresh=False)
            if not wanted:
                return
    raise UserError(f"{ATTEMPTS} episodes in a row were no longer than {cfg.longer_than} steps: lower --longer-than.")


# ------------------------------------------------------------------------------------------------ who drives


def who_drives(cfg: Collect) -> tuple[Drivers, np.ndarray | None]:
    """What every worker is set up with, and C's parameters (1, n) if a trained agent drives; UserError where V, M or C
    is missing or does not fit."""
    description, world = envs.find(cfg.env), World.practice(cfg.env)
    if cfg.policy != "agent":
        return Drivers(world, LANES if description.batched else 1, policy=cfg.policy, seed=cfg.seed), None
    models, parameters = best_of(RunDir.of(cfg.logdir), envs.actions_in(world))
    return Drivers(world, AGENT_LANES if description.batched else 1, models), parameters[None]


def refuse(cfg: Collect) -> None:
    """UserError for settings that do not go together."""
    description = envs.find(cfg.env)
    envs.reset_options(cfg.env, cfg.start)
    limit = envs.limit_of(description, cfg.max_steps)
    if cfg.longer_than and limit and limit <= cfg.longer_than:
        raise UserError(
            f"No episode of at most {limit} steps ({'--max-steps' if limit == cfg.max_steps else cfg.env}) is longer "
            f"than {cfg.longer_than} (--longer-than): lower that."
        )
    if cfg.format == "minari":
        minari.require()


def where(cfg: Collect) -> tuple[Place, ...]:
    """A process per core, each on one thread; with an agent and a GPU, on the GPU."""
    if cfg.policy != "agent":
        return (Place("cpu", 1),) * (cfg.threads or cores())
    return choose_places(choose_device(cfg.device), cfg.threads, batched=False)


def episode(cfg: Collect, rollout: int, attempt: int = 0) -> Episode:
    """The seed and the driver of a rollout: an agent is the only one of its population, a random policy has as many
    noises as there are rollouts and attempts at one."""
    seed = training_seeds(cfg.seed, rollout, count=attempt + 1)[attempt]
    return Episode(seed, candidate=0 if cfg.policy == "agent" else rollout + attempt * MOST_ROLLOUTS)


def try_out(cfg: Collect) -> None:
    """UserError for what would be wrong after what is there was moved or deleted."""
    refuse(cfg)
    envs.tried(World.practice(cfg.env), cfg.start, cfg.max_steps)
    if cfg.noreload:
        try_cluster(cfg.ray)


def shares(missing: Sequence[int], pool: Pool, lanes: int) -> list[tuple[int, ...]]:
    """The missing rollouts in equal shares, one per job."""
    most = max(1, min(lanes, ALL_LANES * pool.nodes // pool.workers))
    rounds = -(-len(missing) // (pool.workers * most))
    count = min(pool.workers * rounds, len(missing))
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
        inspect(path)
    except BadFile as error:
        tqdm.write(f"{path} is damaged ({error.reason}): it is driven again.", file=sys.stderr)
        return False
    return True


def collected(root: Path, rollouts: int) -> Dataset:
    """The first `rollouts` rollouts of the folder."""
    return Dataset(tuple(inspect(rollout_path(root, rollout)) for rollout in range(rollouts)))


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    """A row per episode, in order: number of the rollout from 1, seed, sum of the rewards, steps."""
    return [
        {"rollout": number, "seed": head.seed, "score": head.score, "length": head.length}
        for number, head in enumerate(dataset.heads, start=1)
    ]


def claim(root: Path, cfg: Collect) -> None:
    """Make the folder ours: settings recorded in collect.json, nothing of another collection in it; UserError where it
    holds rollouts of other settings, or more of them than asked for."""
    if cfg.noreload and (root / "collect.json").exists():
        start_over(root)
    wanted, found = settings(cfg), recorded(root)
    if found is None and (own_files(root) or metrics_files(root)):
        held = "rollouts" if own_files(root) else "metrics"
        raise UserError(
            f"{root} holds {held}, but no collect.json that says how they were made: choose another --rootdir."
        )
    if found is not None and (differences := different(found, wanted)):
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
    write_json(root / "collect.json", wanted)


def settings(cfg: Collect) -> dict[str, Any]:
    """What decides on the episodes of a collection, as collect.json holds it."""
    chosen = {key: getattr(cfg, key) for key in ("env", "policy", "start", "max_steps", "seed")}
    if cfg.longer_than:  # collections of before this setting have none
        chosen["longer_than"] = cfg.longer_than
    if cfg.policy == "agent":
        chosen |= {"logdir": cfg.logdir, "driver": RunDir.of(cfg.logdir).driver()[:16]}
    return chosen


def different(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The settings that differ, for people; where the same driver lies now does not count."""
    names = sorted({*found, *wanted} - {"logdir", "weights"})
    return ", ".join(
        f"{name} {found.get(name)} there, {wanted.get(name)} asked for"
        for name in names
        if found.get(name) != wanted.get(name) and not (name == "driver" and "weights" in found)  # version 0.1
    )


def recorded(root: Path) -> dict[str, Any] | None:
    """The settings in collect.json; None where there is none."""
    path = root / "collect.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no settings in it")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --rootdir, or use --noreload.") from error


def start_over(root: Path) -> None:
    """Delete what this command made in the folder; collect.json, by which it knows its own, at last."""
    for path in [*own_files(root).values(), *metrics_files(root)]:
        path.unlink()
    minari.remove(root / "minari")
    (root / "collect.json").unlink()


def remove_temporary_files(root: Path) -> None:
    """Delete what killed workers left half written."""
    for path in root.glob(".rollout_*.npz.*.tmp"):
        path.unlink(missing_ok=True)
