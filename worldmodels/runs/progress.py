"""Progress bars in a terminal; in a log file a line every few seconds."""

import os
import sys
import time
from functools import cache
from typing import Any, TextIO

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines of a log


@cache
def say_once(sentence: str) -> None:
    """On stderr, however many of the commands behind `run` find it."""
    tqdm.write(sentence, file=sys.stderr)


class _Lines:
    """A text file that gets each state of a bar as a line of its own."""

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        if state := text.strip("\r\n "):
            self.file.write(state + "\n")

    def flush(self) -> None:
        self.file.flush()


def progress(inner: bool = False, **settings: Any) -> "tqdm[Any]":
    """A tqdm bar on stderr; an `inner` one (inside another bar) is left out of logs."""
    if os.environ.get("RANK", "0") != "0":  # of the processes of torchrun the first one speaks
        settings["disable"] = True
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, leave=not inner, **settings)
    if inner:
        settings["disable"] = True  # a False would overrule TQDM_DISABLE
    return tqdm(file=_Lines(sys.stderr), mininterval=LOG_SECONDS, ascii=True, **settings)


def machines(pool: Any) -> str:
    """What a bar says about a pool of more than this machine."""
    return f" on {pool.nodes} nodes" if pool.nodes > 1 else ""


class Pace:
    """Things done per second since it was made."""

    def __init__(self) -> None:
        self.began, self.done = time.perf_counter(), 0

    def add(self, count: int) -> None:
        self.done += count

    def __str__(self) -> str:
        return f"{self.done / max(time.perf_counter() - self.began, 1e-9):,.0f} steps/s"
