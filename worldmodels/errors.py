"""The one exception a user is meant to see."""

import traceback
from pathlib import Path


class UserError(Exception):
    """A mistake the user can correct: one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2, without a traceback.
    """


def missing(what: str, extra: str) -> UserError:
    """For a package (`what`) of one of our extras."""
    return UserError(f"{what} is not installed: pip install 'worldmodels-pytorch[{extra}]' brings it.")


def said(error: BaseException) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def place_of(error: BaseException) -> str:
    """file:line where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
