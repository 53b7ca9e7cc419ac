"""What a setting can be: bounds for the annotations of its field, and their check.

A number's bounds stand in its annotation; folders and the address of a cluster are known by the name of the setting.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, Predicate

from worldmodels.errors import UserError

Bound = Ge | Gt | Le | Lt | Predicate
Count = Annotated[int, Ge(1), Lt(10**9)]
OrNone = Annotated[int, Ge(0), Lt(10**9)]  # 0 switches something off, or leaves it to the program
Seed = Annotated[int, Ge(0), Lt(2**63)]
Size = Annotated[int, Ge(1), Lt(10**5)]  # of a vector in a network
Workers = Annotated[int, Ge(0), Lt(10**4)]
Above = Annotated[float, Gt(0), Lt(10**9)]
FromZero = Annotated[float, Ge(0), Lt(10**9)]
Share = Annotated[float, Gt(0), Lt(1)]


@dataclasses.dataclass(frozen=True)
class Needs:
    """Marks a setting that nobody reads without another one."""

    flag: str
    """The other one, as it is said,"""
    there: Callable[[Any], object]
    """and whether it is there, of the stage's settings."""
    remedy: str = "add that"


FOLDERS = ("logdir", "rootdir", "output")


def check(settings: Any, prefix: str = "") -> None:
    """UserError for the first number that cannot be, by its flag; nested settings included."""
    hints = get_type_hints(type(settings), include_extras=True)
    for name, hint in hints.items():
        value, flag = getattr(settings, name), f"--{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
        elif value is not None:
            for bound in bounds(hint):
                check_bound(flag, value, bound)
            if value != value:
                raise UserError(f"{flag} is {value}: it must be a number.")
            if name in FOLDERS:
                check_folder(flag, value)
            if name == "ray":
                check_cluster(value)
    if getattr(settings, "pretrained", None) is not None and settings.logdir != type(settings).logdir:
        raise UserError("--pretrained and --logdir both say who drives: leave one of them out.")


def check_said(settings: Any, unsaid: Any, prefix: str = "") -> None:
    """UserError for a flag that would be ignored: it makes `settings` differ from those `unsaid`, for nobody."""
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value, before, flag = getattr(settings, name), getattr(unsaid, name), f"--{prefix}{name.replace('_', '-')}"
        if value != before:
            for needs in getattr(hint, "__metadata__", ()):
                if isinstance(needs, Needs) and not (needs.there(settings) or only(needs, flag, value, before)):
                    said = f"{flag}.…" if dataclasses.is_dataclass(value) else flag
                    other = needs.flag.replace("--", f"--{prefix}")
                    raise UserError(f"{said} says nothing without {other}: {needs.remedy}, or leave {said} out.")
            if dataclasses.is_dataclass(value):
                check_said(value, before, f"{name}.")


def only(needs: Needs, flag: str, value: Any, before: Any) -> bool:
    """Whether nothing was said of these settings but that they are not `there`: `--dream.rounds 0` of `--dream.…`."""
    own = needs.flag.removeprefix(f"{flag}.")
    return hasattr(value, own) and value == dataclasses.replace(before, **{own: getattr(value, own)})


def check_folder(flag: str, value: str) -> None:
    """UserError for what cannot be a folder."""
    if value == "":
        raise UserError(f"{flag} is empty: name a folder.")
    if value.encode(errors="replace").decode() != value:
        raise UserError(f"{flag} is {value}, whose name is no UTF-8, which TensorBoard needs: choose another folder.")
    for path in (Path(value), *Path(value).parents):
        if path.is_file():
            raise UserError(f"{flag} is {value}, and {path} is a file: name a folder.")
        if path.is_symlink() and not path.exists():
            raise UserError(f"{flag} is {value}, and {path} is a link to nothing: correct it, or name another folder.")


def check_cluster(address: str) -> None:
    """UserError for what is no address of a Ray cluster, or without the extra."""
    if not re.fullmatch(r"auto|local|[^/]+:[0-9]{1,5}", address):
        raise UserError(f"--ray is {address}: say auto, local, or HOST:PORT of the cluster's head.")
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray needs the extra `ray`: pip install 'worldmodels-pytorch[ray]'.")


def halves(count: int) -> bool:
    """pairs are added up, so say 1, 2, 4, 8, …"""
    return count & (count - 1) == 0


def bounds(hint: Any) -> list[Bound]:
    """The bounds in a field's annotation, also in those of `… | None`."""
    found = [bound for bound in getattr(hint, "__metadata__", ()) if isinstance(bound, Bound)]
    return found + [bound for part in getattr(hint, "__args__", ()) for bound in bounds(part)]


def check_bound(flag: str, value: Any, bound: Bound) -> None:
    """UserError for a number on the wrong side, and for one that is none."""
    match bound:
        case Ge(ge=least) if not least <= value:
            raise UserError(f"{flag} is {value}: it must be at least {least}.")
        case Gt(gt=limit) if not limit < value:
            raise UserError(f"{flag} is {value}: it must be a number above {'zero' if limit == 0 else limit}.")
        case Le(le=limit) if not value <= limit:
            raise UserError(f"{flag} is {value}: it must be at most {limit}.")
        case Lt(lt=limit) if not value < limit:
            raise UserError(f"{flag} is {value}: it must be below {limit}.")
        case Predicate() if not bound.func(value):
            raise UserError(f"{flag} is {value}: {bound.func.__doc__}.")
