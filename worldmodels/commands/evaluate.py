"""Drive held-out tracks with the trained agent and write evaluation.json, a table, and a video when asked.

    worldmodels evaluate --logdir exp_dir --episodes 100
    python test_controller.py --logdir exp_dir --render

The environment is Gymnasium's own CarRacing-v3 unless `--env` says otherwise. Track FIRST + i is driven once, for
i = 0 … episodes − 1. An ordinary environment drives one track at a time in each worker process; our own simulators
drive a block of tracks side by side in this process. Either way an episode's score depends on its seed and the
agent alone, not on the number of workers. Scores are kept in evaluation.partial.json as they come: a run that is
killed and started again goes on, and writes the same evaluation.json. At the end the folder evaluation/ beside it
gets metrics.jsonl, a row a track, and TensorBoard events.
"""

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldmodels import agent, envs, pretrained
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs.files import read_json, write_json
from worldmodels.runs.settings import Evaluate
from worldmodels.runs.versions import versions
from worldmodels.show import spectator
from worldmodels.workers.pool import cores, run_jobs

LANES = 64  # episodes that our own simulators drive side by side
RESULT, PARTIAL, VIDEO = "evaluation.json", "evaluation.partial.json", "evaluation.mp4"


def main(cfg: Evaluate) -> None:
    """Score every track that has no score yet, then write evaluation.json and print the table."""
    config.check(cfg)
    if cfg.pretrained is not None:
        output = cfg.output or f"evaluation-{cfg.pretrained}"
        cfg = replace(cfg, logdir=str(pretrained.folder(cfg.pretrained)), output=output)
    folder = Path(cfg.output or cfg.logdir)
    settings = Settings.of(cfg)
    settings.load_agent()  # a missing V, M or C is said before anything starts
    window, filming = ways_to_watch(cfg)
    key = identity(cfg, settings)
    progress = Progress.load(folder, key)
    if window and progress.complete():
        progress.scores.clear()  # somebody wants to watch: drive again

    todo = blocks(cfg, settings, progress, folder / VIDEO if filming and not progress.filmed(folder) else None)
    if not todo:
        print(f"{cfg.logdir} has driven these tracks already: delete {folder / RESULT} to drive them again.")
    else:
        progress.commit = versions().get("commit")
        progress.save()  # an unwritable folder is said before the driving
        score(todo, settings, progress, workers(cfg, settings, todo, window), window)

    result = summarise(key, progress, command(cfg))
    write_json(folder / RESULT, result)
    (folder / PARTIAL).unlink(missing_ok=True)
    logs.write_whole(folder / "evaluation", "track", metrics(result))
    print(table(result))
    print(f"Written to {folder / RESULT}" + (f" and {folder / VIDEO}." if progress.video else "."))


def score(todo: list["Block"], settings: "Settings", progress: "Progress", workers: int, window: bool) -> None:
    """Drive the blocks, keeping every score as it comes."""
    with tqdm(total=sum(len(block.seeds) for block in todo), desc="evaluate", unit="track") as bar:
        for block, driven in drive_blocks(todo, settings, workers, window):
            progress.add(block, driven)
            bar.update(len(block.seeds))
            if progress.scores:
                bar.set_postfix_str(f"mean {np.mean([score for score, _ in progress.scores.values()]):.1f}")


# ------------------------------------------------------------------------------------------- what to drive


@dataclass(frozen=True)
class Settings:
    """What a worker needs to drive; picklable."""

    logdir: str
    env: str
    max_steps: int | None
    device: str

    @staticmethod
    def of(cfg: Evaluate) -> "Settings":
        """A single lane gains nothing from a GPU, so `auto` uses one for our own simulators' batches only."""
        native = envs.describe(cfg.env).native
        device = "cpu" if cfg.device == "auto" and not native else agent.choose_device(cfg.device).type
        return Settings(cfg.logdir, cfg.env, cfg.max_steps, device)

    @property
    def native(self) -> bool:
        """The environment drives a block of tracks side by side."""
        return envs.describe(self.env).native

    def load_agent(self) -> agent.Agent:
        """The logdir's best driver; UserError names what is missing and the command that makes it."""
        return agent.load(self.logdir, envs.kind_of(self.env), self.device)


@dataclass(frozen=True)
class Block:
    """Tracks driven side by side: one job of a worker."""

    first: int
    """Index of the first of its tracks."""
    seeds: tuple[int, ...]
    video: Path | None = None
    """Where to write the video of its first track."""


