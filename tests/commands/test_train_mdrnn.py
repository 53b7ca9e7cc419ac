"""What a training of M leaves, and what one that is refused leaves as it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.episodes import damage, save_rollout
from worldmodels.commands import train_mdrnn, train_vae
from worldmodels.data.dataset import open_dataset
from worldmodels.data.latents import seen_by_another
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.settings import TrainMDRNN, TrainVAE

CFG = TrainMDRNN(epochs=0, hidden_size=8, nosamples=True, starts=4)


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    """A run with an untrained V and M, and the episodes of two folders."""
    for i in range(5):
        draw = np.random.default_rng(i)
        frames = draw.integers(0, 255, (7, 64, 64, 3), dtype=np.uint8)
        rollout = Rollout(frames, draw.random((6, 3), np.float32), np.ones(6, np.float32), np.zeros(6, bool))
        save_rollout(tmp_path / ("few" if i < 2 else "more") / f"rollout_{i}.npz", rollout)
    train_vae.main(TrainVAE(logdir=str(tmp_path), rootdir=str(tmp_path / "few"), epochs=0, z_size=4, nosamples=True))
    train_mdrnn.main(replace(CFG, logdir=str(tmp_path), rootdir=str(tmp_path / "few"), epochs=1))
    return tmp_path


def seen(logdir: Path) -> set[str]:
    return {path.name for path in (logdir / "mdrnn" / "latents").iterdir()}


def test_a_training_that_is_refused_leaves_what_v_has_seen(logdir: Path) -> None:
    before, asked = seen(logdir), replace(CFG, logdir=str(logdir), rootdir=str(logdir / "more"))
    with pytest.raises(UserError, match="use the same settings"):
        train_mdrnn.main(replace(asked, hidden_size=9))
    with alone(logdir / "mdrnn", "training M"), pytest.raises(UserError, match="Another process is training M"):
        train_mdrnn.main(asked)
    assert seen(logdir) == before
    train_mdrnn.main(asked)
    assert len(before) == 2 and len(seen(logdir)) == 3 and not seen(logdir) & before


@pytest.mark.parametrize("content", [{}, [], "x", {"env": 5, "start": "line"}, {"env": "CarRacing-v3"},
                                     {"env": "CarRacing-v3", "start": ["line"]}])  # fmt: skip
def test_a_foreign_collect_json_says_nothing(logdir: Path, content: object) -> None:
    (logdir / "few" / "collect.json").write_text(json.dumps(content))
    train_mdrnn.main(replace(CFG, logdir=str(logdir), rootdir=str(logdir / "few"), noreload=True))
    _, meta = checkpoint.load(logdir / "mdrnn" / "best.safetensors")
    assert meta["mdrnn"].get("action_kind") is None, "nobody says what the actions are"


def test_the_quality_of_an_m_before_goes_with_it(logdir: Path) -> None:
    quality = logdir / "mdrnn" / "quality.json"
    quality.write_text("{}")
    train_mdrnn.main(replace(CFG, logdir=str(logdir), rootdir=str(logdir / "few"), noreload=True))
    assert not quality.exists(), "this M predicts nothing that could be measured"


@pytest.mark.parametrize("stage", [train_vae, train_mdrnn])
def test_what_cannot_be_read_is_noticed_before_anything_is_deleted(logdir: Path, stage) -> None:
    cfg = {
        train_vae: TrainVAE(logdir=str(logdir), rootdir=str(logdir / "few"), z_size=4, noreload=True),
        train_mdrnn: replace(CFG, logdir=str(logdir), rootdir=str(logdir / "few"), noreload=True),
    }[stage]
    before = {path: path.read_bytes() for path in logdir.rglob("*.safetensors")}
    for path in (logdir / "few").glob("*.npz"):
        damage(path)
    with pytest.raises(UserError, match="Every rollout is damaged"):
        stage.main(cfg)
    assert {path: path.read_bytes() for path in logdir.rglob("*.safetensors")} == before


def test_an_m_that_has_no_epochs_left_for_another_v_says_so(logdir: Path, capsys) -> None:
    few = str(logdir / "few")
    assert not seen_by_another(RunDir(logdir))
    train_vae.main(TrainVAE(logdir=str(logdir), rootdir=few, epochs=1, z_size=4, nosamples=True))
    assert seen_by_another(RunDir(logdir))
    capsys.readouterr()
    train_mdrnn.main(replace(CFG, logdir=str(logdir), rootdir=few, epochs=1))
    said = capsys.readouterr().out
    assert "V has changed since M was trained: more --epochs train it with the new one." in said
    assert "trained already" in said and "inf" not in said
    assert seen_by_another(RunDir(logdir)), "it has not learned from it, although it has what the new V sees"
    train_mdrnn.main(replace(CFG, logdir=str(logdir), rootdir=few, epochs=2))
    assert "V has changed since M was trained: it goes on with the new one." in capsys.readouterr().out
    assert not seen_by_another(RunDir(logdir))


def test_with_which_weights_v_began_is_kept_or_refused(logdir: Path) -> None:
    shutil.copytree(logdir / "vae", logdir / "other" / "vae")
    cfg = TrainVAE(logdir=str(logdir), rootdir=str(logdir / "few"), epochs=1, z_size=4, nosamples=True)
    train_vae.main(cfg)
    for other in ({"init": "he"}, {"warm": str(logdir / "other")}):
        with pytest.raises(UserError, match="began with pytorch weights where (he|warm) ones are asked for"):
            train_vae.main(replace(cfg, epochs=2, **other))
    warm = replace(cfg, warm=str(logdir / "other"))
    train_vae.main(replace(warm, noreload=True))
    shutil.rmtree(logdir / "other")
    train_vae.main(replace(warm, epochs=2))  # it goes on without


def test_a_v_that_is_trained_meanwhile_is_noticed(logdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the episodes that one V saw would be kept as those of another."""

    def slowly(rootdir: str):
        cfg = TrainVAE(logdir=str(logdir), rootdir=rootdir, epochs=1, z_size=4, nosamples=True)
        train_vae.main(cfg)
        return open_dataset(rootdir)

    before = seen(logdir)
    monkeypatch.setattr(train_mdrnn, "open_dataset", slowly)
    with pytest.raises(UserError, match="vae/best.safetensors has changed meanwhile"):
        train_mdrnn.main(replace(CFG, logdir=str(logdir), rootdir=str(logdir / "more")))
    assert seen(logdir) == before
