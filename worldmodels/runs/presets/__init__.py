"""Presets: whole runs as Python objects, by name and by environment."""

import dataclasses

from worldmodels.errors import UserError
from worldmodels.runs.presets import carracing, takecover
from worldmodels.runs.settings import TAKECOVER
from worldmodels.runs.stages import Run

PRESETS: dict[str, Run] = {
    "smoke": carracing.SMOKE,
    "laptop": carracing.LAPTOP,
    "sprint": carracing.SPRINT,
    "overnight": carracing.OVERNIGHT,
    "dream": carracing.DREAM,
    "paper": carracing.PAPER,
    "takecover": takecover.COFFEE,
    "takecover-night": takecover.NIGHT,
    "takecover-paper": takecover.PAPER,
}
NAMES = tuple(PRESETS)


def preset(name: str, env_id: str | None = None) -> Run:
    """The preset `name` for an environment, its own where none is named.

    Raises:
        UserError: there is no preset of that name, or it is Take Cover's and another environment is named.
    """
    if name not in NAMES:
        raise UserError(f"There is no preset {name!r}: it is one of {', '.join(NAMES)}.")
    run = PRESETS[name]
    if env_id is None or env_id.rpartition(":")[2] == run.env:
        return run
    if run.env == TAKECOVER:
        raise UserError(f"The preset {name} is for {TAKECOVER}, not for {env_id}: leave --env out, or choose another.")
    return from_the_line(run)


def from_the_line(run: Run) -> Run:
    """The same for an environment that has its own start only, and of whose rewards we know nothing."""
    return dataclasses.replace(
        run,
        collect=dataclasses.replace(run.collect, start="line"),
        again=dataclasses.replace(run.again, start="line"),
        controller=dataclasses.replace(run.controller, start="line", give_up=0),
        dream=dataclasses.replace(run.dream, start="line", give_up=0),
    )
