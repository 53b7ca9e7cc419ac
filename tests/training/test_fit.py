"""The training loop: halving on a plateau, early stopping, best apart from last, and a loss that is no number."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.episodes import save_rollout
from worldmodels.commands import train_mdrnn, train_vae
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.training.fit import Loss, Trainee, fit
from worldmodels.training.ranks import Ranks

CFG = config.TrainVAE(epochs=9, patience=2, stop_after=5, learning_rate=1e-2)


def trainee_of(folder: Path, model: nn.Linear, loss: Loss, rate: float) -> Trainee:
    """Two training batches per epoch and a test batch."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return Trainee(
        "vae", "V", model, {}, optimizer, folder, "float32", loss, data="x", cut="",
        batches=lambda epoch, skip: ["train"] * (2 - skip), batches_per_epoch=2, test_batches=lambda: ["test"],
        rate_name="rate",
    )  # fmt: skip


def fit_scripted(folder: Path, test_losses: list[float], cfg: config.TrainVAE = CFG) -> Trainee:
    """Train a single number whose test loss in each epoch is given."""
    model, left = nn.Linear(1, 1), iter(test_losses)

    def loss(batch: str, noise: torch.Generator):
        value = model.weight.sum() ** 2 if batch == "train" else torch.tensor(next(left))
        return value, {"loss": value.detach()}, 1.0

    trainee = trainee_of(folder, model, loss, cfg.learning_rate)
    fit(trainee, cfg, Ranks(torch.device("cpu")))
    return trainee


def test_the_learning_rate_is_halved_on_a_plateau_and_training_stops(tmp_path) -> None:
    fit_scripted(tmp_path, [5.0, 4.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0])
    rows = logs.read(tmp_path / "metrics.jsonl")
    assert [row["learning_rate"] for row in rows] == [1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3, 2.5e-3]
    assert len(rows) == 7, "five epochs without progress end the training"


@pytest.mark.parametrize(
    ("share", "rates"),
    [(1, [1 + np.cos(np.pi * batch / 8) for batch in range(8)]), (0.5, [2, 2, 2, 2, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5])],
)
def test_an_annealed_learning_rate_falls_along_half_a_cosine(tmp_path, share: float, rates: list[float]) -> None:
    used: list[float] = []
    model = nn.Linear(1, 1)

    def loss(batch: str, noise: torch.Generator):
        if batch == "train":
            used.append(trainee.optimizer.param_groups[0]["lr"])
        value = model.weight.sum() ** 2
        return value, {"loss": value.detach()}, 1.0

    trainee = trainee_of(tmp_path, model, loss, 1e-3)
    fit(trainee, replace(CFG, epochs=4, patience=0, anneal=share, learning_rate=2.0), Ranks(torch.device("cpu")))
    assert used == pytest.approx(rates)


def test_best_is_the_lowest_test_loss_and_last_is_the_last(tmp_path) -> None:
    trainee = fit_scripted(tmp_path, [5.0, 4.0, 6.0, 7.0], replace(CFG, epochs=4))
    best, _ = checkpoint.load(tmp_path / "best.safetensors")
    last, meta = checkpoint.load(tmp_path / "last.safetensors")
    assert meta["loop"]["epoch"] == 4 and meta["loop"]["best"] == 4.0
    assert torch.equal(last["vae.weight"], trainee.model.weight.detach())
    assert not torch.equal(best["vae.weight"], last["vae.weight"])


def test_no_epochs_leave_the_model_untrained(tmp_path) -> None:
    trainee = fit_scripted(tmp_path, [], replace(CFG, epochs=0))
    best, _ = checkpoint.load(tmp_path / "best.safetensors")
    assert torch.equal(best["vae.weight"], trainee.model.weight.detach()) and not logs.read(tmp_path / "metrics.jsonl")


