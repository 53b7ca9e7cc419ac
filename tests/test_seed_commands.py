"""The five commands of ctallec's port, each flag of each, in sequence at tiny sizes in an empty folder, no display."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worldmodels.runs import metrics as logs

ROOT = Path(__file__).parent.parent
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """Run a root script as that port's README does, in an empty folder; returns what it printed."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def script(name: str, *flags: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *flags])
        runpy.run_path(str(ROOT / name), run_name="__main__")
        return "".join(capfd.readouterr())

    return script


def test_the_seed_s_commands_in_sequence(run: Run, tmp_path: Path) -> None:
    few = ("--epochs", "1", "--batch-size", "16")
    run("data/generation_script.py", "--rollouts", "3", "--rootdir", "datasets/carracing", "--threads", "2",
        "--policy", "white", "--max-steps", "25")  # fmt: skip
    run("data/generation_script.py", "--rollouts", "3", "--rootdir", "datasets/carracing", "--threads", "8",
        "--policy", "brown", "--max-steps", "25", "--noreload")  # fmt: skip
    assert len(list((tmp_path / "datasets/carracing").rglob("*.npz"))) == 3

    run("trainvae.py", "--logdir", "exp_dir", *few)
    run("trainvae.py", "--logdir", "exp_dir", "--noreload", "--nosamples", *few)
    assert len(logs.read(tmp_path / "exp_dir/vae/metrics.jsonl")) == 1

    run("trainmdrnn.py", "--logdir", "exp_dir", *few)
    run("trainmdrnn.py", "--logdir", "exp_dir", "--noreload", "--include_reward", *few)
    assert "train_reward" in logs.read(tmp_path / "exp_dir/mdrnn/metrics.jsonl")[0]

    short = ("--max-steps", "20", "--select-tracks", "1")
    said = run("traincontroller.py", "--logdir", "exp_dir", "--n-samples", "4", "--pop-size", "4",
               "--target-return", "950", "--display", "--epochs", "1", *short)  # fmt: skip
    assert "generation 1:" in said, "--display prints the candidates' scores"
    run("traincontroller.py", "--logdir", "exp_dir", "--n-samples", "1", "--pop-size", "4",
        "--max-workers", "2", "--noreload", "--epochs", "2", *short)  # fmt: skip
    assert len(logs.read(tmp_path / "exp_dir/ctrl/metrics.jsonl")) == 2

    said = run("test_controller.py", "--logdir", "exp_dir", "--episodes", "1", "--max-steps", "30", "--render")
    assert "mp4" in said, "without a display --render says that it writes a video"
    assert list((tmp_path / "exp_dir").glob("*.mp4"))
    result = json.loads((tmp_path / "exp_dir/evaluation.json").read_text())
    assert result["seeds"] == [1_000_000] and result["env"] == "worldmodels/CarRacing-v3"


@pytest.mark.parametrize("script", ["trainmdrnn.py", "traincontroller.py", "test_controller.py"])
def test_scripts_say_what_is_missing(script: str, run: Run, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        run(script, "--logdir", "exp_dir")
    said = capfd.readouterr().err
    assert exit.value.code == 2 and "train-vae" in said and "Traceback" not in said
