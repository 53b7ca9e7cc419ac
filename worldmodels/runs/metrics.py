"""What a stage leaves to look at: metrics.jsonl, the same numbers as TensorBoard events, and pictures."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodels.runs.files import write_atomically


class Metrics:
    """Appends rows to `folder`/metrics.jsonl; a resumed stage first drops the rows past its checkpoint."""

    def __init__(self, folder: Path, axis: str, done: int):
        """
        Args:
            folder: the stage's folder.
            axis: the column that counts: "epoch", "generation", "rollout" or "track".
            done: the checkpoint's count; rows above it belong to work that is done again.
        """
        from torch.utils.tensorboard import SummaryWriter  # torch: who only reads metrics does without

        self.path, self.axis = folder / "metrics.jsonl", axis
        kept = [row for row in read(self.path) if row[axis] <= done]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        if not kept:
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        self.events = SummaryWriter(str(folder), purge_step=done + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Put a row's numbers on TensorBoard, then append it: where there is a row, there are its events."""
        for name, value in row.items():
            if name != self.axis and value is not None and math.isfinite(value):
                self.events.add_scalar(name, value, row[self.axis])
        self.events.flush()
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self.events.close()


def write_whole(folder: Path, axis: str, rows: list[dict[str, Any]]) -> None:
    """Metrics of a stage that is complete, in place of any others; when they are there already nothing is written."""
    if read(folder / "metrics.jsonl") == rows:
        return
    metrics = Metrics(folder, axis, done=0)
    for row in rows:
        metrics.write(row)
    metrics.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none when it is missing. A last line cut short by a kill is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def save_picture(path: Path, rows: list[np.ndarray]) -> None:
    """Write a PNG of frames, each row uint8 (columns, height, width, 3), one row under the other."""
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
