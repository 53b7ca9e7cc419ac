"""Ctrl-C while workers drive: one sentence, exit code 130, at once, and nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.runs import save_agent

ROOT = Path(__file__).parents[2]
ENDLESS = """
import multiprocessing
import os
import time
from pathlib import Path

import gymnasium

from tests.helpers.toy import Toy


class Endless(Toy):
    def step(self, action):
        if multiprocessing.parent_process() is not None:
            Path(f"working-{os.getpid()}").touch()
            time.sleep(600)
        return super().step(action)


gymnasium.register("Endless-v0", Endless, max_episode_steps=20)
"""
COMMANDS = {
    "collect": "--rollouts 4 --threads 2 --rootdir episodes",
    "evaluate": "--episodes 4 --max-workers 2 --logdir run",
    "train-controller": "--pop-size 4 --n-samples 1 --batch-size 1 --max-workers 2 --logdir run",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "command", ["collect", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evaluate", "train-controller"))]
)
def test_ctrl_c_while_workers_drive(tmp_path, command: str) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    save_agent(tmp_path / "run", actions=3, env="Endless-v0")
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [sys.executable, "-m", "worldmodels", command, "--env", "endless:Endless-v0", *COMMANDS[command].split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest itself may run where it is ignored
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    while len(working := list(tmp_path.glob("working-*"))) < 2 and running.poll() is None:
        time.sleep(0.05)
    assert running.poll() is None, running.communicate()
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and said.rstrip().endswith("Stopped. The same command continues."), said
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{worker.name.removeprefix('working-')}/exe").exists() for worker in working)
    if command == "collect":
        assert json.loads((tmp_path / "episodes" / "collect.json").read_text())["env"] == "endless:Endless-v0"
