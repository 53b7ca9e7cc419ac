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
import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodels import agent, envs, pretrained
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive
from worldmodels.runs import metrics
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone, read_json, write_atomically, write_json
from worldmodels.runs.progress import machines, progress
from worldmodels.runs.settings import Evaluate
from worldmodels.runs.versions import versions
from worldmodels.show import spectator
from worldmodels.workers.driver import Course, Drivers, Job, Outcome, best_of
from worldmodels.workers.guest import Failed, Guests
from worldmodels.workers.places import choose_device, choose_places, limited_threads
from worldmodels.workers.pool import Setup, open_pool

LANES = 64  # episodes that a batched environment drives side by side
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
AROUND = 0.95  # of the tiles: Gymnasium's lap_complete_percent


class Score(NamedTuple):
    """What one episode came to."""

    score: float
    """Sum of the rewards."""
    length: int
    """Steps."""
    ending: str
    """`worldmodels.rollout.ending`"""

    @property
    def crashed(self) -> bool:
        """In an environment of laps: off the playfield, or not around when time was up.

        A lap pays 1,000 for all its tiles and takes 0.1 per step, so the score says which share of them was visited.
        """
        return self.ending == "off" or (self.ending == "time" and self.score + 0.1 * self.length < 1000 * AROUND)


def main(cfg: Evaluate) -> None:
    """Score every episode that has no score yet, then write the evaluation and print the table."""
    check(cfg)
    cfg = whose(cfg)
    run, folder = RunDir.of(cfg.logdir), RunDir.of(cfg.output or cfg.logdir)
    try_out(cfg)
    window, filming = ways_to_watch(cfg)
    who = identity(cfg, run)
    with alone(folder.evaluations, "evaluating"):
        book = Book.open(folder, who, range(cfg.seed, cfg.seed + cfg.episodes))
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
        result = summarise(book, command(cfg))
        written = book.close(result)
        metrics.write_whole(folder.evaluations, book.episode, rows(result))
    print(table(result))
    if known := envs.describe(result["env"]).baselines:
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
    for flag, meaning in (("logdir", "a run"), ("pretrained", "a driver of the package")):
        if getattr(cfg, flag) != getattr(Evaluate(), flag):
            raise UserError(f"--policy and --{flag} both say who drives: leave one out ({flag} is {meaning}).")
    if cfg.render or cfg.video:
        raise UserError("--render and --video show what V and M see: with --policy, leave them out.")
    if cfg.device != "auto":
        raise UserError("--device is for V and M: with --policy leave it out, the policy chooses its own device.")


def try_out(cfg: Evaluate) -> None:
    """UserError for what would end the evaluation during or after its drives."""
    if cfg.policy is not None:
        return  # its fingerprint drives a whole episode
    choose_device(device_of(cfg))
    spectator.try_out(world_of(cfg), cfg.max_steps, cfg.video)


