"""Killed at the n-th rename, for every n, and run again: each command ends where it would have ended anyway.

Every file is written to a temporary name and renamed, so that a rename is the only moment at which anything changes.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.toy import TOY
from worldmodels.commands import collect, evaluate, train_controller, train_mdrnn, train_vae
from worldmodels.runs import checkpoint, metrics
from worldmodels.runs import stages as plan
from worldmodels.runs.files import read_json
from worldmodels.runs.presets.carracing import SMOKE

CLOCKS = {"seconds", "frames_per_second", "transitions_per_second", "steps_per_second"}
KILLED = 9


def stages(logdir: Path) -> dict[str, Callable[[], None]]:
    """The commands of a tiny run, in their order; all in this process, which is the one to be killed."""
    cfg = replace(
        SMOKE, logdir=str(logdir), env=TOY, device="cpu",
        collect=replace(SMOKE.collect, policy="white", max_steps=None),
        vae=replace(SMOKE.vae, checkpoint_seconds=0, batch_size=16, z_size=4),
        mdrnn=replace(SMOKE.mdrnn, checkpoint_seconds=0, batch_size=2, hidden_size=8),
        controller=replace(SMOKE.controller, max_workers=1, epochs=3),
        evaluate=replace(SMOKE.evaluate, episodes=2, max_workers=1, video=False),
    )  # fmt: skip
    todo = plan.stages(cfg)
    return {
        "collect": lambda: collect.main(todo.collect),
        "train-vae": lambda: train_vae.main(todo.vae),
        "train-mdrnn": lambda: train_mdrnn.main(todo.mdrnn),
        "train-controller": lambda: train_controller.main(todo.controller),
        "evaluate": lambda: evaluate.main(todo.evaluate),
    }


@pytest.fixture(scope="module")
def after(tmp_path_factory) -> dict[str, Path]:
    """The run directory after each command, uninterrupted; under "nothing" the empty one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child has none of OpenMP's threads
    run, kept = tmp_path_factory.mktemp("run") / "run", tmp_path_factory.mktemp("after")
    run.mkdir()
    found = {"nothing": Path(shutil.copytree(run, kept / "nothing"))}
    for name, stage in stages(run).items():
        stage()
        found[name] = Path(shutil.copytree(run, kept / name))
    yield found
    torch.set_num_threads(threads)


def killed_at(number: int, stage: Callable[[], None]) -> bool:
    """Run `stage` in a child that is gone at the rename of this number; whether it came so far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    renames = 0

    def counted(rename: Callable[..., Any]) -> Callable[..., Any]:
        def count(*paths: Any) -> Any:
            nonlocal renames
            renames += 1
            if renames == number:
                os._exit(KILLED)
            return rename(*paths)

        return count

    os.replace = counted(os.replace)
    try:
        stage()
        os._exit(0)
    finally:
        os._exit(1)


def content(run: Path) -> dict[str, Any]:
    """All that a run holds but times: tensors and what is said of them, rows, episodes, pictures, scores."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.suffix == ".safetensors":
            tensors, meta = checkpoint.load(path)
            meta.get("loop", {}).pop("seconds", None)
            found[name] = {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}, meta
        elif path.suffix == ".jsonl":
            found[name] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in metrics.read(path)]
        elif path.suffix == ".json":
            found[name] = {key: value for key, value in read_json(path).items() if key not in ("command", "logdir")}
        elif path.suffix in (".npz", ".png"):
            found[name] = path.read_bytes()
        else:
            assert path.name == ".lock" or "tfevents" in name, f"{name} is left"
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("train")) for name in stages(Path())]
)
def test_killed_at_any_rename_and_run_again(after: dict[str, Path], tmp_path: Path, name: str) -> None:
    before, expected = list(after)[list(after).index(name) - 1], content(after[name])
    killed = 0
    while True:
        shutil.copytree(after[before], run := tmp_path / str(killed))
        stage = stages(run)[name]
        if not killed_at(killed + 1, stage):
            break
        killed += 1
        for path in run.rglob(".*.tmp*"):  # what a kill leaves is not looked at by anybody; the command may keep it
            path.unlink()
        stage()
        assert content(run) == expected, f"killed at rename {killed}"
    assert killed >= {"collect": 5, "train-vae": 10, "train-mdrnn": 12, "train-controller": 5, "evaluate": 4}[name]
    assert content(run) == expected, "in a forked child"
