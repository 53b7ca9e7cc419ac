"""What a training of M leaves, and what one that is refused leaves as it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldmodels.commands import train_mdrnn, train_vae
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import save_rollout
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
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
