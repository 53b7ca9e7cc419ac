"""Drive held-out tracks with the trained agent; write evaluation.json, a table, and a video when asked.

    worldmodels evaluate --logdir exp_dir --episodes 100
    python test_controller.py --logdir exp_dir --render

A driver is scored where it was trained unless `--env` says otherwise. Our simulator of CarRacing draws Gymnasium's own
frames for it, every pixel, so that the scores are Gymnasium's (`--env CarRacing-v3` drives there, slowly). The episodes
with the seeds SEED … SEED + episodes − 1 are driven once each: one at a time in each worker process, or in our own
simulators a block side by side in this process. Either way a score depends on the seed and the agent alone, not on the
number of workers.

Every evaluation is kept in evaluation/, by what was driven; episodes that this driver has driven there are not driven
again, so that a run that is killed goes on, and 200 episodes extend 100. evaluation.json is the widest evaluation of
the present driver. evaluation/ also gets metrics.jsonl, a row per episode, and TensorBoard events.
"""

import contextlib
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels import agent, envs, pretrained
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive
from worldmodels.runs import metrics
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone, read_json, write_json
from worldmodels.runs.progress import progress
from worldmodels.runs.settings import Evaluate, check
from worldmodels.runs.versions import versions
from worldmodels.show import spectator
from worldmodels.workers.driver import Course, Drivers, Job, best_of
from worldmodels.workers.places import choose_device, choose_places, limited_threads
from worldmodels.workers.pool import open_pool

LANES = 64  # episodes that a batched environment drives side by side
Score = tuple[float, int]
"""Sum of the rewards, steps."""


def main(cfg: Evaluate) -> None:
    """Score every episode that has no score yet, then write the evaluation and print the table."""
    check(cfg)
    if cfg.pretrained is not None:
        output = cfg.output or f"evaluation-{cfg.pretrained}"
        cfg = replace(cfg, logdir=str(pretrained.folder(cfg.pretrained)), output=output)
    run, folder = RunDir.of(cfg.logdir), RunDir.of(cfg.output or cfg.logdir)
    driver = agent.load(run)  # a missing V, M or C is said before anything starts
    cfg = replace(cfg, env=cfg.env or driver.env_id)
    try_out(cfg)
    window, filming = ways_to_watch(cfg)
    with alone(folder.evaluations, "evaluating"):
        book = Book.open(folder, identity(cfg, run), range(cfg.seed, cfg.seed + cfg.episodes))
        if window:
            watch(cfg, run, book)
        elif not book.missing:
            print(f"{cfg.logdir} has driven these tracks already: delete {book.path} to drive them again.")
        else:
            score(cfg, run, book)
        if filming and not book.filmed:
            film(cfg, run, book)
        result = summarise(book, command(cfg))
        written = book.close(result)
        metrics.write_whole(folder.evaluations, "track", rows(result))
    print(table(result))
    if known := envs.describe(result["env"]).baselines:
        print("Policies without eyes: " + ", ".join(f"{name} {mean:.0f}" for name, mean in known.items()) + ".")
    print(f"Written to {written}" + (f" and {folder.video}." if book.video else "."))


def try_out(cfg: Evaluate) -> None:
    """UserError for what would end the evaluation during or after its drives."""
    choose_device(device_of(cfg))
    spectator.try_out(world_of(cfg), cfg.max_steps, cfg.video)


def score(cfg: Evaluate, run: RunDir, book: "Book") -> None:
    """Drive the missing episodes on workers, keeping every score as it comes."""
    world = world_of(cfg)
    batched = envs.describe(world.env_id).batched
    models, parameters = best_of(run, envs.actions_in(world))
    blocks = book.blocks(LANES if batched else 1)
    jobs = [Job(tuple(map(Episode, block)), parameters[None], Course(max_steps=cfg.max_steps)) for block in blocks]
    places = choose_places(choose_device(device_of(cfg)), cfg.max_workers, batched)[: len(jobs)]
    with (
        progress(
            total=len(book.seeds), initial=len(book.seeds) - len(book.missing), desc="evaluate", unit="track"
        ) as bar,
        open_pool(Drivers(world, LANES if batched else 1, models), places) as pool,
    ):
        for index, outcome in pool.run(jobs):
            book.add(blocks[index], zip(outcome.scores.tolist(), outcome.lengths.tolist(), strict=True))
            bar.update(len(blocks[index]))
            bar.set_postfix_str(f"mean {book.mean:.1f}", refresh=False)