def identity(cfg: Evaluate, settings: Settings) -> dict[str, Any]:
    """Everything that a score depends on: two evaluations with the same identity have the same scores."""
    parts = [Path(cfg.logdir) / stage / "best.safetensors" for stage in ("vae", "mdrnn", "ctrl")]
    model = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in parts)).hexdigest()
    seeds = list(range(cfg.seed, cfg.seed + cfg.episodes))
    where = {"env": cfg.env, "episodes": cfg.episodes, "seeds": seeds, "max_steps": cfg.max_steps}
    installed = {name: found for name, found in versions().items() if name != "commit"}
    return {**where, "model": model, "device": settings.device, "versions": installed}


def command(cfg: Evaluate) -> str:
    """The command line that repeats the evaluation."""
    driver = f"--pretrained {cfg.pretrained}" if cfg.pretrained else f"--logdir {cfg.logdir}"
    parts = f"worldmodels evaluate {driver} --env {cfg.env} --episodes {cfg.episodes} --seed {cfg.seed}"
    parts += f" --max-steps {cfg.max_steps}" if cfg.max_steps else ""
    return parts + (f" --device {cfg.device}" if cfg.device != "auto" else "")


def blocks(cfg: Evaluate, settings: Settings, progress: "Progress", video: Path | None) -> list[Block]:
    """The blocks that still have to be driven; their borders never depend on what was driven before.

    The video is the first track's own drive, so that track is driven (again) to film it.
    """
    size = LANES if settings.native else 1
    seeds = range(cfg.seed, cfg.seed + cfg.episodes)
    todo = [
        Block(first, tuple(seeds[first : first + size]))
        for first in range(0, cfg.episodes, size)
        if not all(index in progress.scores for index in range(first, min(first + size, cfg.episodes)))
    ]
    if video is not None:
        if todo and todo[0].first == 0 and size == 1:
            del todo[0]
        todo.insert(0, Block(0, (cfg.seed,), video))
    return todo


# --------------------------------------------------------------------------------------------- what was driven


@dataclass
class Driven:
    """Outcome of a block."""

    scores: list[float]
    lengths: list[int]


@dataclass
class Progress:
    """Scores so far, kept on disk."""

    folder: Path
    key: dict[str, Any]
    scores: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Index of the track → score, length."""
    video: dict[str, Any] | None = None
    """The drive that evaluation.mp4 shows: file, seed, score, length."""
    commit: str | None = None
    """Of the code that drove last."""

    @staticmethod
    def load(folder: Path, key: dict[str, Any]) -> "Progress":
        """What an earlier evaluation with the same identity has left, finished or not."""
        for name in (RESULT, PARTIAL):
            with contextlib.suppress(UserError):  # missing, or cut short by a full disk: drive again
                found = read_json(folder / name)
                if all(found.get(part) == value for part, value in key.items()):
                    pairs = zip(found["scores"], found["lengths"], strict=True)
                    scores = {i: (s, n) for i, (s, n) in enumerate(pairs) if s is not None}
                    return Progress(folder, key, scores, found["video"], found["commit"])
        return Progress(folder, key)

    def complete(self) -> bool:
        """Whether every track has a score."""
        return len(self.scores) == self.key["episodes"]

    def filmed(self, folder: Path) -> bool:
        """Whether the video of this evaluation is there."""
        return self.video is not None and (folder / VIDEO).exists()

    def add(self, block: Block, driven: Driven) -> None:
        """Enter a block's scores and save."""
        if block.video is not None:
            first = {"seed": block.seeds[0], "score": driven.scores[0], "length": driven.lengths[0]}
            self.video = {"file": block.video.name, **first}
        if block.video is None or not envs.describe(self.key["env"]).native:  # blocks alone score a native simulator
            for offset, pair in enumerate(zip(driven.scores, driven.lengths, strict=True)):
                self.scores[block.first + offset] = pair
        self.save()

    def save(self) -> None:
        """Write evaluation.partial.json, atomically."""
        scores = [self.scores.get(i, (None, None)) for i in range(self.key["episodes"])]
        content = {"scores": [score for score, _ in scores], "lengths": [length for _, length in scores]}
        write_json(self.folder / PARTIAL, {**self.key, **content, "video": self.video, "commit": self.commit})


