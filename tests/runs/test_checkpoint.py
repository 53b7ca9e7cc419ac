"""Checkpoints: what is saved comes back, a damaged file is one sentence, a kill leaves the old file or the new."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs.record import rebuilt
from worldmodels.training.fit import Epochs


def test_tensors_and_meta_come_back(tmp_path) -> None:
    tensors = {"a.b": torch.randn(3, 4), "c": torch.arange(5)}
    checkpoint.save(tmp_path / "x.safetensors", tensors, {"n": 1, "names": ["ä"]})
    loaded, meta = checkpoint.load(tmp_path / "x.safetensors")
    assert meta == {"n": 1, "names": ["ä"]} and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_others_can_read_it_as_any_new_file(tmp_path) -> None:
    (tmp_path / "new").touch()
    checkpoint.save(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, damage: str) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"a": torch.zeros(1000)}, {})
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:2000], "empty": b"", "foreign": b"PK\x03\x04 no tensors"}[damage])
    with pytest.raises(UserError, match="last.safetensors is damaged"):
        checkpoint.load(path)


def test_the_optimizer_continues_as_if_nothing_had_happened() -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Adam]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.Adam(model.parameters(), 1e-2)

    def step(model: torch.nn.Linear, optimizer: torch.optim.Adam, i: int) -> None:
        optimizer.zero_grad()
        model(torch.full((1, 4), float(i))).square().sum().backward()
        optimizer.step()

    straight, optimizer = make()
    for i in range(6):
        step(straight, optimizer, i)

    first, optimizer = make()
    for i in range(3):
        step(first, optimizer, i)
    packed = checkpoint.pack_optimizer(optimizer)
    second, optimizer = make()
    second.load_state_dict(first.state_dict())
    checkpoint.unpack_optimizer(optimizer, packed, 1e-2)
    for i in range(3, 6):
        step(second, optimizer, i)
    assert torch.equal(straight.weight, second.weight)


def test_a_kill_during_a_write_leaves_a_whole_file(tmp_path) -> None:
    """A process that writes without pause is killed at random moments: what is there always loads."""
    code = (
        "import sys, torch; from pathlib import Path; from worldmodels.runs import checkpoint\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    checkpoint.save(Path(sys.argv[1]), {'a': torch.full((2_000_000,), float(n))}, {'n': n})\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "last.safetensors"
    for delay in (0.0, 0.011, 0.023):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
        tensors, meta = checkpoint.load(path)
        assert (tensors["a"] == meta["n"]).all()


@pytest.mark.parametrize("wrong", [{"epoch": "2"}, {"seconds": None}, {"sums": [1]}, {"epoch": 2.5}, {"gone": 1}])
def test_where_a_training_stands_is_numbers(wrong: dict) -> None:
    good = {"epoch": 2, "seconds": 3, "sums": {"loss": 1.0}, "best": math.inf}
    assert rebuilt(Epochs, good) == Epochs(**good)
    with pytest.raises(TypeError):
        rebuilt(Epochs, good | wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_is_loaded_takes_no_memory_of_ours(tmp_path) -> None:
    """Of thousands of episodes as V sees them, which M learns from, the system drops what is not looked at."""
    checkpoint.save(tmp_path / "a.safetensors", {"x": torch.ones(1000)}, {})
    tensors, _ = checkpoint.load(tmp_path / "a.safetensors")
    assert str(tmp_path / "a.safetensors") in Path("/proc/self/maps").read_text()
    assert tensors["x"].sum() == 1000
