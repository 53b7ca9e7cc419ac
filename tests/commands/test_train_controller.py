"""The evolution's book-keeping: what `best` holds, when it stops, what a change of the selection tracks means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import save_agent
from tests.helpers.toy import TOY
from worldmodels.commands import train_controller
from worldmodels.data.latents import Latents, digest
from worldmodels.errors import UserError
from worldmodels.evolution import strategies as evolution
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config

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


def test_starting_over_deletes_all_that_c_has_left(logdir: Path) -> None:
    for old in ("dream.mp4", "samples/dream_0040.png", "episodes/round_0001.safetensors", "best.safetensors"):
        (logdir / "ctrl" / old).parent.mkdir(exist_ok=True)
        (logdir / "ctrl" / old).write_bytes(b"of an earlier C")
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=1, noreload=True))
    left = {path.name for path in (logdir / "ctrl").iterdir() if not path.name.startswith("events")} - {".lock"}
    assert left == {"best.safetensors", "last.safetensors", "metrics.jsonl"}


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
    tag = {"vae": digest(logdir / "vae" / "best.safetensors"), "episode": "0"}
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
