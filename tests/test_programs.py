"""`python -m …`: what a user can mend is one sentence and exit code 2, and nothing is written."""

import runpy
import sys

import pytest

from experiments import time_to_score
from worldmodels import pretrained
from worldmodels.runs.metrics import Metrics


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("experiments.shipped drives nonsense", "There is no pretrained driver 'nonsense': the package has carracing"),
        ("experiments.shipped drives", "the following arguments are required: name"),
        ("experiments.shipped drives takecover", "takecover drives in worldmodels/TakeCover-v0"),
        ("experiments.shipped weights no_such_run mine", "There is no trained V in no_such_run"),
        ("experiments.shipped weights no_such_run ../mine", "'../mine' is no name of a driver"),
        ("experiments.shipped weights no_such_run", "the following arguments are required: name"),
        ("benchmarks.cluster --only nonsense", "--only knows no nonsense: it takes some of rows, workers"),
        ("benchmarks.dream --repeats 0", "0 is no whole number above zero"),
        ("benchmarks.pipeline --seconds nan", "nan is no number above zero"),
        ("benchmarks.takecover --baselines nonsense", "invalid choice: 'nonsense'"),
        ("experiments.sample_efficiency no_such_run", "no_such_run holds no C that has learned"),
        ("experiments.takecover no_such_run", "There is no trained V in no_such_run"),
        ("experiments.time_to_score no_such_run", "no_such_run is no run of `worldmodels run`"),
        ("experiments.dream_methods no_such_run", "no_such_run"),
        ("conformance.physics --tracks 0", "0 is no whole number above zero"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, monkeypatch, capsys, words: str, sentence: str) -> None:
    module, *arguments = words.split()
    if module == "experiments.sample_efficiency":
        pytest.importorskip("matplotlib")
    if words.endswith("drives takecover"):
        pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr()
    assert ended.value.code == 2 and sentence in said.err.splitlines()[-1], said.err
    assert not list(tmp_path.iterdir()) and not (pretrained.HERE / "mine").exists()


def test_the_clock_of_an_evolution_is_read_from_its_events(tmp_path) -> None:
    evolution = Metrics(tmp_path / "ctrl", "generation", 0)
    for generation in (1, 2):
        evolution.write({"generation": generation, "mean": 1.0, "seconds": 60.0 * generation})
    evolution.close()
    ended = time_to_score.clock(tmp_path)
    assert list(ended) == [1, 2] and ended[2] - ended[1] == pytest.approx(60, abs=1)
