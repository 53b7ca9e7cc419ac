"""The evolution's book-keeping: what `best` holds, when it stops, what a change of the selection tracks means."""

import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import save_agent
from tests.helpers.toy import TOY, Toy
from worldmodels import agent, controller
from worldmodels.commands import train_controller
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents
from worldmodels.errors import UserError
from worldmodels.evolution import strategies as evolution
from worldmodels.evolution.carrying import carried
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs.directory import RunDir

CFG = config.TrainController(
    env=TOY, pop_size=4, n_samples=1, epochs=6, select_every=100, select_tracks=2, max_steps=8, max_workers=1,
    batch_size=4, strategy="pgpe", device="cpu", target_return=1e9,
)  # fmt: skip


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    run = save_agent(tmp_path / "run", actions=3, env=TOY)
    (run / "ctrl" / "best.safetensors").unlink()
    return run


def test_best_is_the_average_of_the_last_means(logdir: Path) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir), average=3, epochs=2))
    train_controller.main(replace(CFG, logdir=str(logdir), average=3, epochs=6))  # the means outlive a resume
    history = checkpoint.load(logdir / "ctrl" / "last.safetensors")[0]["history"].numpy()
    strategy = evolution.make("pgpe", (4 + 8 + 1) * 3, 4, CFG.sigma, CFG.seed)
    means = list(evolution.replay(strategy, history))
    rows = [row for row in logs.read(logdir / "ctrl" / "metrics.jsonl") if row["selected"] is not None]
    winner = max(rows, key=lambda row: row["selected"])["generation"]
    best = checkpoint.load(logdir / "ctrl" / "best.safetensors")[0]["parameters"].numpy()
    np.testing.assert_allclose(best, np.mean(means[max(0, winner - 3) : winner], axis=0), atol=1e-6)
    assert len(history) == 6 and any(row["generation"] == 6 for row in rows)


def test_a_warm_start_is_the_driver_itself_where_v_and_m_are_the_same(tmp_path: Path, logdir: Path) -> None:
    source = save_agent(tmp_path / "source", actions=3, env=TOY)
    shutil.copytree(source / "vae", logdir / "vae", dirs_exist_ok=True)
    shutil.copytree(source / "mdrnn", logdir / "mdrnn", dirs_exist_ok=True)
    driver = checkpoint.load(source / "ctrl" / "best.safetensors")[0]["parameters"].numpy()
    cfg = replace(CFG, logdir=str(logdir), warm=str(source), sigma=1e-9, epochs=1, strategy="cma")
    train_controller.main(cfg)
    best = checkpoint.load(logdir / "ctrl" / "best.safetensors")[0]["parameters"].numpy()
    np.testing.assert_allclose(best, driver, atol=1e-5)
    first = logs.read(logdir / "ctrl" / "metrics.jsonl")[0]["env_steps"]
    assert first > (4 + 2) * 8, "the steps in whose states it was carried over are counted"

    shutil.rmtree(source)  # it goes on without
    train_controller.main(replace(cfg, epochs=2))
    with pytest.raises(UserError, match="other settings"):
        train_controller.main(replace(cfg, epochs=3, warm=None))
    with pytest.raises(UserError, match="--inputs and --hidden"):
        train_controller.main(replace(cfg, inputs="z"))


def test_a_warm_start_does_what_the_driver_did_where_z_means_something_else(tmp_path: Path, logdir: Path) -> None:
    """Here: the opposite of what it meant, which the new M knows."""
    source = save_agent(tmp_path / "source", actions=3, env=TOY)
    save_agent(logdir, actions=3, env=TOY)
    for name, layers in (("vae", ("mean.weight", "mean.bias")), ("mdrnn", ("lstm.weight_ih_l0",))):
        path = logdir / name / "best.safetensors"
        tensors, meta = checkpoint.load(path)
        for layer in layers:
            tensors[f"{name}.{layer}"][..., : 4 if name == "mdrnn" else None] *= -1
        checkpoint.save(path, tensors, meta)
    shape, parameters, meta = controller.load(RunDir(source))
    carried_over, steps = carried(str(source), RunDir(logdir), shape, TOY, seed=0)
    assert steps > 0 and np.abs(carried_over - parameters).max() > 0.1
    controller.save(RunDir(logdir), shape, carried_over.astype(np.float32), meta)
    frames = np.random.default_rng(0).integers(256, size=(20, 64, 64, 3), dtype=np.uint8)
    did, does = (np.stack([driver(frame) for frame in frames]) for driver in map(agent.load, (source, logdir)))
    np.testing.assert_allclose(does, did, atol=0.05)


def test_a_warm_start_with_another_shape_is_refused(tmp_path: Path, logdir: Path) -> None:
    source = save_agent(tmp_path / "source", actions=3, env=TOY)
    sees_z = Controller(4, 8, 3, inputs="z")
    controller.save(
        RunDir(source), sees_z, np.zeros(sees_z.size, np.float32), {"agent": {"sample_z": False, "seed": 0}, "env": TOY}
    )
    with pytest.raises(UserError, match="use the same sizes"):
        train_controller.main(replace(CFG, logdir=str(logdir), warm=str(source)))
    assert not (logdir / "ctrl" / "last.safetensors").exists()


