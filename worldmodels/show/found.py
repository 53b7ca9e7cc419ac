"""What the files of a run hold, as its page needs it: values that can be shown, whatever is missing or damaged."""

import itertools
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from worldmodels.envs import describe
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.metrics import Row, is_number, read
from worldmodels.runs.stages import STAGES

FRAME = 64  # pixels: side of a frame
NEUTRAL = {"iterations": 1, "sigma_decay": 1.0, "average": 1}  # settings that change nothing at this value
USED_AT_ZERO = ("seed", "epochs")  # elsewhere 0 means: not used


@dataclass(frozen=True)
class Found:
    """What the files of a run hold; what is missing or damaged is empty."""

    logdir: Path
    config: dict[str, Any]
    evaluation: dict[str, Any] | None
    vae: list[Row]
    mdrnn: list[Row]
    ctrl: list[Row]

    @staticmethod
    def read(logdir: Path) -> "Found":
        return Found(
            logdir,
            read_object(logdir / "config.json"),
            checked_evaluation(read_object(logdir / "evaluation.json")),
            read(logdir / "vae" / "metrics.jsonl", "epoch"),
            read(logdir / "mdrnn" / "metrics.jsonl", "epoch"),
            read(logdir / "ctrl" / "metrics.jsonl", "generation"),
        )

    @property
    def quality(self) -> dict[str, Any]:
        """What was measured of M as a world."""
        return read_object(self.logdir / "mdrnn" / "quality.json")

    @property
    def name(self) -> str:
        return self.logdir.resolve().name

    @property
    def env(self) -> str:
        """Where it drives; empty while nobody says."""
        asked = [self.config.get(command) for command in ("run", "train-controller", "train-in-dream")]
        places = [self.evaluation, *(entry for entry in asked if isinstance(entry, dict))]
        return next((str(place["env"]) for place in places if place and "env" in place), "")

    @property
    def episode(self) -> str:
        """What an episode is called there."""
        return describe(self.env).episode

    @property
    def outdated(self) -> bool:
        """Whether the evaluation is of an earlier driver than that which is there now."""
        try:
            return self.evaluation is not None and self.evaluation.get("model") != RunDir(self.logdir).driver()
        except UserError:
            return False  # no driver: somebody else's policy

    def picture(self, stage: str, name: str) -> Image.Image | None:
        """The picture samples/`name`_NNNN.png of the stage's latest epoch; None where there is no good one."""
        paths = (self.logdir / stage / "samples").glob(f"{name}_*.png")
        latest = max(paths, default=None, key=lambda path: path.stem.rpartition("_")[2].zfill(9))
        try:
            picture = Image.open(latest).convert("RGB") if latest else None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return picture if picture and picture.width >= FRAME and picture.height >= FRAME else None

    def command(self, stage: str, *more: str) -> str:
        """The command line that runs a stage here."""
        return shlex.join(["worldmodels", stage, "--logdir", str(self.logdir), *more])


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def checked_evaluation(found: dict[str, Any]) -> dict[str, Any] | None:
    """An evaluation in which the page finds what it shows; None otherwise."""
    needed: dict[str, Any] = {
        "env": str, "command": str, "episodes": int, "seeds": list, "scores": list, "lengths": list, "versions": dict,
    }  # fmt: skip
    if not all(isinstance(found.get(name), kind) for name, kind in needed.items()):
        return None
    single = found.get("std") is None
    if not all(is_number(found.get(name)) for name in ("mean", "min", "max", *(() if single else ("std", "stderr")))):
        return None
    columns = [found[name] for name in ("seeds", "scores", "lengths")]
    whole = len({len(column) for column in columns}) == 1 and all(map(is_number, itertools.chain(*columns)))
    return found if whole and columns[0] else None


@dataclass(frozen=True)
class Data:
    """The episodes that V and M learned from."""

    episodes: int
    steps: int | None
    """None: nobody counted them."""
    size: int
    """bytes"""


def data(run: Found) -> Data | None:
    """Where the episodes of the run lie, they are counted; None where there are none."""
    whole = run.config.get("run")
    asked = [run.config.get("train-vae"), whole.get("vae") if isinstance(whole, dict) else None]
    recorded = [Path(str(found["rootdir"])) for found in asked if isinstance(found, dict) and found.get("rootdir")]
    places = [place for folder in recorded for place in (run.logdir / folder, folder)]
    folder = next((place for place in [*places, run.logdir / "rollouts"] if place.is_dir()), None)
    files = sorted(folder.rglob("*.npz")) if folder else []
    if not files:
        return None
    rows = [row for place in sorted({path.parent for path in files}) for row in read(place / "metrics.jsonl", "length")]
    steps = sum(int(row["length"] or 0) for row in rows) if len(rows) == len(files) else None
    return Data(len(files), steps, sum(path.stat().st_size for path in files))


def meta(folder: Path, name: str) -> dict[str, Any]:
    """What a stage's best checkpoint says about its model; nothing where it is missing or damaged."""
    try:
        found = checkpoint.load(folder / "best.safetensors")[1]
    except UserError:
        return {}
    return found[name] if isinstance(found, dict) and isinstance(found.get(name), dict) else {}


def training_seconds(run: Found) -> list[tuple[str, float]]:
    """(model, seconds) of every training, those of the iterations before included."""
    stages = (("V", run.vae), ("M", run.mdrnn), ("C", run.ctrl))
    here = [(letter, rows[-1].get("seconds") or 0.0) for letter, rows in stages if rows]
    before = run.logdir / "previous"
    return here + (training_seconds(Found.read(before)) if before.is_dir() else [])


def used(run: Found) -> dict[str, dict[str, Any]]:
    """Stage → the settings it ran with, those that mattered: what is off, absent or said for the whole run is not."""
    whole = run.config.get("run")
    whole = dict(whole) if isinstance(whole, dict) else {}
    ran = {"collect": data(run), "vae": run.vae, "mdrnn": run.mdrnn, "controller": run.ctrl, "evaluate": run.evaluation}
    again = whole.get("iterations", 1) != 1
    hidden = {stage for stage, left in ran.items() if whole and not left} | (set() if again else {"again"})
    stages = {name: whole.pop(name) for name in list(whole) if isinstance(whole[name], dict)}
    for name, own in run.config.items():  # a command's own entry is the later one
        if isinstance(own, dict) and name != "run":
            stages[STAGES.get(name, name)] = own
    if not again:
        whole.pop("early_generations", None)
    whole |= {name: value for name, value in run.config.items() if not isinstance(value, dict)}
    groups = {"run": mattering(whole)}
    for name, own in stages.items():
        said = {} if name == "versions" else groups["run"]
        groups[name] = mattering({key: value for key, value in own.items() if key not in said or said[key] != value})
    return {name: group for name, group in groups.items() if group and name not in hidden}


def mattering(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that change something."""
    return {
        name: value
        for name, value in group.items()
        if NEUTRAL.get(name) != value and (value or (name in USED_AT_ZERO and value == 0 and value is not False))
    }
