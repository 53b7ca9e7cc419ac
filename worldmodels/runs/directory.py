"""A run directory: where everything that a run leaves lies, and which driver it holds."""

import hashlib
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from worldmodels.errors import UserError

COMMANDS = {"vae": "train-vae", "mdrnn": "train-mdrnn", "ctrl": "train-controller"}  # folder → what fills it
LETTERS = {"vae": "V", "mdrnn": "M", "ctrl": "C"}


@dataclass(frozen=True)
class RunDir:
    """The files of one run; nothing of it has to exist."""

    path: Path

    @staticmethod
    def of(path: "str | Path | RunDir") -> "RunDir":
        return path if isinstance(path, RunDir) else RunDir(Path(path))

    @property
    def vae(self) -> Path:
        return self.path / "vae"

    @property
    def mdrnn(self) -> Path:
        return self.path / "mdrnn"

    @property
    def ctrl(self) -> Path:
        return self.path / "ctrl"

    @property
    def latents(self) -> Path:
        """The episodes as V sees them."""
        return self.mdrnn / "latents"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def evaluations(self) -> Path:
        """One JSON for each driver and environment evaluated."""
        return self.path / "evaluation"

    @property
    def evaluation(self) -> Path:
        """The widest evaluation of the driver that is there now."""
        return self.path / "evaluation.json"

    @property
    def video(self) -> Path:
        return self.path / "evaluation.mp4"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def playground(self) -> Path:
        """The page that drives inside the run's dream, beside the report that links to it."""
        return self.path / "playground.html"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def previous(self) -> "RunDir":
        """With `--iterations`: the iteration before."""
        return RunDir(self.path / "previous")

    def trained(self, stage: str) -> Path:
        """best.safetensors of `vae`, `mdrnn` or `ctrl`; UserError names the command that makes a missing one."""
        best = self.path / stage / "best.safetensors"
        if not best.is_file():
            raise UserError(
                f"There is no trained {LETTERS[stage]} in {self.path}: "
                f"run `worldmodels {COMMANDS[stage]} --logdir {shlex.quote(str(self.path))}` first."
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