def test_more_epochs_train_further_and_a_finished_model_says_so(tmp_path, capsys) -> None:
    fit_scripted(tmp_path, [5.0], replace(CFG, epochs=1))
    fit_scripted(tmp_path, [], replace(CFG, epochs=1))
    assert "trained already" in capsys.readouterr().out
    fit_scripted(tmp_path, [4.0, 3.0], replace(CFG, epochs=3))
    assert [row["epoch"] for row in logs.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path) -> None:
    fit_scripted(tmp_path, [5.0, 4.0], replace(CFG, epochs=2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')
    fit_scripted(tmp_path, [3.0], replace(CFG, epochs=3))
    assert [row["epoch"] for row in logs.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


# ------------------------------------------------------------------------------- the stages on tiny episodes


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    """Four episodes of 12 steps of a square that moves."""
    folder, draw = tmp_path_factory.mktemp("rollouts"), np.random.default_rng(0)
    for i in range(4):
        frames = np.full((13, 64, 64, 3), 40 + 40 * i, np.uint8)
        for t in range(13):
            frames[t, 8 : 8 + 4 * i + 4, 3 * t : 3 * t + 8] = 255
        actions = draw.uniform(0, 1, (12, 3)).astype(np.float32)
        save_rollout(folder / f"rollout_{i}.npz", Rollout(frames, actions, np.ones(12, np.float32), np.zeros(12, bool)))
    return folder


@pytest.fixture(scope="module")
def trained(episodes, tmp_path_factory) -> tuple[config.TrainVAE, config.TrainMDRNN]:
    logdir = str(tmp_path_factory.mktemp("run"))
    shared = {"logdir": logdir, "rootdir": str(episodes), "epochs": 1, "batch_size": 8, "test_fraction": 0.25}
    v, m = config.TrainVAE(**shared), config.TrainMDRNN(**shared, sequence_length=5)
    train_vae.main(v)
    train_mdrnn.main(m)
    return v, m


def test_pictures_and_events_are_written_every_epoch(trained) -> None:
    v, _ = trained
    run = Path(v.logdir)
    for picture in (
        "vae/samples/reconstruction_0001.png",
        "vae/samples/samples_0001.png",
        "mdrnn/samples/dream_0001.png",
    ):
        assert (run / picture).stat().st_size > 100
    assert list(run.glob("vae/events.out.tfevents.*")) and list(run.glob("mdrnn/events.out.tfevents.*"))


def test_a_model_of_another_architecture_is_one_sentence(trained) -> None:
    v, m = trained
    with pytest.raises(UserError, match="z_size.*--noreload"):
        train_vae.main(replace(v, z_size=16, epochs=2))
    with pytest.raises(UserError, match="hidden_size.*--noreload"):
        train_mdrnn.main(replace(m, hidden_size=64, epochs=2))


def test_noreload_starts_over(trained, tmp_path) -> None:
    v, _ = trained
    other = replace(v, logdir=str(tmp_path))
    train_vae.main(replace(other, epochs=2))
    train_vae.main(replace(other, z_size=16, noreload=True))
    _, meta = checkpoint.load(tmp_path / "vae" / "last.safetensors")
    assert meta["vae"] == {"z_size": 16} and meta["loop"]["epoch"] == 1


@pytest.mark.parametrize("stage", ["vae", "mdrnn"])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(trained, stage: str) -> None:
    v, m = trained
    path = Path(v.logdir) / stage / "last.safetensors"
    before = path.read_bytes()
    tensors, meta = checkpoint.load(path)
    meta["loop"]["learning_rate"] = 1e25
    checkpoint.save(path, tensors, meta)
    with pytest.raises(UserError, match="diverged.*is kept.*--learning-rate"):
        if stage == "vae":
            train_vae.main(replace(v, epochs=4, checkpoint_seconds=0))
        else:
            train_mdrnn.main(replace(m, epochs=4, checkpoint_seconds=0))
    kept, _ = checkpoint.load(path)
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values() if tensor.is_floating_point())
    path.write_bytes(before)


def test_v_runs_once_over_the_data(trained, monkeypatch) -> None:
    """M trained further does not call V's encoder again."""
    from worldmodels.vision import VAE

    _, m = trained
    monkeypatch.setattr(VAE, "encode", lambda *_: pytest.fail("V was run again"))
    train_mdrnn.main(replace(m, epochs=2, nosamples=True))
    assert [row["epoch"] for row in logs.read(Path(m.logdir) / "mdrnn" / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_v_looks_at_the_data_in_the_precision_asked_for(trained, tmp_path, monkeypatch, precision: str) -> None:
    from worldmodels.vision import VAE

    v, m = trained
    shutil.copytree(Path(v.logdir) / "vae", tmp_path / "vae")
    encode, looked = VAE.encode, []
    monkeypatch.setattr(VAE, "encode", lambda vae, frames: looked.append(vae.use_bfloat16) or encode(vae, frames))
    train_mdrnn.main(replace(m, logdir=str(tmp_path), precision=precision, nosamples=True))
    assert set(looked) == {precision == "bfloat16"}
