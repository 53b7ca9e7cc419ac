"""docs/tutorial.ipynb runs from its first cell to its last."""

import os
import re
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


def test_what_is_stored_says_nothing_of_a_machine() -> None:
    """The outputs are part of the page: all cells ran in order, no path of a home or temporary folder, one megabyte."""
    import json

    cells = [cell for cell in json.loads(TUTORIAL.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    said = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in said)
    texts = "".join(str(output.get("text", "")) for output in said)
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/", texts)
    assert TUTORIAL.stat().st_size < 1_000_000


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(TUTORIAL, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    texts = "".join(output.get("text", "") for output in outputs)
    points = re.search(r"(\d+) points in 6 seconds", texts)
    assert points and int(points[1]) > 200, "the driver keeps to the road"
    assert "trained" in texts
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
