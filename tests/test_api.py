"""docs/api.md is the front door: its names, signatures and examples."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import worldmodels
from tests.helpers.documents import ROOT, blocks
from tests.helpers.runs import save_agent

API = ROOT / "docs" / "api.md"
NAMES = [name for name in worldmodels.__all__ if name != "__version__"]


def test_every_name_has_a_section() -> None:
    assert sorted(re.findall(r"^## (\w+)$", API.read_text(), re.M)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_the_code(name: str) -> None:
    """Names, order and defaults of the arguments."""
    section = API.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    said = re.search(rf"^`{name}\((.*?)\)`", section, re.S | re.M)
    assert said, name
    arguments = ast.parse(f"def f({said[1]}): ...").body[0].args  # type: ignore[attr-defined]
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    told = [argument.arg for argument in [*arguments.args, *arguments.kwonlyargs]]
    real = inspect.signature(getattr(worldmodels, name)).parameters
    assert told == list(real)
    assert [eval(ast.unparse(value)) for value in defaults if value is not None] == [
        parameter.default for parameter in real.values() if parameter.default is not inspect.Parameter.empty
    ]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one session, beside a run; shapes and types are those of the comments."""
    save_agent(tmp_path / "exp_dir", actions=3)
    monkeypatch.chdir(tmp_path)
    here: dict = {}
    for block in blocks(API, "python"):
        exec(block, here)
    assert here["frame"].shape == (96, 96, 3) and here["frame"].dtype == np.uint8
    assert here["redrawn"].shape == (2, 64, 64, 3) and here["redrawn"].dtype == np.uint8
    assert here["mean"].shape == here["next_z"].shape == (2, 32)
    assert [part.shape for part in here["state"]] == [(2, 256)] * 2
    assert here["action"].dtype == np.float32 and here["action"].tolist() == [[0, 0.5, 0]] * 2
    assert here["scores"].shape == here["lengths"].shape == (6,)
    assert here["scores"].dtype == np.float64 and here["lengths"].tolist() == [20] * 6
