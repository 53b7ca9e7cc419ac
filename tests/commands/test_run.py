"""The iterative procedure: the driver of one iteration gathers the episodes of the next."""

import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.toy import TOY
from worldmodels.commands import run
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint, record
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs import stages as plan
from worldmodels.runs.files import alone
from worldmodels.runs.presets.carracing import SMOKE


def test_two_iterations_on_a_toy(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # workers import the toy
    cfg = small(tmp_path / "run", iterations=2)
    run.main(cfg)
    last, first = tmp_path / "run", tmp_path / "run" / "previous"
    assert json.loads((last / "rollouts" / "collect.json").read_text())["policy"] == "agent"
    assert [len(logs.read(logdir / "rollouts" / "metrics.jsonl")) for logdir in (first, last)] == [3, 2]
    assert len(list((last / "mdrnn" / "latents").iterdir())) == 5, "M learns from the episodes of both"
    assert [len(logs.read(logdir / "ctrl" / "metrics.jsonl")) for logdir in (first, last)] == [1, 2]
    assert (last / "report.html").exists() and not (first / "evaluation.json").exists()
    capsys.readouterr()
    run.main(cfg)
    assert capsys.readouterr().out.count("trained already") == 3, "running again says that it is done"

    gathered = (first / "vae" / "best.safetensors").read_bytes()
    run.main(replace(cfg, vae=replace(cfg.vae, epochs=cfg.vae.epochs + 1)))
    assert len(logs.read(last / "vae" / "metrics.jsonl")) == cfg.vae.epochs + 1
    assert (first / "vae" / "best.safetensors").read_bytes() == gathered, "the driver that collected stays as it was"


def test_what_a_later_stage_would_refuse_is_refused_first(tmp_path: Path) -> None:
    """The second iteration gathers with the next seed."""
    with pytest.raises(UserError, match="--seed is 9223372036854775808: it must be below"):
        run.main(small(tmp_path / "run", seed=2**63 - 1, iterations=2))
    assert not (tmp_path / "run").exists()


def test_a_warm_iteration_on_a_toy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    cfg = small(tmp_path / "run", iterations=2, warm=True)
    run.main(replace(cfg, vae=replace(cfg.vae, learning_rate=1e-12)))
    last, first = tmp_path / "run", tmp_path / "run" / "previous"
    v, before = (checkpoint.load(folder / "vae" / "best.safetensors")[0] for folder in (last, first))
    assert all(torch.allclose(v[name], before[name], atol=1e-6) for name in before if name.startswith("vae."))
    assert "origin" in checkpoint.load(last / "ctrl" / "last.safetensors")[0]
    with pytest.raises(UserError, match="leave --warm out"):
        run.main(replace(cfg, dream=config.Dreaming(rounds=1)))


def small(logdir: Path, **changes) -> plan.Run:
    """A run of the toy in seconds, in this process."""
    return replace(
        SMOKE, logdir=str(logdir), env=TOY, device="cpu", early_generations=1,
        again=config.Collection(rollouts=2, threads=1, policy="agent"), collect=replace(SMOKE.collect, policy="white"),
        controller=replace(SMOKE.controller, max_workers=1), evaluate=replace(SMOKE.evaluate, video=False), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of one iteration, as the command leaves it."""
    logdir = tmp_path_factory.mktemp("finished") / "run"
    ask(small(logdir))
    return logdir


def ask(cfg: plan.Run) -> None:
    run.main(cfg, begin=lambda: record.write("run", cfg, "smoke"))


def weights(logdir: Path) -> dict[str, bytes]:
    return {stage: (logdir / stage / "best.safetensors").read_bytes() for stage in ("vae", "mdrnn", "ctrl")}


@pytest.mark.parametrize("killed_at", [None, 0, 3, 6, 7])
def test_more_iterations_continue_a_finished_run(finished: Path, tmp_path: Path, monkeypatch, killed_at) -> None:
    """What is there becomes the iteration before, also when the process dies between two renames."""
    logdir = Path(shutil.copytree(finished, tmp_path / "run"))
    before = weights(logdir)
    cfg = small(logdir, iterations=2)
    if killed_at is not None:
        die_at_rename(monkeypatch, killed_at)
        with pytest.raises(Killed):
            run.move_to_previous(cfg)
        monkeypatch.undo()
    run.move_to_previous(cfg)
    assert weights(logdir / "previous") == before and not (logdir / "vae").exists()
    assert not (logdir / ".previous").exists() and run.iteration(run.RunDir.of(logdir)) == 0
    if killed_at is None:
        ask(cfg)
        assert json.loads((logdir / "rollouts" / "collect.json").read_text())["policy"] == "agent"
        assert weights(logdir / "previous") == before and weights(logdir) != before
        run.move_to_previous(replace(cfg, iterations=3))
        assert weights(logdir / "previous" / "previous") == before


class Killed(BaseException):
    pass


def die_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    rename, count = Path.rename, itertools.count()

    def renamed(path: Path, to: Path) -> Path:
        if next(count) == number:
            raise Killed
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", renamed)


def test_a_refused_run_is_what_it_was_asked_before(finished: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(finished, tmp_path / "run"))
    asked = record.known(run.RunDir.of(logdir))["run"]
    cfg = small(logdir)
    with pytest.raises(UserError, match="holds a V with"):
        ask(replace(cfg, vae=replace(cfg.vae, z_size=16)))
    assert record.known(run.RunDir.of(logdir))["run"] == asked


def test_a_refused_iteration_moves_nothing(finished: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(finished, tmp_path / "run"))
    cfg = small(logdir, iterations=2)
    with pytest.raises(UserError, match="is longer than 1000"):
        ask(replace(cfg, again=replace(cfg.again, longer_than=1000)))
    assert (logdir / "ctrl" / "best.safetensors").exists() and not (logdir / "previous").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"controller": replace(SMOKE.controller, strategy="pgpe", pop_size=5)}, "--pop-size must be even"),
        ({"controller": replace(SMOKE.controller, start="anywhere")}, "cannot start 'anywhere'"),
        ({"controller": replace(SMOKE.controller, dream=True)}, "predicts no reward"),
        ({"evaluate": replace(SMOKE.evaluate, env="NoSuch-v0")}, "NoSuch-v0 is not registered"),
        ({"device": "cuda"}, "No CUDA device"),
        ({"collect": replace(SMOKE.collect, rollouts=1)}, "--collect.rollouts is 1"),
        ({"vae": replace(SMOKE.vae, micro_batches=3)}, "--vae.micro-batches is 3"),
        ({"controller": replace(SMOKE.controller, directions=289)}, "C sees 288 numbers"),
        ({"controller": replace(SMOKE.controller, directions=33, inputs="z")}, "C sees 32 numbers"),
    ],
)
def test_what_a_late_stage_refuses_is_refused_first(tmp_path: Path, changes: dict, sentence: str) -> None:
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=sentence):
        run.main(replace(small(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_without_pygame_is_refused_before_it_drives(tmp_path: Path, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pygame", None)
    cfg = small(tmp_path / "run")
    with pytest.raises(UserError, match=r"worldmodels-pytorch\[box2d\]"):
        run.main(replace(cfg, evaluate=replace(cfg.evaluate, env="CarRacing-v3")))
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_share_a_directory(finished: Path) -> None:
    with alone(finished, "running the pipeline"), pytest.raises(UserError, match="Another process is running"):
        run.main(small(finished))


@pytest.mark.parametrize(
    ("stage", "sentence", "words"),
    [
        ("vae", "lower --learning-rate, --noreload", "lower --vae.learning-rate, `worldmodels train-vae --logdir 'a b' "
         "--noreload`"),
        ("collect", "another --rootdir or --seed: 3 --rollouts", "another --logdir or --seed: 3 --collect.rollouts"),
        ("mdrnn", "run `worldmodels collect --noreload`; --no-such", "run `worldmodels collect --noreload`; --no-such"),
    ],
)  # fmt: skip
def test_a_stage_speaks_of_the_flags_that_run_has(stage: str, sentence: str, words: str) -> None:
    settings = getattr(plan.stages(plan.Run(logdir="a b")), stage)
    command = next(command for command, field in plan.STAGES.items() if field == stage)
    assert run.in_words_of_run(sentence, command, settings) == words
