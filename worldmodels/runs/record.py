"""config.json: what a run was asked, so that the same command without flags continues it.

Where something runs (device, workers, precision, cluster) and what is said anew each time are not remembered. Folders
are kept relative to the run: a run that is moved together with its episodes finds them.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from worldmodels.errors import UserError
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json, write_json
from worldmodels.runs.versions import versions

NOT_KEPT = {"logdir", "noreload", "render", "display", "device", "max_workers", "threads", "precision", "ray"}
T = TypeVar("T")
FROM_RUN = "relative to the run"  # marks an entry whose folders are; version 0.1 kept them as they were said


def read(command: str, run: RunDir) -> dict[str, Any]:
    """What config.json says about this command; nothing where there is none. UserError when it is damaged."""
    entry = known(run).get(command, {})
    if not isinstance(entry, dict):
        raise UserError(
            f"{run.config} is damaged (no settings of {command} in it): delete it and run the command again."
        )
    entry = {name: value for name, value in entry.items() if name not in NOT_KEPT}
    if entry.pop(FROM_RUN, False) and isinstance(entry.get("rootdir"), str):
        real = os.path.realpath(run.path)
        base = run.path if real == os.path.abspath(run.path) else real
        entry["rootdir"] = os.path.normpath(os.path.join(base, entry["rootdir"]))
    return entry


def write(command: str, cfg: Any, preset: str | None) -> None:
    """Record what was asked, with versions, in <logdir>/config.json."""
    run = RunDir(Path(cfg.logdir))
    kept = dataclasses.asdict(cfg, dict_factory=lambda pairs: {n: value for n, value in pairs if n not in NOT_KEPT})
    asked = {"preset": preset, **kept}
    if "rootdir" in asked:
        parent, name = os.path.split(os.path.abspath(asked["rootdir"]))  # links on the way there are followed
        folder = os.path.join(os.path.realpath(parent), name)
        asked |= {"rootdir": os.path.relpath(folder, os.path.realpath(run.path)), FROM_RUN: True}
    put(command, run, asked)


def put(command: str, run: RunDir, entry: Any) -> None:
    """Make `entry` what config.json says about this command; None takes it out."""
    whole = {**known(run), command: entry, "versions": versions()}
    write_json(run.config, {name: value for name, value in whole.items() if value is not None})


def known(run: RunDir) -> dict[str, Any]:
    """All that config.json says; nothing where there is none. UserError when it is damaged."""
    whole = read_json(run.config) if run.config.exists() else {}
    if not isinstance(whole, dict):
        raise UserError(f"{run.config} is damaged (no settings in it): delete it and run the command again.")
    return whole


def updated(default: Any, saved: dict[str, Any]) -> Any:
    """A config with the saved values put in, nested configs included; names that are gone are left out.

    Raises:
        UserError: a value is of another type than the setting.
    """
    changes, hints = {}, get_type_hints(type(default))
    for field in dataclasses.fields(default):
        if field.name in saved:
            value, old = getattr(default, field.name), saved[field.name]
            nested = dataclasses.is_dataclass(value)
            if not (isinstance(old, dict) if nested else fits(old, hints[field.name])):
                raise UserError(f"config.json says {field.name} is {old!r}: correct that, or delete the file.")
            changes[field.name] = updated(value, old) if nested else old
    return dataclasses.replace(default, **changes)


def rebuilt(kind: type[T], saved: dict[str, Any]) -> T:
    """The dataclass that has the saved values; TypeError where there is no such field, or one of another type."""
    made = kind(**saved)
    for name, hint in get_type_hints(kind).items():
        if not fits(getattr(made, name), hint):
            raise TypeError(f"{name} is {getattr(made, name)!r}")
    return made


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is one of the type that a setting has."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if get_args(hint):
        return any(fits(value, part) for part in get_args(hint))
    return type(value) in ((int, float) if hint is float else (hint,))
