"""Weights that come with the package: one folder a driver, laid out as a run directory, in 16-bit floats.

python -m worldmodels.pretrained LOGDIR NAME        pack the best V, M and C of a run
"""

from pathlib import Path
from typing import TYPE_CHECKING

from worldmodels.errors import UserError

if TYPE_CHECKING:
    from worldmodels.agent import Agent

HERE = Path(__file__).parent
STAGES = ("vae", "mdrnn", "ctrl")
STARTS = 256  # states from which the package's drivers dream, 1.1 kB each


def folder(name: str) -> Path:
    """The run directory of a driver in the package; UserError lists the drivers where there is none of that name."""
    names = sorted(path.parent.parent.name for path in HERE.glob("*/ctrl/best.safetensors"))
    if name not in names:
        raise UserError(f"There is no pretrained driver {name!r}: the package has {', '.join(names) or 'none'}.")
    return HERE / name


def load_pretrained(name: str, device: str = "cpu") -> "Agent":
    """A driver that acts: `agent.reset()`, then `action = agent(observation)` at every step.

    Raises:
        UserError: the package has no driver of that name.
    """
    from worldmodels.agent import load

    return load(folder(name), device=device)


def pack(logdir: Path, into: Path) -> None:
    """Copy the best V, M and C of the run `logdir`, and starts for dreams, into the folder `into`, in 16-bit floats.

    Raises:
        UserError: one of them is missing.
    """
    from worldmodels.runs import checkpoint
    from worldmodels.runs.directory import RunDir

    trained = {stage: checkpoint.load(RunDir.of(logdir).trained(stage)) for stage in STAGES}
    starts = logdir / "mdrnn" / "starts.safetensors"
    known = checkpoint.load(starts)[0] if starts.exists() else {}
    for stage, (tensors, meta) in trained.items():  # a driver of that name keeps its parts where one is missing here
        checkpoint.save(into / stage / "best.safetensors", {k: t.half() for k, t in tensors.items()}, meta)
    if known:
        few = {name: tensor[:STARTS].half() for name, tensor in known.items()}
        checkpoint.save(into / "mdrnn" / "starts.safetensors", few, {"starts": len(few["z"])})
