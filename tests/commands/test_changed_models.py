"""V trained anew under M: every command that drives or dreams with both says so, once."""

import pytest

from tests.helpers.toy import TOY
from tests.playground.conftest import make_run
from worldmodels import cli
from worldmodels.runs import checkpoint
from worldmodels.runs.progress import say_once

EVALUATE = ["evaluate", "--episodes", "1", "--max-workers", "1", "--device", "cpu"]


@pytest.mark.parametrize("command", [EVALUATE, ["export", "--to", "site"], ["report"]])
def test_an_m_that_learned_from_another_v_is_named(tmp_path, monkeypatch, capsys, command: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", TOY)
    cli.main([*command, "--logdir", str(run)])
    assert "another V" not in capsys.readouterr().err
    tensors, meta = checkpoint.load(run / "mdrnn" / "best.safetensors")
    checkpoint.save(run / "mdrnn" / "best.safetensors", tensors, meta | {"V": "of another"})
    cli.main([*command, "--logdir", str(run)])
    said = f"M in {run} has learned from another V than is there now: `worldmodels train-mdrnn` with more --epochs"
    assert capsys.readouterr().err.count(said) == 1
    cli.main(["report", "--logdir", str(run)])
    assert said not in capsys.readouterr().err, "as the commands behind `run` do: once is enough"
    say_once.cache_clear()
    cli.main(["report", "--logdir", str(run)])
    assert said in capsys.readouterr().err
