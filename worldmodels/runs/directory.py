"""A run directory: where everything that a run leaves lies, and which driver it holds."""

import hashlib
import shlex
import shutil
from pathlib import Path

from worldmodels.errors import UserError

COMMANDS = {"vae": "train-vae", "mdrnn": "train-mdrnn", "ctrl": "train-controller"}  # folder → what fills it
LETTERS = {"vae": "V", "mdrnn": "M", "ctrl": "C"}


class RunDir:
    """The files of one run; nothing of it has to exist."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.rollouts = path / "rollouts"
        self.vae, self.mdrnn, self.ctrl = path / "vae", path / "mdrnn", path / "ctrl"
        self.dream = self.ctrl / "dream.mp4"
        """What C dreamed beside what it then drove: the last that a training of C in the dream writes."""
        self.latents = self.mdrnn / "latents"
        """The episodes as V sees them."""
        self.evaluations = path / "evaluation"
        """One JSON for each driver and environment evaluated."""
        self.evaluation, self.video = path / "evaluation.json", path / "evaluation.mp4"
        """The widest evaluation of the driver that is there now, and a drive of it."""
        self.report = path / "report.html"
        self.playground = path / "playground.html"
        """The page that drives inside the run's dream, beside the report that links to it."""

    @staticmethod
    def of(path: "str | Path | RunDir") -> "RunDir":
        return path if isinstance(path, RunDir) else RunDir(Path(path))

    @property
    def previous(self) -> "RunDir":
        """With `--iterations`: the iteration before."""
        return RunDir(self.path / "previous")

    def require(self) -> None:
        """UserError where there is no such folder."""
        if not self.path.is_dir():
            folder = shlex.quote(str(self.path))
            raise UserError(f"{self.path} does not exist: `worldmodels run --logdir {folder}` makes it.")

    def trained(self, stage: str) -> Path:
        """best.safetensors of `vae`, `mdrnn` or `ctrl`; UserError names the command that makes a missing one."""
        best = self.path / stage / "best.safetensors"
        if not best.is_file():
            dreams = stage == "ctrl" and (self.ctrl / "episodes").is_dir()
            command = "train-in-dream" if dreams else COMMANDS[stage]
            raise UserError(
                f"There is no trained {LETTERS[stage]} in {self.path}: "
                f"run `worldmodels {command} --logdir {shlex.quote(str(self.path))}` first."
            )
        return best

    def driver(self) -> str:
        """Names V, M and C by their content, in hexadecimal: two runs with the same name drive alike."""
        digests = [hashlib.sha256(self.trained(stage).read_bytes()).digest() for stage in COMMANDS]
        return hashlib.sha256(b"".join(digests)).hexdigest()


def start_over(folder: Path) -> None:
    """Delete what the training of V, M or C has left in `folder`."""
    for name in ("*.safetensors", "events.out.tfevents.*", "metrics.jsonl", "dream.mp4"):
        for old in folder.glob(name):
            old.unlink()
    for made in ("samples", "episodes"):
        shutil.rmtree(folder / made, ignore_errors=True)
