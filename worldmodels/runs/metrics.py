"""What a stage leaves to look at: a row of numbers per epoch in metrics.jsonl, and the same as TensorBoard events."""

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodels.errors import UserError
from worldmodels.runs.files import write_atomically

Row = dict[str, float | None]

GROUPS = {  # columns that TensorBoard shows side by side; train_loss and test_loss are loss/train and loss/test anyway
    "score": ("best", "mean", "std", "worst", "selected"),
    "pace": ("env_steps", "steps_per_second", "frames_per_second", "transitions_per_second", "seconds"),
}


class Metrics:
    """Appends rows to `folder`/metrics.jsonl and shows them, with the pictures in `folder`/samples, on TensorBoard.

    Opening writes the events anew from the rows and pictures there are, in one file: TensorBoard orders files by the
    clock, and a clock set back between two sessions would drop what the later one wrote.
    """

    def __init__(self, folder: Path, axis: str, done: int):
        """
        Args:
            folder: the stage's folder.
            axis: the column that counts: "epoch", "generation", "rollout", "track" or "episode".
            done: the checkpoint's count; rows above it belong to work that is done again, and are dropped.
        """
        from torch.utils.tensorboard import SummaryWriter  # torch: who only reads metrics does without

        self.folder, self.path, self.axis = folder, folder / "metrics.jsonl", axis
        kept = [row for row in read(self.path, axis) if row[axis] <= done]  # type: ignore[operator]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        before = list(folder.glob("events.out.tfevents.*"))
        self.began = time.time() - ((kept[-1].get("seconds") if kept else None) or 0.0)
        self.events, self.overlaid = SummaryWriter(str(folder), purge_step=0), False
        for row in kept:
            self._show(row)
        self.events.flush()
        for events in before:
            events.unlink()

    def write(self, row: dict[str, Any]) -> None:
        """Put a row on TensorBoard, then append it: where there is a row, there are its events.

        Pictures of the same step, `samples/<name>_<step>.png`, go with it: write them first.
        """
        self._show(row)
        self.events.flush()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self.events.close()

    def _show(self, row: dict[str, Any]) -> None:
        """A row's numbers and pictures as events; the clock of an epoch's events is that of the training."""
        step, seconds = row[self.axis], row.get("seconds")
        clock = None if seconds is None else self.began + seconds
        if not self.overlaid:
            self.events.add_custom_scalars(overlays(row))
            self.overlaid = True
        for name, value in row.items():
            if name not in (self.axis, "seed") and value is not None and math.isfinite(value):
                self.events.add_scalar(tag(name), value, step, clock)
        for path in sorted((self.folder / "samples").glob(f"*_{step:04d}.png")):
            with contextlib.suppress(OSError), Image.open(path) as picture:  # a damaged one is left out
                pixels = np.asarray(picture.convert("RGB"))
                self.events.add_image(path.stem.rpartition("_")[0], pixels, step, clock, dataformats="HWC")


def tag(name: str) -> str:
    """Where TensorBoard shows a column: loss/train, loss/test, score/best, pace/seconds …"""
    part, _, metric = name.partition("_")
    if part in ("train", "test"):
        return f"{metric}/{part}"
    return next((f"{group}/{name}" for group, names in GROUPS.items() if name in names), name)


def overlays(row: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's custom scalars: what one picture shows together, such as a metric on train and test episodes."""
    tags = sorted({tag(name) for name in row})
    groups = {
        group: [t for t in tags if t.startswith(f"{group}/")] for group in sorted(t.partition("/")[0] for t in tags)
    }
    return {"together": {group: ["Multiline", ts] for group, ts in groups.items() if len(ts) > 1 and group != "pace"}}


def write_whole(folder: Path, axis: str, rows: list[dict[str, Any]]) -> None:
    """Metrics of a stage that is complete, in place of any others; when they are there already nothing is written."""
    if read(folder / "metrics.jsonl", axis) == rows:
        return
    metrics = Metrics(folder, axis, done=0)
    for row in rows:
        metrics.write(row)
    metrics.close()


def read(path: Path, axis: str | None = None) -> list[Row]:
    """The rows of a metrics.jsonl; none when it is missing.

    What is no number is left out, and so is a line that is no row: the last one cut short by a kill, or a damaged one.

    Args:
        path: the file.
        axis: only rows that have this column ("epoch", "generation", …).

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    rows = [row for row in map(_row, lines) if row]
    return rows if axis is None else [row for row in rows if row.get(axis) is not None]


def _row(line: str) -> Row:
    """A line's numbers by name; nothing where it is damaged."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if value is None or is_number(value)}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is one that can be shown: finite, and so is the difference of two of them."""
    return isinstance(value, (int, float)) and abs(value) < (2**63 if isinstance(value, int) else 1e300)
