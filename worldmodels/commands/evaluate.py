"""Drive held-out episodes with the trained agent; write evaluation.json, a table, and a video when asked.

    worldmodels evaluate --logdir exp_dir --episodes 100
    worldmodels evaluate --policy mine.py:policy --episodes 100
    python test_controller.py --logdir exp_dir --render

With `--policy` anyone's policy drives (`worldmodels.workers.guest`), one episode at a time in each worker process, in
any environment of Gymnasium's. One that fails in an episode leaves that episode without a score, and no other.

A driver is scored where it was trained unless `--env` says otherwise. Our simulator of CarRacing draws Gymnasium's own
frames for it, every pixel, so that the scores are Gymnasium's (`--env CarRacing-v3` drives there, slowly). The episodes
with the seeds SEED … SEED + episodes − 1 are driven once each: one at a time in each worker process, or in our own
simulators a block side by side in this process. Either way a score depends on the seed and the agent alone, not on the
number of workers.

Every evaluation is kept in evaluation/, by what was driven; episodes that this driver has driven there are not driven
again, so that a run that is killed goes on, and 200 episodes extend 100. evaluation.json (and evaluation.mp4) is the
widest evaluation of the present driver. evaluation/ also gets metrics.jsonl, a row per episode, and TensorBoard events.
"""

import contextlib
import re
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from worldmodels import agent, envs, pretrained
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive
from worldmodels.runs import metrics
from worldmodels.runs.book import Book, Score
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.progress import machines, progress
from worldmodels.runs.settings import Evaluate
from worldmodels.runs.versions import versions
from worldmodels.show import scores, spectator
from worldmodels.workers.driver import Course, Drivers, Job, best_of
from worldmodels.workers.guest import Failed, Guests
from worldmodels.workers.places import choose_device, choose_places, limited_threads
from worldmodels.workers.pool import Setup, open_pool

LANES = 64  # episodes that a batched environment drives side by side


def main(cfg: Evaluate) -> None:
    """Score every episode that has no score yet, then write the evaluation and print the table."""
    check(cfg)
    cfg = whose(cfg)
    run, folder = RunDir.of(cfg.logdir), RunDir.of(cfg.output or cfg.logdir)
    try_out(cfg)
    window, filming = ways_to_watch(cfg)
    key, description = identity(cfg, run), envs.describe(str(cfg.env))
    with alone(folder.evaluations, "evaluating"):
        book = Book(folder, key, range(cfg.seed, cfg.seed + cfg.episodes), description.episode)
        if window:
            watch(cfg, run, book)
        elif not book.missing:
            print(
                f"{cfg.policy or cfg.logdir} has driven these {book.episode}s already: "
                f"delete {book.path} to drive them again."
            )
        else:
            score(cfg, run, book)
        if filming and not book.filmed:
            film(cfg, run, book)
        result = scores.summarise(book, command(cfg))
        written = book.close(result)
        metrics.write_whole(folder.evaluations, book.episode, rows(book))
    print(scores.table(result))
    if known := description.baselines:
        print("Policies without eyes: " + ", ".join(f"{name} {mean:.0f}" for name, mean in known.items()) + ".")
    shown = folder.video if written == folder.evaluation else book.film
    print(f"Written to {written}" + (f" and {shown}." if book.video else "."))


def whose(cfg: Evaluate) -> Evaluate:
    """The same with what follows from who drives: where, and where the scores are kept; UserError for nobody."""
    if cfg.policy is not None:
        refuse_with_policy(cfg)
        name = re.sub(r"[^-\w.]", "_", cfg.policy)
        return replace(cfg, env=cfg.env or envs.CARRACING, output=cfg.output or f"evaluation-{name}")
    if cfg.pretrained is not None:
        output = cfg.output or f"evaluation-{cfg.pretrained}"
        cfg = replace(cfg, logdir=str(pretrained.folder(cfg.pretrained)), output=output)
    driver = agent.load(RunDir.of(cfg.logdir))  # a missing V, M or C is said before anything starts
    return replace(cfg, env=cfg.env or driver.env_id)


def refuse_with_policy(cfg: Evaluate) -> None:
    """UserError for what is said beside --policy and would be ignored."""
    for flag in ("logdir", "pretrained"):
        if getattr(cfg, flag) != getattr(Evaluate, flag):
            raise UserError(f"--policy and --{flag} both say who drives: leave one of them out.")
    if cfg.render or cfg.video:
        raise UserError("--render and --video show what V and M see: with --policy, leave them out.")
    if cfg.device != "auto":
        raise UserError("--device is for V and M: with --policy leave it out, the policy chooses its own device.")


def try_out(cfg: Evaluate) -> None:
    """UserError for what would end the evaluation during or after its drives."""
    if cfg.policy is not None:
        return  # its fingerprint drives a whole episode
    device_of(cfg)
    spectator.try_out(world_of(cfg), cfg.max_steps, cfg.video)


