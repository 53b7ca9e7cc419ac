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

    for stage in STAGES:
        tensors, meta = checkpoint.load(logdir / stage / "best.safetensors")
        checkpoint.save(into / stage / "best.safetensors", {k: t.half() for k, t in tensors.items()}, meta)
    starts = logdir / "mdrnn" / "starts.safetensors"
    if starts.exists():
        tensors, _ = checkpoint.load(starts)
        few = {name: tensor[:STARTS].half() for name, tensor in tensors.items()}
        checkpoint.save(into / "mdrnn" / "starts.safetensors", few, {"starts": len(few["z"])})
