"""torchrun: many processes train V and M to the last bit as one does."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.test_fit import episodes  # noqa: F401  # a fixture
from worldmodels.commands import train_mdrnn, train_vae
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs.settings import TrainMDRNN, TrainVAE
from worldmodels.training.ranks import Ranks

CPU = torch.device("cpu")
TIMED = ("seconds", "frames_per_second", "transitions_per_second")


def settings(episodes: Path, logdir: Path, **changes) -> tuple[TrainVAE, TrainMDRNN]:  # noqa: F811
    """Batches of 7 in 4 parts leave parts of one row and of two, and the last batch leaves some empty."""
    shared = {"logdir": str(logdir), "rootdir": str(episodes), "epochs": 2, "batch_size": 7, "test_fraction": 0.25}
    shared |= {"checkpoint_seconds": 0, "nosamples": True, **changes}
    return TrainVAE(**shared), TrainMDRNN(**shared, sequence_length=5, hidden_size=16)


def flags(cfg: TrainVAE | TrainMDRNN) -> list[str]:
    plain = type(cfg)()
    changed = {name: value for name, value in vars(cfg).items() if value != getattr(plain, name)}
    return [word for name, value in changed.items() for word in
            ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))]  # fmt: skip


def torchrun(count: int, command: str, cfg: TrainVAE | TrainMDRNN, dies_at: int = 0) -> str:
    """What torchrun wrote to stderr, where it failed; the first process is gone at its `dies_at`-th checkpoint."""
    program = ["tests.helpers.dies", str(dies_at)] if dies_at else ["worldmodels"]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m",
            *program, command, *flags(cfg)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    return done.stderr if done.returncode else ""


def left(logdir: Path, stage: str) -> tuple[bytes, list[dict]]:
    """The weights that are best, and the metrics but for the times."""
    rows = [{name: value for name, value in row.items() if name not in TIMED} for row in
            logs.read(logdir / stage / "metrics.jsonl")]  # fmt: skip
    return (logdir / stage / "best.safetensors").read_bytes(), rows


def test_processes_train_v_as_one_does(episodes: Path, tmp_path: Path) -> None:  # noqa: F811
    one, _ = settings(episodes, tmp_path / "one", micro_batches=2)
    many, _ = settings(episodes, tmp_path / "many")
    train_vae.main(one)
    assert not torchrun(2, "train-vae", many)
    assert left(tmp_path / "one", "vae") == left(tmp_path / "many", "vae")


@pytest.mark.slow
def test_any_number_of_processes_trains_and_goes_on_as_one_does(episodes: Path, tmp_path: Path) -> None:  # noqa: F811
    """V and M: 1 process in 4 micro-batches, 2 and 4 processes, and 4 that go on as 2 and then as 1."""
    for name in ("one", "two", "four", "mixed"):
        v, m = settings(episodes, tmp_path / name, micro_batches=4, epochs=3)
        for command, main, cfg in (("train-vae", train_vae.main, v), ("train-mdrnn", train_mdrnn.main, m)):
            if name == "one":
                main(cfg)
            elif name == "mixed":
                assert torchrun(4, command, replace(cfg, epochs=1, micro_batches=0)) == ""
                assert torchrun(2, command, replace(cfg, epochs=2, micro_batches=0)) == ""
                main(replace(cfg, micro_batches=0))
            else:
                assert torchrun({"two": 2, "four": 4}[name], command, cfg) == ""
    for stage in ("vae", "mdrnn"):
        one = left(tmp_path / "one", stage)
        assert len(one[1]) == 3
        for name in ("two", "four", "mixed"):
            assert left(tmp_path / name, stage) == one, f"{stage} {name}"


@pytest.mark.slow
@pytest.mark.parametrize("again", [1, 2, 4])
def test_processes_that_die_within_an_epoch_lose_nothing(episodes: Path, tmp_path: Path, again: int) -> None:  # noqa: F811
    """V and M: two processes, one of them killed in the second epoch; then `again` of them."""
    whole, broken = (settings(episodes, tmp_path / name, micro_batches=4) for name in ("whole", "broken"))
    commands = (("train-vae", train_vae.main, "vae", 9), ("train-mdrnn", train_mdrnn.main, "mdrnn", 4))
    for (command, main, stage, checkpoint_number), cfg, torn in zip(commands, whole, broken, strict=True):
        main(cfg)
        assert "exitcode" in torchrun(2, command, torn, checkpoint_number)
        _, meta = checkpoint.load(tmp_path / "broken" / stage / "last.safetensors")
        assert meta["loop"]["epoch"] == 1 and meta["loop"]["batch"] > 0
        assert torchrun(again, command, torn) == ""
        assert left(tmp_path / "broken", stage) == left(tmp_path / "whole", stage)


class Line(nn.Linear):
    """Its loss is the squared error of a masked batch; weights are numbers of rows."""

    def loss(self, batch: np.ndarray, number: int) -> tuple[Tensor, dict[str, Tensor], float]:
        x = torch.from_numpy(batch)
        value = (self(x) - 1).square().mean()
        return value, {"loss": value.detach()}, len(batch)


@pytest.mark.parametrize("size", [1, 3, 8, 13])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_micro_batches_add_up_to_the_batch_s_gradient(size: int, parts: int) -> None:
    torch.manual_seed(0)
    model, batch = Line(5, 1), np.random.default_rng(0).normal(size=(size, 5)).astype(np.float32)
    value, _, _ = model.loss(batch, 0)
    value.backward()
    expected = model.weight.grad.clone()
    metrics, weight = Ranks(CPU).backward(model, batch, parts, model.loss)
    torch.testing.assert_close(model.weight.grad, expected)
    torch.testing.assert_close(metrics["loss"], value.detach())
    assert weight == size


def test_numbers_that_cannot_be_shared_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes.*start 2, 4, 8"):
        Ranks(CPU)
    monkeypatch.delenv("WORLD_SIZE")
    ranks = Ranks(CPU)
    ranks.count = 4
    with pytest.raises(UserError, match="cannot share the 2 micro-batches.*--micro-batches 4"):
        ranks.check(2)


def test_other_commands_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from worldmodels.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 2 and "start evaluate without it" in capsys.readouterr().err
