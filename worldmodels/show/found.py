"""What the files of a run hold, as its page needs it: values that can be shown, whatever is missing or damaged."""

import itertools
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from worldmodels.envs import FRAME_SIZE, describe
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint, record
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json
from worldmodels.runs.metrics import is_number, read
from worldmodels.runs.stages import STAGES

NEUTRAL = {"iterations": 1, "sigma_decay": 1.0, "average": 1}  # settings that change nothing at this value
USED_AT_ZERO = ("seed", "epochs")  # elsewhere 0 means: not used


class Found:
    """What the files of a run hold; what is missing or damaged is empty."""

    def __init__(self, logdir: Path):
        self.logdir, self.dir = logdir, RunDir(logdir)
        self.config = read_object(self.dir.config)
        self.evaluation = checked_evaluation(read_object(self.dir.evaluation))
        self.vae, self.mdrnn = (read(folder / "metrics.jsonl", "epoch") for folder in (self.dir.vae, self.dir.mdrnn))
        self.ctrl = read(self.dir.ctrl / "metrics.jsonl", "generation")
        self.quality = read_object(self.dir.mdrnn / "quality.json")
        """What was measured of M as a world."""

    @property
    def name(self) -> str:
        return self.logdir.resolve().name

    @property
    def env(self) -> str:
        """Where it drives; empty while nobody says."""
        asked = [self.asked(command) for command in ("run", "train-controller", "train-in-dream")]
        return next((str(place["env"]) for place in [self.evaluation or {}, *asked] if "env" in place), "")

    def asked(self, command: str) -> dict[str, Any]:
        """What config.json says about a command."""
        entry = self.config.get(command)
        return entry if isinstance(entry, dict) else {}

    @property
    def episode(self) -> str:
        """What an episode is called there."""
        return describe(self.env).episode

    @property
    def outdated(self) -> bool:
        """Whether the evaluation is of an earlier driver than that which is there now."""
        try:
            return self.evaluation is not None and self.evaluation.get("model") != self.dir.driver()
        except UserError:
            return False  # no driver: somebody else's policy

    @property
    def rollouts(self) -> list[Path]:
        """The episodes that V and M learned from, wherever they lie."""
        folders = [self.dir.rollouts]
        with suppress(UserError, OSError, KeyError, TypeError):  # nobody says
            folders.insert(0, Path(record.read("train-vae", self.dir)["rootdir"]))
        folder = next((folder for folder in folders if folder.is_dir()), None)
        return sorted(folder.rglob("*.npz")) if folder else []

    def picture(self, stage: str, name: str) -> Image.Image | None:
        """The picture samples/`name`_NNNN.png of the stage's latest epoch; None where there is no good one."""
        paths = (self.logdir / stage / "samples").glob(f"{name}_*.png")
        latest = max(paths, default=None, key=lambda path: path.stem.rpartition("_")[2].zfill(9))
        try:
            picture = Image.open(latest).convert("RGB") if latest else None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return picture if picture and min(picture.size) >= FRAME_SIZE else None

    def command(self, stage: str, *more: str) -> str:
        """The command line that runs a stage here."""
        return shlex.join(["worldmodels", stage, "--logdir", str(self.logdir), *more])


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when it is missing or damaged."""
    with suppress(UserError, OSError):
        if isinstance(content := read_json(path), dict):
            return content
    return {}


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


def meta(folder: Path, name: str) -> dict[str, Any]:
    """What a stage's best checkpoint says about its model; nothing where it is missing or damaged."""
    try:
        found = checkpoint.load(folder / "best.safetensors")[1].get(name)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def training_seconds(run: Found) -> dict[str, float]:
    """Model → seconds of its training, those of the iterations before included."""
    before = run.dir.previous.path
    spent = training_seconds(Found(before)) if before.is_dir() else {"V": 0.0, "M": 0.0, "C": 0.0}
    for letter, rows in (("V", run.vae), ("M", run.mdrnn), ("C", run.ctrl)):
        spent[letter] += (rows[-1].get("seconds") or 0.0) if rows else 0.0
    return spent


def used(run: Found) -> dict[str, dict[str, Any]]:
    """Stage → the settings it ran with, those that mattered: what is off, absent or said for the whole run is not; and
    the versions, of the evaluation too where they are others."""
    whole = dict(run.asked("run"))
    ran = {
        "collect": run.rollouts, "vae": run.vae, "mdrnn": run.mdrnn, "controller": run.ctrl, "evaluate": run.evaluation,
    }  # fmt: skip
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
        groups[name] = mattering({key: own[key] for key in own if (key, own[key]) not in groups["run"].items()})
    if run.evaluation:
        commit = run.evaluation.get("commit")
        versions = run.evaluation["versions"] | ({"commit": commit} if commit else {})
        if versions != groups.get("versions"):
            groups["versions of the evaluation"] = versions
    return {name: group for name, group in groups.items() if group and name not in hidden}


def mattering(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that change something."""
    return {
        name: value
        for name, value in group.items()
        if NEUTRAL.get(name) != value and (value or (name in USED_AT_ZERO and value == 0 and value is not False))
    }
