"""The documents as a reader uses them: their blocks of code, and the commands in their text."""

import importlib.util
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from worldmodels.runs import bounds

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "worldmodels" / "pretrained").glob("*/README.md")),
]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.S | re.M)
STARTS = ("worldmodels ", ".venv/bin/worldmodels ", "make ", "python ", "pip ", "source ")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [textwrap.dedent(text) for name, text in FENCE.findall(path.read_text(encoding="utf-8")) if name == language]


def lines(block: str) -> list[list[str]]:
    """The commands of a shell block as words, without comments."""
    whole = block.replace("\\\n", " ").replace(" && ", "\n")
    words = (shlex.split(line, comments=True) for line in whole.splitlines())
    return [line for line in words if line]


def commands(path: Path) -> list[list[str]]:
    """Every command of a document as words: of its shell blocks, and in its text between backticks."""
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    spoken = [" ".join(words.split()) for words in inline]
    found = [shlex.split(words, comments=True) for words in spoken if words.startswith(STARTS)]
    return found + [line for block in blocks(path, "sh") for line in lines(block)]


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands with --ray be understood where the extra is not installed."""
    if importlib.util.find_spec("ray") is None:
        monkeypatch.setattr(bounds, "check_cluster", lambda address: None)