def summarise(key: dict[str, Any], progress: Progress, command: str) -> dict[str, Any]:
    """The content of evaluation.json.

    `std` is the sample standard deviation (n − 1) over the tracks, `stderr` that of the mean; both are None for a
    single track, which has no spread.
    """
    scores = np.array([progress.scores[i][0] for i in range(key["episodes"])])
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else None
    return {
        "env": key["env"],
        "episodes": key["episodes"],
        "mean": float(scores.mean()),
        "std": spread,
        "stderr": None if spread is None else spread / len(scores) ** 0.5,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "command": command,
        "max_steps": key["max_steps"],
        "device": key["device"],
        "versions": key["versions"],
        "commit": progress.commit,
        "model": key["model"],
        "video": progress.video,
        "seeds": key["seeds"],
        "scores": scores.tolist(),
        "lengths": [progress.scores[i][1] for i in range(key["episodes"])],
    }


def metrics(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a track, in order: its number from 1, seed, score and length in steps."""
    tracks = zip(result["seeds"], result["scores"], result["lengths"], strict=True)
    return [{"track": i, "seed": seed, "score": score, "length": n} for i, (seed, score, n) in enumerate(tracks, 1)]


def table(result: dict[str, Any], columns: int = 10) -> str:
    """Every score, ten tracks a line, and what they come to."""
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
    cut = f", cut after {result['max_steps']} steps" if result["max_steps"] else ""
    if result["std"] is None:
        return f"{result['mean']:.1f} on {tracks}{cut}"
    spread = f"{result['mean']:.1f} ± {result['std']:.1f} over {tracks}{cut}"
    return f"{spread} (standard error {result['stderr']:.1f}, lowest {result['min']:.1f}, highest {result['max']:.1f})"


# --------------------------------------------------------------------------------------------------- driving


def ways_to_watch(cfg: Evaluate) -> tuple[bool, bool]:
    """(in a window, as an mp4): `--render` falls back to the mp4, in a sentence, where no window can be opened."""
    if not cfg.render:
        return False, cfg.video
    if "human" not in spectator.render_modes(cfg.env):
        print(f"{cfg.env} draws no window: {VIDEO} shows the drive instead.")
        return False, True
    if not spectator.has_display():
        print(f"There is no display to open a window on: {VIDEO} shows the drive instead.")
        return False, True
    return True, cfg.video


def workers(cfg: Evaluate, settings: Settings, todo: list[Block], window: bool) -> int:
    """Worker processes; a window and our own simulators need this process only."""
    return 1 if window or settings.native else min(cfg.max_workers or cores(), len(todo))


class Driver:
    """Drives blocks with the logdir's agent, on fresh environments (a window stays open from track to track)."""

    def __init__(self, settings: Settings, window: bool = False):
        self.env, self.max_steps = settings.env, settings.max_steps
        self.agent = settings.load_agent()
        self.window = spectator.lane(self.env, self.max_steps, "human") if window else None

    def __call__(self, block: Block) -> Driven:
        """Scores and lengths of a block's tracks, or of its first track alone when it is filmed."""
        if block.video is not None:
            score, length = spectator.film(self.agent, self.env, block.seeds[0], block.video, max_steps=self.max_steps)
            return Driven([score], [length])
        lanes = self.window or envs.make(self.env, len(block.seeds), max_steps=self.max_steps)
        try:
            scores, lengths = drive(lanes, self.agent.kind, self.agent, [Episode(seed) for seed in block.seeds])
        finally:
            if lanes is not self.window:
                lanes.close()
        return Driven(scores.tolist(), lengths.tolist())

    def close(self) -> None:
        if self.window is not None:
            self.window.close()


_driver: Callable[[Block], Driven] | None = None  # a worker process's own


def _start_worker(settings: Settings) -> None:
    """Load the agent once in a worker, which computes on one thread: there are as many workers as cores."""
    global _driver
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    _driver = Driver(settings)


def _drive_in_worker(block: Block) -> Driven:
    assert _driver is not None
    return _driver(block)


def drive_blocks(todo: list[Block], settings: Settings, workers: int, window: bool) -> Iterator[tuple[Block, Driven]]:
    """Drive the blocks as workers become free; yields each with its outcome as it ends."""
    if workers > 1:
        for index, driven in run_jobs(_drive_in_worker, todo, workers, _start_worker, (settings,)):
            yield todo[index], driven
        return
    with contextlib.nullcontext() if settings.native else spectator.one_thread():  # as a worker, to the last bit
        driver = Driver(settings, window)
        try:
            for block in todo:
                yield block, driver(block)
        finally:
            driver.close()
