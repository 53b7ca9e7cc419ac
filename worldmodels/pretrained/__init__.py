"""Weights that come with the package: one folder a driver, laid out as a run directory, in 16-bit floats."""

from pathlib import Path
from typing import TYPE_CHECKING

from worldmodels.errors import UserError

if TYPE_CHECKING:
    from worldmodels.agent import Agent

HERE = Path(__file__).parent


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
