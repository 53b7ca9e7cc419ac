"""`python -m tests.helpers.dies N command …`: worldmodels, whose first process is gone at its N-th checkpoint."""

import os
import sys
from pathlib import Path
from typing import Any

from worldmodels.cli import main

KILLED = 9


def main_that_dies(number: int, words: list[str]) -> None:
    rename, saved = os.replace, 0

    def count(source: Any, target: Any) -> None:
        nonlocal saved
        rename(source, target)
        saved += Path(target).name == "last.safetensors"
        if saved == number:
            os._exit(KILLED)

    os.replace = count
    main(words)


if __name__ == "__main__":
    main_that_dies(int(sys.argv[1]), sys.argv[2:])