def score(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive the missing episodes on workers, keeping every score as it comes.

    Raises:
        UserError: the policy failed in an episode; the others are kept.
    """
    setup, parameters, lanes = drivers(cfg, run)
    places = choose_places(device_of(cfg), cfg.max_workers, lanes > 1)[: len(book.missing)]
    failed: list[Failed] = []
    with (
        progress(total=len(book.seeds), initial=len(book.driven), desc="evaluate", unit=book.episode) as bar,
        open_pool(setup, places, ray=cfg.ray, most=cfg.max_workers) as pool,
    ):
        missing, size = book.missing, min(lanes, -(-len(book.missing) // pool.workers))
        blocks = [missing[i : i + size] for i in range(0, len(missing), size)]
        jobs = [Job(tuple(map(Episode, block)), parameters, Course(max_steps=cfg.max_steps)) for block in blocks]
        for index, outcome in pool.run(jobs):
            if isinstance(outcome, Failed):
                failed.append(outcome)
                continue
            columns = (outcome.scores.tolist(), outcome.lengths.tolist(), outcome.endings)
            book.add(dict(zip(blocks[index], map(Score, *columns), strict=True)))
            bar.update(len(blocks[index]))
            mean = np.mean([episode.score for episode in book.driven])
            bar.set_postfix_str(f"mean {mean:.1f}{machines(pool)}", refresh=False)
    if failed:
        first = min(failed, key=lambda failure: failure.seed)
        others = f" (and failed in {len(failed) - 1} more)" if failed[1:] else ""
        raise UserError(
            f"{cfg.policy} {first.mistake} of the episode with seed {first.seed}{others}: correct it and run the "
            f"command again; {len(book.driven)} of {len(book.seeds)} episodes are kept in {book.path}."
        )


def drivers(cfg: Evaluate, run: RunDir) -> tuple[Setup, np.ndarray | None, int]:
    """(who drives in the workers, C's parameters (1, n), episodes side by side in one of them)."""
    world = world_of(cfg)
    if cfg.policy is not None:
        return Guests(world, cfg.policy, cfg.max_steps), None, 1
    models, parameters = best_of(run, envs.actions_in(world))
    lanes = LANES if envs.describe(world.env_id).batched else 1
    return Drivers(world, lanes, models), parameters[None], lanes


def world_of(cfg: Evaluate) -> World:
    """Where scores are driven: our simulator of CarRacing draws Gymnasium's own frames for it, to the last bit."""
    assert cfg.env is not None
    return World(cfg.env, envs.find(cfg.env).scoring)


def device_of(cfg: Evaluate) -> torch.device:
    """A single lane gains nothing from a GPU, so `auto` uses one for batched environments only."""
    alone = cfg.policy is not None or not envs.describe(world_of(cfg).env_id).batched
    return choose_device("cpu" if cfg.device == "auto" and alone else cfg.device)


# --------------------------------------------------------------------------------------- what has been driven


def identity(cfg: Evaluate, run: RunDir) -> dict[str, Any]:
    """Everything that a score depends on besides the seed."""
    installed = {name: found for name, found in versions().items() if name != "commit"}
    model = run.driver() if cfg.policy is None else Guests(world_of(cfg), cfg.policy, cfg.max_steps).fingerprint()
    return {
        "env": cfg.env, "kwargs": dict(world_of(cfg).kwargs), "max_steps": cfg.max_steps, "model": model,
        "device": device_of(cfg).type, "versions": installed,
    }  # fmt: skip


def command(cfg: Evaluate) -> str:
    """The command line that repeats the evaluation."""
    who = ("--policy", cfg.policy) if cfg.policy else ("--pretrained", cfg.pretrained) if cfg.pretrained else None
    words = ["worldmodels", "evaluate", *(who or ("--logdir", cfg.logdir))]
    words += ["--env", str(cfg.env), "--episodes", str(cfg.episodes), "--seed", str(cfg.seed)]
    words += ["--max-steps", str(cfg.max_steps)] if cfg.max_steps else []
    return shlex.join(words + (["--device", cfg.device] if cfg.device != "auto" else []))


def rows(book: Book) -> list[dict[str, Any]]:
    """A row per episode, in order: its number from 1, seed, score and length in steps."""
    found = book.columns()
    driven = enumerate(zip(found["seeds"], found["scores"], found["lengths"], strict=True), 1)
    return [{book.episode: i, "seed": seed, "score": score, "length": n} for i, (seed, score, n) in driven]


# -------------------------------------------------------------------------------------------------- watching


def ways_to_watch(cfg: Evaluate) -> tuple[bool, bool]:
    """(in a window, as an mp4): `--render` falls back to the mp4, in a sentence, where no window can be opened.

    Raises:
        UserError: workers are asked for that a window has no use for.
    """
    if not cfg.render:
        return False, cfg.video
    if "human" not in spectator.render_modes(world_of(cfg)):
        print(f"{cfg.env} draws no window: evaluation.mp4 shows the drive instead.")
        return False, True
    if not spectator.has_display():
        print("There is no display to open a window on: evaluation.mp4 shows the drive instead.")
        return False, True
    if cfg.max_workers or cfg.ray:
        raise UserError("A window shows the drives here, one after another: leave --max-workers and --ray out.")
    return True, cfg.video


def watch(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive every episode in a window, which stays open from one to the next."""
    driver = agent.load(run, envs.actions_in(world_of(cfg)), device_of(cfg))
    with contextlib.closing(spectator.lane(world_of(cfg), cfg.max_steps, "human")) as lane, limited_threads(1):
        for seed in book.seeds:
            endings: dict[int, str] = {}
            total, length = drive(lane, driver.actions, driver, [Episode(seed)], on_end=endings.__setitem__)
            book.add({seed: Score(float(total[0]), int(length[0]), endings[0])})


def film(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive the first episode once more for the video."""
    driver, seed = agent.load(run, envs.actions_in(world_of(cfg))), book.seeds[0]
    total, length = spectator.film(driver, world_of(cfg), seed, book.film, max_steps=cfg.max_steps)
    file = book.film.relative_to(book.folder.path).as_posix()
    book.video = {"file": file, "seed": seed, "score": total, "length": length}