def world_of(cfg: Evaluate) -> World:
    """Where scores are driven: our simulator of CarRacing draws Gymnasium's own frames for it, to the last bit."""
    assert cfg.env is not None
    return World(cfg.env, envs.find(cfg.env).scoring)


def device_of(cfg: Evaluate) -> str:
    """A single lane gains nothing from a GPU, so `auto` uses one for batched environments only."""
    return "cpu" if cfg.device == "auto" and not envs.describe(world_of(cfg).env_id).batched else cfg.device


# --------------------------------------------------------------------------------------- what has been driven


def identity(cfg: Evaluate, run: RunDir) -> dict[str, Any]:
    """Everything that a score depends on besides the seed."""
    installed = {name: found for name, found in versions().items() if name not in ("commit", "dirty")}
    device = choose_device(device_of(cfg)).type
    return {
        "env": cfg.env, "kwargs": dict(world_of(cfg).kwargs), "max_steps": cfg.max_steps, "model": run.driver(),
        "device": device, "versions": installed,
    }  # fmt: skip


@dataclass
class Book:
    """The scores of one evaluation, on disk as they come."""

    folder: RunDir
    key: dict[str, Any]
    """What drives where."""
    seeds: range
    """What is asked for."""
    scores: dict[int, Score] = field(default_factory=dict)
    """By seed."""
    video: dict[str, Any] | None = None
    """The drive that the video shows: file, seed, score, length."""

    @staticmethod
    def open(folder: RunDir, key: dict[str, Any], seeds: range) -> "Book":
        """What earlier evaluations of the same driver in the same environment have left, finished or not."""
        book = Book(folder, key, seeds)
        for path in [folder.evaluation, *sorted(folder.evaluations.glob("*.json"))]:
            with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):  # missing, damaged, or foreign
                found = read_json(path)
                if all(found[part] == value for part, value in key.items()):
                    pairs = zip(found["seeds"], found["scores"], found["lengths"], strict=True)
                    book.scores |= {seed: (score, length) for seed, score, length in pairs if score is not None}
                    book.video = found["video"] or book.video
        return book

    @property
    def path(self) -> Path:
        """Named by what is driven, and which episodes."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^-\w.]", "_", self.key["env"])
        return self.folder.evaluations / f"{name}_{self.seeds[0]}+{len(self.seeds)}_{digest}.json"

    @property
    def missing(self) -> list[int]:
        return [seed for seed in self.seeds if seed not in self.scores]

    @property
    def mean(self) -> float:
        return float(np.mean([self.scores[seed][0] for seed in self.seeds if seed in self.scores]))

    @property
    def filmed(self) -> bool:
        """Whether the video of this evaluation is there."""
        return self.video is not None and self.video["seed"] == self.seeds[0] and self.folder.video.exists()

    def blocks(self, size: int) -> list[tuple[int, ...]]:
        """The missing episodes side by side; the borders of the blocks do not depend on what was driven before."""
        parts = [tuple(self.seeds[i : i + size]) for i in range(0, len(self.seeds), size)]
        return [part for part in parts if not all(seed in self.scores for seed in part)]

    def add(self, seeds: tuple[int, ...], driven: "Iterator[Score] | zip[Score]") -> None:
        """Enter scores and save."""
        self.scores |= dict(zip(seeds, driven, strict=True))
        self.save()

    def save(self) -> None:
        kept = [self.scores.get(seed, (None, None)) for seed in self.seeds]
        scores, lengths = [score for score, _ in kept], [length for _, length in kept]
        content = {**self.key, "seeds": list(self.seeds), "scores": scores, "lengths": lengths, "video": self.video}
        write_json(self.path, content)

    def close(self, result: dict[str, Any]) -> Path:
        """Keep the finished evaluation; where it is: evaluation.json stays if it says more about the same driver."""
        if not self.path.exists() or read_json(self.path) != result:
            write_json(self.path, result)
        with contextlib.suppress(UserError, KeyError, TypeError):
            there = read_json(self.folder.evaluation)
            says_more = there["max_steps"] is None, there["episodes"]
            if there["model"] == result["model"] and says_more > (result["max_steps"] is None, result["episodes"]):
                print(f"{self.folder.evaluation} keeps the evaluation over {there['episodes']} tracks.")
                return self.path
        write_json(self.folder.evaluation, result)
        return self.folder.evaluation


def summarise(book: Book, command: str) -> dict[str, Any]:
    """The content of evaluation.json.

    `std` is the sample standard deviation (n − 1) over the episodes, `stderr` that of the mean; both are None for a
    single one, which has no spread.
    """
    scores = np.array([book.scores[seed][0] for seed in book.seeds])
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
    return {
        "env": book.key["env"],
        "episodes": len(scores),
        "mean": float(scores.mean()),
        "std": spread,
        "stderr": None if spread is None else spread / len(scores) ** 0.5,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "command": command,
        **book.key,
        "commit": versions().get("commit"),
        "video": book.video,
        "seeds": list(book.seeds),
        "scores": scores.tolist(),
        "lengths": [book.scores[seed][1] for seed in book.seeds],
    }


def command(cfg: Evaluate) -> str:
    """The command line that repeats the evaluation."""
    words = [
        "worldmodels",
        "evaluate",
        *(("--pretrained", cfg.pretrained) if cfg.pretrained else ("--logdir", cfg.logdir)),
    ]
    words += ["--env", str(cfg.env), "--episodes", str(cfg.episodes), "--seed", str(cfg.seed)]
    words += ["--max-steps", str(cfg.max_steps)] if cfg.max_steps else []
    return shlex.join(words + (["--device", cfg.device] if cfg.device != "auto" else []))


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per episode, in order: its number from 1, seed, score and length in steps."""
    driven = zip(result["seeds"], result["scores"], result["lengths"], strict=True)
    return [{"track": i, "seed": seed, "score": score, "length": n} for i, (seed, score, n) in enumerate(driven, 1)]


