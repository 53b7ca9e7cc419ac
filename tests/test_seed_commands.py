"""The five commands of ctallec's port, each flag of each, in sequence at tiny sizes in an empty folder, no display."""

import json
import os
import subprocess
import sys
from pathlib import Path

from worldmodels.runs import metrics as logs

ROOT = Path(__file__).parent.parent


def run(cwd: Path, script: str, *flags: str) -> str:
    """Run a root script as that port's README does; returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *flags],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{script} {flags}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_the_seed_s_commands_in_sequence(tmp_path) -> None:
    few = ("--epochs", "1", "--batch-size", "16")
    run(tmp_path, "data/generation_script.py", "--rollouts", "3", "--rootdir", "datasets/carracing", "--threads", "2",
        "--policy", "white", "--max-steps", "25")  # fmt: skip
    run(tmp_path, "data/generation_script.py", "--rollouts", "3", "--rootdir", "datasets/carracing", "--threads", "8",
        "--policy", "brown", "--max-steps", "25", "--noreload")  # fmt: skip
    assert len(list((tmp_path / "datasets/carracing").rglob("*.npz"))) == 3

    run(tmp_path, "trainvae.py", "--logdir", "exp_dir", *few)
    run(tmp_path, "trainvae.py", "--logdir", "exp_dir", "--noreload", "--nosamples", *few)
    assert len(logs.read(tmp_path / "exp_dir/vae/metrics.jsonl")) == 1

    run(tmp_path, "trainmdrnn.py", "--logdir", "exp_dir", *few)
    run(tmp_path, "trainmdrnn.py", "--logdir", "exp_dir", "--noreload", "--include_reward", *few)
    assert "train_reward" in logs.read(tmp_path / "exp_dir/mdrnn/metrics.jsonl")[0]

    short = ("--max-steps", "20", "--select-tracks", "1")
    said = run(tmp_path, "traincontroller.py", "--logdir", "exp_dir", "--n-samples", "4", "--pop-size", "4",
               "--target-return", "950", "--display", "--epochs", "1", *short)  # fmt: skip
    assert "generation 1:" in said, "--display prints the candidates' scores"
    run(tmp_path, "traincontroller.py", "--logdir", "exp_dir", "--n-samples", "1", "--pop-size", "4",
        "--max-workers", "2", "--noreload", "--epochs", "2", *short)  # fmt: skip
    assert len(logs.read(tmp_path / "exp_dir/ctrl/metrics.jsonl")) == 2

    said = run(
        tmp_path, "test_controller.py", "--logdir", "exp_dir", "--episodes", "1", "--max-steps", "30", "--render"
    )
    assert "mp4" in said, "without a display --render says that it writes a video"
    assert list((tmp_path / "exp_dir").glob("*.mp4"))
    result = json.loads((tmp_path / "exp_dir/evaluation.json").read_text())
    assert result["seeds"] == [1_000_000] and result["env"] == "worldmodels/CarRacing-v3"


def test_scripts_say_what_is_missing(tmp_path) -> None:
    for script, needs in (
        ("trainmdrnn.py", "train-vae"),
        ("traincontroller.py", "train-vae"),
        ("test_controller.py", "train-vae"),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / script), "--logdir", "exp_dir"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and needs in done.stderr and "Traceback" not in done.stderr