def test_starting_over_deletes_all_that_c_has_left(logdir: Path) -> None:
    for old in ("dream.mp4", "samples/dream_0040.png", "episodes/round_0001.safetensors", "best.safetensors"):
        (logdir / "ctrl" / old).parent.mkdir(exist_ok=True)
        (logdir / "ctrl" / old).write_bytes(b"of an earlier C")
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1, noreload=True))
    left = {path.name for path in (logdir / "ctrl").iterdir() if not path.name.startswith("events")} - {".lock"}
    assert left == {"best.safetensors", "last.safetensors", "metrics.jsonl"}


def test_what_is_refused_deletes_nothing(logdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1))
    again = replace(CFG, logdir=str(logdir), epochs=1, noreload=True)
    kept = {path: path.read_bytes() for path in (logdir / "ctrl").glob("*.safetensors")}
    if find_spec("ray") is not None:
        with pytest.raises(UserError, match="There is no Ray cluster at 127.0.0.1:1"):
            train_controller.main(replace(again, ray="127.0.0.1:1"))
    monkeypatch.setattr(Toy, "reset", lambda self, **_: 1 / 0)
    with pytest.raises(UserError, match="raised ZeroDivisionError"):
        train_controller.main(again)
    monkeypatch.setattr(Toy, "reset", lambda self, **_: sys.exit(0))
    with pytest.raises(UserError, match="raised SystemExit: 0"):
        train_controller.main(again)
    assert len(kept) == 2 and kept == {path: path.read_bytes() for path in (logdir / "ctrl").glob("*.safetensors")}


def test_a_c_of_another_v_and_m_is_said(logdir: Path, capsys) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1))
    agent.load(logdir)
    assert "evolved with another" not in capsys.readouterr().err
    save_agent(logdir / "anew", actions=3, env=TOY, seed=2)
    for stage in ("vae", "mdrnn"):
        shutil.copytree(logdir / "anew" / stage, logdir / stage, dirs_exist_ok=True)
    agent.load(logdir)
    agent.load(logdir)
    assert capsys.readouterr().err.count("evolved with another V or M than are there now") == 1
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1))
    assert "V or M has changed since C evolved: more --epochs or --env-steps go on" in capsys.readouterr().out


def test_a_budget_of_steps_ends_the_evolution(logdir: Path) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir), env_steps=100, epochs=1000))
    rows = logs.read(logdir / "ctrl" / "metrics.jsonl")
    assert rows[-1]["env_steps"] >= 100 and rows[-2]["env_steps"] < 100
    assert rows[-1]["selected"] is not None, "the last mean is evaluated too"


def test_scores_on_other_selection_tracks_do_not_compare(logdir: Path) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1))
    path = logdir / "ctrl" / "last.safetensors"
    tensors, meta = checkpoint.load(path)
    meta["loop"]["best"] = 1e6  # out of reach
    checkpoint.save(path, tensors, meta)
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=2))
    assert checkpoint.load(path)[1]["loop"]["best"] == 1e6
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=3, select_tracks=3))
    assert checkpoint.load(path)[1]["loop"]["best"] < 1e6
    assert checkpoint.load(logdir / "ctrl" / "best.safetensors")[1]["generation"] == 3


def test_no_more_directions_than_c_can_see(logdir: Path, capsys) -> None:
    episode = Latents(torch.randn(21, 4), torch.zeros(21, 4), torch.rand(20, 3), torch.zeros(20), torch.zeros(20))
    tag = {"vae": checkpoint.digest(logdir / "vae" / "best.safetensors"), "episode": "0"}
    checkpoint.save(logdir / "mdrnn" / "latents" / "0.safetensors", episode._asdict(), tag)
    (logdir / "mdrnn" / "latents" / "_.safetensors").write_bytes(b"foreign")
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1))
    assert "another V" not in capsys.readouterr().err
    with pytest.raises(UserError, match="--directions is 13: what C sees in M's episodes has 12 at most"):
        train_controller.main(replace(CFG, logdir=str(logdir), directions=13, noreload=True))
    assert (logdir / "ctrl" / "best.safetensors").exists(), "the driver that was there stays"

    save_agent(logdir, actions=3, env=TOY, seed=2)  # another V and M of the same sizes; M's episodes stay
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1, noreload=True))
    assert "has learned from another V than is there now: `worldmodels train-mdrnn`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("history", "loop"), [(None, {"generation": "1"}), (None, {"env_steps": None}), (torch.zeros(1, 3), {})]
)
def test_an_evolution_that_stands_nowhere_is_one_sentence(
    logdir: Path, history: torch.Tensor | None, loop: dict
) -> None:
    cfg, last = replace(CFG, logdir=str(logdir), epochs=1), logdir / "ctrl" / "last.safetensors"
    train_controller.main(cfg)
    tensors, meta = checkpoint.load(last)
    tensors["history"] = tensors["history"] if history is None else history
    checkpoint.save(last, tensors, meta | {"loop": meta["loop"] | loop})
    with pytest.raises(UserError, match="holds no evolution: delete it, or start over"):
        train_controller.main(replace(cfg, epochs=2))