def table(result: dict[str, Any], columns: int = 10) -> str:
    """Every score, ten a line, and what they come to."""
    seeds, scores = result["seeds"], result["scores"]
    columns = min(columns, len(scores))
    width = max(len(str(seeds[-1])), 5)
    lines = [f"{'track':>{width}} │" + "".join(f"{f'+{i}':>8}" for i in range(columns))]
    lines.append("─" * width + "─┼" + "─" * 8 * columns)
    for i in range(0, len(scores), columns):
        row = "".join(f"{score:8.1f}" for score in scores[i : i + columns])
        lines.append(f"{seeds[i]:>{width}} │{row}")
    return "\n".join([*lines, "", headline(result)])


def headline(result: dict[str, Any]) -> str:
    """One line: mean ± standard deviation, how sure that is, and over what."""
    tracks = f"{result['episodes']} track{'s' if result['episodes'] > 1 else ''} of {result['env']}"
    tracks += " on Gymnasium's own frames" if result["kwargs"].get("frames") == "exact" else ""
    cut = f", cut after {result['max_steps']} steps" if result["max_steps"] else ""
    if result["std"] is None:
        return f"{result['mean']:.1f} on {tracks}{cut}"
    spread = f"{result['mean']:.1f} ± {result['std']:.1f} over {tracks}{cut}"
    return f"{spread} (standard error {result['stderr']:.1f}, lowest {result['min']:.1f}, highest {result['max']:.1f})"


# -------------------------------------------------------------------------------------------------- watching


def ways_to_watch(cfg: Evaluate) -> tuple[bool, bool]:
    """(in a window, as an mp4): `--render` falls back to the mp4, in a sentence, where no window can be opened."""
    if not cfg.render:
        return False, cfg.video
    if "human" not in spectator.render_modes(world_of(cfg)):
        print(f"{cfg.env} draws no window: evaluation.mp4 shows the drive instead.")
        return False, True
    if not spectator.has_display():
        print("There is no display to open a window on: evaluation.mp4 shows the drive instead.")
        return False, True
    return True, cfg.video


def watch(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive every episode in a window, which stays open from one to the next."""
    driver = agent.load(run, envs.actions_in(world_of(cfg)))
    lane = spectator.lane(world_of(cfg), cfg.max_steps, "human")
    try:
        with limited_threads(1):
            for seed in book.seeds:
                scores, lengths = drive(lane, driver.actions, driver, [Episode(seed)])
                book.add((seed,), zip(scores.tolist(), lengths.tolist(), strict=True))
    finally:
        lane.close()


def film(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive the first episode once more for the video."""
    driver, seed = agent.load(run, envs.actions_in(world_of(cfg))), book.seeds[0]
    total, length = spectator.film(driver, world_of(cfg), seed, book.folder.video, max_steps=cfg.max_steps)
    book.video = {"file": book.folder.video.name, "seed": seed, "score": total, "length": length}
