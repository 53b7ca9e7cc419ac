"""Pictures for people: frames enlarged, labelled and laid side by side.

Shapes: every picture is uint8 (height, width, 3).
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodels.runs.files import replacing

INK, PAPER = (226, 232, 240), (15, 23, 42)  # text and ground: readable on a light page and on a dark one
PANEL = 192  # pixels: a 64×64 frame enlarged three times
GAP = 12
LABEL = 26  # pixels: height of a line of text
DREAM_COLUMNS, DREAM_STRIDE, DREAM_WARM_UP = 10, 4, 9  # of M's dream: frames shown, steps between, steps watched first
WIDTH = 3 * PANEL + 2 * GAP  # 600: three panels are as wide as Gymnasium's own view of CarRacing


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """`picture` as large as fits into (height, width, 3), centred; small frames keep their pixels visible."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    canvas = Image.new("RGB", (width, height), PAPER)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    enlarged = Image.fromarray(picture).resize(size, how)
    canvas.paste(enlarged, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


@lru_cache(16)
def labelled(text: str, width: int, align: str = "centre") -> np.ndarray:
    """One line of text, (LABEL, width, 3)."""
    canvas = Image.new("RGB", (width, LABEL), PAPER)
    at, anchor = ((width // 2, LABEL // 2), "mm") if align == "centre" else ((2, LABEL // 2), "lm")
    ImageDraw.Draw(canvas).text(at, text, fill=INK, font=_font(15), anchor=anchor)
    return np.asarray(canvas)


def panels(frames: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """Frames enlarged side by side, each under its label: (LABEL + PANEL, WIDTH, 3) for three."""
    columns: list[np.ndarray] = []
    between = np.full((LABEL + PANEL, GAP, 3), PAPER, dtype=np.uint8)
    for frame, label in zip(frames, labels, strict=True):
        columns += [np.concatenate([labelled(label, PANEL), fit(frame, PANEL, PANEL)]), between]
    return np.concatenate(columns[:-1], axis=1)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a PNG, atomically."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


def write_grid(path: Path, rows: Sequence[np.ndarray]) -> None:
    """Write a PNG of frames, each row uint8 (columns, height, width, 3), one row under the other."""
    write_png(path, np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
