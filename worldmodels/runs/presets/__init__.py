"""Presets: whole runs as Python objects, by name and by environment."""

import dataclasses

from worldmodels.errors import UserError
from worldmodels.runs.presets import carracing
from worldmodels.runs.settings import CARRACING, Run

NAMES = ("smoke", "laptop", "overnight", "dream", "paper")


def preset(name: str, env_id: str) -> Run:
    """The preset `name` for an environment; UserError lists the presets where there is none of that name."""
    if name not in NAMES:
        raise UserError(f"There is no preset {name!r}: it is one of {', '.join(NAMES)}.")
    run: Run = getattr(carracing, name.upper())
    return run if env_id.rpartition(":")[2] == CARRACING else from_the_line(run)


def from_the_line(run: Run) -> Run:
    """The same for an environment that has its own start only, and of whose rewards we know nothing."""
    return dataclasses.replace(
        run,
        collect=dataclasses.replace(run.collect, start="line"),
        again=dataclasses.replace(run.again, start="line"),
        controller=dataclasses.replace(run.controller, start="line", give_up=0),
    )
