"""The whole pipeline on a toy Discrete environment; killed at random moments, it ends where it would have ended."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.toy import TOY
from worldmodels import cli
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs

ROOT = Path(__file__).parent.parent
KILLS = 2
CLOCKS = ("seconds", "frames_per_second", "transitions_per_second", "steps_per_second")
SIZES = [
    "--collect.rollouts", "6", "--collect.threads", "2", "--collect.policy", "white",
    "--vae.epochs", "2", "--vae.batch-size", "20", "--vae.checkpoint-seconds", "0", "--vae.learning-rate", "1e-3",
    "--vae.anneal", "0.5", "--vae.motion", "4", "--vae.init", "he", "--mdrnn.anneal", "1",
    "--mdrnn.epochs", "6", "--mdrnn.batch-size", "2", "--mdrnn.sequence-length", "8", "--mdrnn.checkpoint-seconds", "0",
    "--controller.epochs", "8", "--controller.pop-size", "4", "--controller.n-samples", "2",
    "--controller.select-every", "2", "--controller.select-tracks", "2", "--controller.max-workers", "1",
    "--evaluate.episodes", "3", "--evaluate.max-workers", "1",
]  # fmt: skip


def command(logdir: Path) -> list[str]:
    return ["run", "--preset", "smoke", "--env", TOY, "--logdir", str(logdir), *SIZES]


def start(logdir: Path) -> subprocess.Popen:
    """The command in a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "worldmodels", *command(logdir)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def files_that_count(logdir: Path) -> dict[str, object]:
    """Every result of a run without the clocks."""
    found: dict[str, object] = {}
    for path in sorted(logdir.rglob("*")):
        name = str(path.relative_to(logdir))
        if path.suffix == ".safetensors":
            tensors, meta = checkpoint.load(path)
            meta.get("loop", {}).pop("seconds", None)
            found[name] = ({key: tensor.numpy() for key, tensor in tensors.items()}, meta)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = (dict(arrays), {})
        elif path.name == "metrics.jsonl":
            found[name] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in logs.read(path)]
        elif path.name == "evaluation.json":
            result = json.loads(path.read_text())
            found[name] = [result[key] for key in ("seeds", "scores", "lengths", "mean", "std")]
        elif path.suffix in (".png", ".html"):
            found[name] = "there"
    return found


def assert_same(a: dict[str, object], b: dict[str, object]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, tuple):
            tensors, meta = value
            others, other_meta = b[name]  # type: ignore[misc]
            assert meta == other_meta, name
            assert tensors.keys() == others.keys(), name
            for key, array in tensors.items():
                np.testing.assert_array_equal(array, others[key], err_msg=f"{name}: {key}")
        else:
            assert value == b[name], name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, float]:
    """A whole run, in this process, and the seconds it took."""
    logdir, began = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    cli.main(command(logdir))
    return logdir, time.monotonic() - began


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path) -> None:
    (whole, duration), broken = uninterrupted, tmp_path / "broken" / "run"
    draw = random.Random(5)
    for kill in range(KILLS):
        process = start(broken)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        process.stdout.readline()
        time.sleep(draw.uniform(0.05, 0.35) * duration)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert kill or not (broken / "evaluation.json").exists(), "the first kill came too late to test anything"
    cli.main(command(broken))
    results = files_that_count(whole)
    stages = {f"{stage}/{kind}.safetensors" for stage in ("vae", "mdrnn", "ctrl") for kind in ("best", "last")}
    others = {"evaluation.json", "report.html", "rollouts/metrics.jsonl", "evaluation/metrics.jsonl"}
    assert stages | others <= set(results)
    assert max(results["evaluation.json"][2]) <= 18, "the toy's description cuts episodes at 18 steps"  # type: ignore
    assert_same(results, files_that_count(broken))


def test_noreload_starts_one_stage_over_and_leaves_the_others(uninterrupted, tmp_path) -> None:
    logdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], logdir)
    before = files_that_count(logdir)
    again = ["train-mdrnn", "--logdir", str(logdir), "--noreload", "--epochs", "1", "--test-fraction", "0.34"]
    cli.main([*again, "--rootdir", str(logdir / "rollouts"), "--batch-size", "2"])
    after = files_that_count(logdir)
    changed = {name for name in before if name.startswith(("vae/", "ctrl/", "rollouts/"))}
    assert_same({k: before[k] for k in changed}, {k: after[k] for k in changed})
    assert len(logs.read(logdir / "mdrnn" / "metrics.jsonl")) == 1