def score(cfg: Evaluate, run: RunDir, book: "Book") -> None:
    """Drive the missing episodes on workers, keeping every score as it comes.

    Raises:
        UserError: the policy failed in an episode; the others are kept.
    """
    setup, parameters, lanes = drivers(cfg, run)
    places = choose_places(choose_device(device_of(cfg)), cfg.max_workers, lanes > 1)[: len(book.missing)]
    failed: list[Failed] = []
    with (
        progress(
            total=len(book.seeds), initial=len(book.seeds) - len(book.missing), desc="evaluate", unit=book.episode
        ) as bar,
        open_pool(setup, places, ray=cfg.ray, most=cfg.max_workers) as pool,
    ):
        blocks = book.blocks(min(lanes, -(-len(book.missing) // pool.workers)))
        jobs = [Job(tuple(map(Episode, block)), parameters, Course(max_steps=cfg.max_steps)) for block in blocks]
        for index, outcome in pool.run(jobs):
            if isinstance(outcome, Failed):
                failed.append(outcome)
                continue
            book.add(blocks[index], outcome)
            bar.update(len(blocks[index]))
            bar.set_postfix_str(f"mean {book.mean:.1f}{machines(pool)}", refresh=False)
    if failed:
        first = min(failed, key=lambda failure: failure.seed)
        others = f" (and failed in {len(failed) - 1} more)" if failed[1:] else ""
        kept = f"{len(book.seeds) - len(book.missing)} of {len(book.seeds)} episodes are kept in {book.path}"
        raise UserError(
            f"{cfg.policy} {first.mistake} of the episode with seed {first.seed}{others}: correct it and run "
            f"the command again; {kept}."
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


def device_of(cfg: Evaluate) -> str:
    """A single lane gains nothing from a GPU, so `auto` uses one for batched environments only."""
    alone = cfg.policy is not None or not envs.describe(world_of(cfg).env_id).batched
    return "cpu" if cfg.device == "auto" and alone else cfg.device


# --------------------------------------------------------------------------------------- what has been driven


def identity(cfg: Evaluate, run: RunDir) -> dict[str, Any]:
    """Everything that a score depends on besides the seed."""
    installed = {name: found for name, found in versions().items() if name != "commit"}
    device = choose_device(device_of(cfg)).type
    model = run.driver() if cfg.policy is None else Guests(world_of(cfg), cfg.policy, cfg.max_steps).fingerprint()
    return {
        "env": cfg.env, "kwargs": dict(world_of(cfg).kwargs), "max_steps": cfg.max_steps, "model": model,
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
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError, AttributeError):  # missing or foreign
                found = read_json(path)
                if all(found[part] == value for part, value in key.items()):
                    columns = (found[name] for name in ("seeds", "scores", "lengths", "endings"))
                    book.scores |= {
                        seed: Score(float(score), int(length), ending)
                        for seed, score, length, ending in zip(*columns, strict=True)
                        if metrics.is_number(score) and metrics.is_number(length) and isinstance(ending, str)
                    }
                    if found["video"] and found["video"]["seed"] == seeds[0] and found["video"]["file"] in book.films:
                        book.video = found["video"]
        return book

    @property
    def episode(self) -> str:
        """What an episode is called there."""
        return envs.describe(self.key["env"]).episode

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
        return float(np.mean([self.scores[seed].score for seed in self.seeds if seed in self.scores]))

    @property
    def films(self) -> set[str]:
        """Every video in the folder, relative to it: no other file is taken for one."""
        films = [self.folder.video, *self.folder.evaluations.glob("*.mp4")]
        return {film.relative_to(self.folder.path).as_posix() for film in films if film.exists()}

    @property
    def filmed(self) -> bool:
        """Whether the video of this evaluation is there."""
        return self.video is not None and self.film.exists()

    @property
    def film(self) -> Path:
        """The video: every evaluation has its own."""
        return self.folder.path / self.video["file"] if self.video else self.path.with_suffix(".mp4")

    def blocks(self, size: int) -> list[tuple[int, ...]]:
        """The missing episodes, so many side by side."""
        missing = self.missing
        return [tuple(missing[i : i + size]) for i in range(0, len(missing), size)]

    def add(self, seeds: tuple[int, ...], outcome: Outcome) -> None:
        """Enter the scores of `seeds` and save."""
        driven = zip(outcome.scores.tolist(), outcome.lengths.tolist(), outcome.endings, strict=True)
        self.scores |= dict(zip(seeds, map(Score._make, driven), strict=True))
        self.save()

    def save(self) -> None:
        write_json(self.path, {**self.key, **self.columns(), "video": self.video})

    def columns(self) -> dict[str, list[Any]]:
        """Seeds, scores, lengths and endings, an entry per episode; None where it has not been driven."""
        rows = [self.scores.get(seed, (None, None, None)) for seed in self.seeds]
        scores, lengths, endings = (list(column) for column in zip(*rows, strict=True))
        return {"seeds": list(self.seeds), "scores": scores, "lengths": lengths, "endings": endings}

    def close(self, result: dict[str, Any]) -> Path:
        """Keep the finished evaluation; where it is: evaluation.json stays if it says more about the same driver."""
        if not self.path.exists() or read_json(self.path) != result:
            write_json(self.path, result)
        with contextlib.suppress(UserError, KeyError, TypeError):
            there = read_json(self.folder.evaluation)
            says_more = there["max_steps"] is None, there["episodes"]
            if there["model"] == result["model"] and says_more > (result["max_steps"] is None, result["episodes"]):
                print(f"{self.folder.evaluation} keeps the evaluation over {there['episodes']} {self.episode}s.")
                return self.path
        write_json(self.folder.evaluation, result)
        if self.video and self.film != self.folder.video and self.film.exists():
            write_atomically(self.folder.video, self.film.read_bytes())
        return self.folder.evaluation


def summarise(book: Book, command: str) -> dict[str, Any]:
    """The content of evaluation.json.

    `std` is the sample standard deviation (n − 1) over the episodes, `stderr` that of the mean; both are None for a
    single one, which has no spread. `lap_rate` and `crash_rate` are shares of the episodes; None where there are no
    laps, or episodes are cut.
    """
    driven = [book.scores[seed] for seed in book.seeds]
    scores = np.array([episode.score for episode in driven])
    laps = envs.describe(book.key["env"]).laps and not book.key["max_steps"]
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
    return {
        "env": book.key["env"],
        "episodes": len(scores),
        "mean": float(scores.mean()),
        "std": spread,
        "stderr": None if spread is None else spread / len(scores) ** 0.5,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "percentiles": {str(q): float(np.percentile(scores, q)) for q in PERCENTILES},
        "lap_rate": float(np.mean([episode.ending == "lap" for episode in driven])) if laps else None,
        "crash_rate": float(np.mean([episode.crashed for episode in driven])) if laps else None,
        "command": command,
        **book.key,
        "commit": versions().get("commit"),
        "video": book.video,
        **book.columns(),
    }


def command(cfg: Evaluate) -> str:
    """The command line that repeats the evaluation."""
    who = ("--policy", cfg.policy) if cfg.policy else ("--pretrained", cfg.pretrained) if cfg.pretrained else None
    words = ["worldmodels", "evaluate", *(who or ("--logdir", cfg.logdir))]
    words += ["--env", str(cfg.env), "--episodes", str(cfg.episodes), "--seed", str(cfg.seed)]
    words += ["--max-steps", str(cfg.max_steps)] if cfg.max_steps else []
    return shlex.join(words + (["--device", cfg.device] if cfg.device != "auto" else []))


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per episode, in order: its number from 1, seed, score and length in steps."""
    driven = zip(result["seeds"], result["scores"], result["lengths"], strict=True)
    one = envs.describe(result["env"]).episode
    return [{one: i, "seed": seed, "score": score, "length": n} for i, (seed, score, n) in enumerate(driven, 1)]


def table(result: dict[str, Any], columns: int = 10) -> str:
    """Every score, ten a line, and what they come to."""
    seeds, scores, one = result["seeds"], result["scores"], envs.describe(result["env"]).episode
    columns = min(columns, len(scores))
    width = max(len(str(seeds[-1])), len(one))
    lines = [f"{one:>{width}} │" + "".join(f"{f'+{i}':>8}" for i in range(columns))]
    lines.append("─" * width + "─┼" + "─" * 8 * columns)
    for i in range(0, len(scores), columns):
        row = "".join(f"{score:8.1f}" for score in scores[i : i + columns])
        lines.append(f"{seeds[i]:>{width}} │{row}")
    return "\n".join([*lines, "", headline(result), *details(result)])


def headline(result: dict[str, Any]) -> str:
    """One line: mean ± standard deviation, how sure that is, and over what."""
    one = envs.describe(result["env"]).episode
    driven = f"{result['episodes']} {one}{'s' if result['episodes'] > 1 else ''} of {result['env']}"
    driven += " on Gymnasium's own frames" if result["kwargs"].get("frames") == "exact" else ""
    cut = f", cut after {result['max_steps']} steps" if result["max_steps"] else ""
    if result["std"] is None:
        return f"{result['mean']:.1f} on {driven}{cut}"
    spread = f"{result['mean']:.1f} ± {result['std']:.1f} over {driven}{cut}"
    return f"{spread} (standard error {result['stderr']:.1f}, lowest {result['min']:.1f}, highest {result['max']:.1f})"


def details(result: dict[str, Any]) -> list[str]:
    """A line more where there are several episodes: percentiles, laps and crashes."""
    if result["std"] is None:
        return []
    found = result["percentiles"]
    said = f"median {found['50']:.1f}, 5th percentile {found['5']:.1f}, 95th {found['95']:.1f}"
    if result["lap_rate"] is not None:
        said += f"; laps finished {result['lap_rate']:.1%}, crashes {result['crash_rate']:.1%}"
    return [said]


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
    driver = agent.load(run, envs.actions_in(world_of(cfg)), choose_device(device_of(cfg)))
    with contextlib.closing(spectator.lane(world_of(cfg), cfg.max_steps, "human")) as lane, limited_threads(1):
        for seed in book.seeds:
            endings: dict[int, str] = {}
            scores, lengths = drive(lane, driver.actions, driver, [Episode(seed)], on_end=endings.__setitem__)
            book.add((seed,), Outcome(scores, lengths, endings=[endings[0]]))


def film(cfg: Evaluate, run: RunDir, book: Book) -> None:
    """Drive the first episode once more for the video."""
    driver, seed = agent.load(run, envs.actions_in(world_of(cfg))), book.seeds[0]
    total, length = spectator.film(driver, world_of(cfg), seed, book.film, max_steps=cfg.max_steps)
    file = book.film.relative_to(book.folder.path).as_posix()
    book.video = {"file": file, "seed": seed, "score": total, "length": length}
