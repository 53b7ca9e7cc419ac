"""Metrics: rows survive damage, and TensorBoard shows them by step whatever the clock does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodels.errors import UserError
from worldmodels.runs import metrics
from worldmodels.runs.metrics import Metrics
from worldmodels.show.pictures import write_grid


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "train_loss": 2.0 / number, "test_loss": 3.0 / number, "seconds": 60.0 * number}


def train(folder: Path, first: int, last: int) -> None:
    """A session: picture and row of each epoch."""
    session = Metrics(folder, "epoch", first - 1)
    for number in range(first, last + 1):
        write_grid(folder / "samples" / f"dream_{number:04d}.png", [np.full((2, 8, 8, 3), 10 * number, np.uint8)])
        session.write(epoch(number))
    session.close()


def shown(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def test_train_and_test_share_a_group_and_a_picture(tmp_path: Path) -> None:
    train(tmp_path, 1, 2)
    tags = shown(tmp_path).Tags()
    assert set(tags["scalars"]) == {"loss/train", "loss/test", "pace/seconds"}
    layout = shown(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"loss/train" in layout and b"loss/test" in layout and b"pace" not in layout


def test_a_seed_is_no_curve(tmp_path: Path) -> None:
    metrics.write_whole(tmp_path, "track", [{"track": 1, "seed": 1_000_000, "score": 900.0, "length": 812}])
    assert set(shown(tmp_path).Tags()["scalars"]) == {"score", "length"}
    assert metrics.read(tmp_path / "metrics.jsonl")[0]["seed"] == 1_000_000


def test_pictures_are_shown_at_their_epoch(tmp_path: Path) -> None:
    train(tmp_path, 1, 3)
    train(tmp_path, 3, 4)  # the third epoch is done again
    images = shown(tmp_path).Images("dream")
    assert [(image.step, image.width, image.height) for image in images] == [(step, 16, 8) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("hours", [-10, 10])
def test_a_clock_set_between_two_sessions_loses_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now = time.time()
    train(tmp_path, 1, 3)
    monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
    train(tmp_path, 4, 6)
    points = shown(tmp_path).Scalars("loss/test")
    assert [(point.step, point.value) for point in points] == [(n, pytest.approx(3.0 / n)) for n in range(1, 7)]
    gaps = np.diff([point.wall_time for point in points])
    np.testing.assert_allclose(gaps, 60, atol=1, err_msg="the time axis is that of the training")


def test_rows_of_the_version_before_are_read_and_shown_in_groups(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as events:
        events.add_scalar("train_loss", 2.0, 1)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epoch(1)) + "\n")
    train(tmp_path, 2, 2)
    assert [row["epoch"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2]
    assert set(shown(tmp_path).Tags()["scalars"]) == {"loss/train", "loss/test", "pace/seconds"}


DAMAGED = {
    "a list": b"[]\n",
    "a number": b"7\n",
    "binary": bytes(range(256)),
    "nested": b"[" * 100_000 + b"\n",
    "no axis": b'{"train_loss": 1}\n',
    "words": b'{"epoch": "one", "train_loss": "x"}\n',
    "too large": b'{"epoch": 1' + b"0" * 400 + b"}\n",
    "empty": b"\n\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_lines_are_left_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps(epoch(1)).encode() + b"\n" + content + b"\n" + json.dumps(epoch(2)).encode())
    assert metrics.read(path, "epoch") == [epoch(1), epoch(2)]
    train(tmp_path, 2, 3)
    assert metrics.read(path) == [epoch(1), epoch(2), epoch(3)]


def test_a_folder_in_place_of_the_metrics_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        metrics.read(tmp_path / "metrics.jsonl")


def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "noise_0001.png").write_bytes(b"no picture")
    train(tmp_path, 1, 1)
    assert shown(tmp_path).Tags()["images"] == ["dream"]


@pytest.mark.parametrize("disabled", ["", "1"])
def test_a_log_gets_lines_unless_progress_is_switched_off(disabled: str) -> None:
    code = "from worldmodels.runs.progress import progress\nfor _ in progress(iterable=range(3), desc='D'): pass"
    environment = {**os.environ, "TQDM_DISABLE": "1"} if disabled else dict(os.environ)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "\r" not in done.stderr
    assert ("D: 100%" in done.stderr) is (not disabled)


def test_a_line_of_a_log_is_whole_however_long_it_is() -> None:
    said = "12,345 steps/s on 8 nodes, " + "z" * 200 + " end"
    code = (
        "from worldmodels.runs.progress import progress\n"
        f"with progress(total=3, desc='Collecting') as bar: bar.set_postfix_str({said!r}); bar.update(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and said in done.stderr.splitlines()[-1]
