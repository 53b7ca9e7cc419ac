"""What a section of a run's page is made of, as plain values: facts, charts, films of frames."""

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from PIL import Image

from worldmodels.runs.metrics import Row
from worldmodels.show.charts import Line, line_chart, number
from worldmodels.show.found import FRAME, Found

Fact = tuple[str, str]  # (value, what it is)


@dataclass(frozen=True)
class Film:
    """A grid of frames."""

    source: str
    rows: Sequence[str]
    """names, from the top"""
    caption: str
    wake: str | None = None
    """CSS: where a dashed line marks a moment in the lowest row"""


@dataclass(frozen=True)
class Section:
    """A part of the page; the template shows what is there, in this order."""

    title: str
    intro: str = ""
    model: str = ""
    """v, m or c: its letter and colour"""
    missing: tuple[str, str, str] | None = None
    """in place of all that follows: what is missing, the command, what that does"""
    facts: Sequence[Fact] = ()
    charts: Sequence[Markup] = ()
    note: tuple[str, str] | None = None
    """in bold, then the rest: a card beside the charts"""
    listing: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
    """summary, head and rows of a table"""
    command: str = ""
    """repeats what is shown"""
    remark: str = ""
    films: Sequence[Film] = ()
    groups: dict[str, dict[str, Any]] | None = None
    """name → settings, folded away"""


def signed(score: float, digits: int = 0) -> str:
    """A rounded score with a true minus sign."""
    return f"{score:.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """48 s · 12 min · 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def facts(row: Row, *names: tuple[str, str]) -> list[Fact]:
    """(value, what it is) of the columns that a row has."""
    return [(number(value), what) for name, what in names if (value := row.get(name)) is not None]


def pace(row: Row, rate: str, unit: str) -> list[Fact]:
    """How long a stage took and how fast it went, where the metrics tell."""
    seconds, speed = row.get("seconds"), row.get(rate)
    took = [(duration(seconds), "training")] if seconds is not None else []
    return took + ([(f"{speed:,.0f}", unit)] if speed is not None else [])


def column(rows: Sequence[Row], axis: str, name: str) -> list[tuple[float, float]]:
    """The points (axis, value) of the rows that have the value."""
    return [(x, y) for row in rows if (x := row.get(axis)) is not None and (y := row.get(name)) is not None]


def curves(title: str, rows: Sequence[Row], name: str, css: str) -> str:
    """Train and test of one metric by epoch."""
    return line_chart(title, "epoch", [
        Line("train", column(rows, "epoch", f"train_{name}"), f"{css} faint"),
        Line("test", column(rows, "epoch", f"test_{name}"), css),
    ])  # fmt: skip


def selected(run: Found) -> tuple[Line, list[Fact]]:
    """C's scores in selection, as a curve and the highest of them."""
    points = column(run.ctrl, "generation", "selected")
    best = [(signed(max(score for _, score in points)), f"best on the selection {run.episode}s")] if points else []
    return Line("selection", points, "ink", dots_only=True), best


def charts(*drawn: str) -> list[Markup]:
    """The charts that have something to show."""
    return [Markup(chart) for chart in drawn if chart]  # ours: names in them are escaped


def films(*found: Film | None) -> list[Film]:
    return [film for film in found if film is not None]


def film(picture: Image.Image | None, rows: Sequence[str], caption: str) -> Film | None:
    """A grid of frames with its rows named."""
    return None if picture is None else Film(png_uri(spaced(picture)), rows, caption)


def spaced(picture: Image.Image, gap: int = 3) -> Image.Image:
    """A grid of frames with a transparent gap of `gap` pixels around each."""
    columns, rows = picture.width // FRAME, picture.height // FRAME
    grid = Image.new("RGBA", (columns * (FRAME + gap), rows * (FRAME + gap)))
    for column, row in itertools.product(range(columns), range(rows)):
        frame = picture.crop((FRAME * column, FRAME * row, FRAME * (column + 1), FRAME * (row + 1)))
        grid.paste(frame, ((FRAME + gap) * column + gap // 2, (FRAME + gap) * row + gap // 2))
    return grid


def png_uri(image: Image.Image) -> str:
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG", optimize=True)
        return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()
