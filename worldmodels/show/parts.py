"""What a section of a run's page is made of: facts, charts, films of frames."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from worldmodels.envs import FRAME_SIZE
from worldmodels.runs.metrics import Row, is_number
from worldmodels.show.charts import Band, Line, bar_chart, line_chart, number
from worldmodels.show.found import Found
from worldmodels.show.pictures import DREAM_STRIDE, DREAM_WARM_UP
from worldmodels.training.quality import trusted

Fact = tuple[str, str]  # (value, what it is)
Rows = list[tuple[str, ...]]  # of a table


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


def best_selected(run: Found) -> list[Fact]:
    """The highest of C's scores in selection."""
    scores = [score for _, score in points(run.ctrl, "generation", "selected")]
    return [(signed(max(scores)), f"best on the selection {run.episode}s")] if scores else []


def dream_steps(run: Found) -> list[Fact]:
    """How long an evolution has dreamed."""
    return [fact for row in run.ctrl for fact in facts(row, ("dream_steps", "steps in the dream"))][-1:]


# --------------------------------------------------------------------------------------------------- charts


def points(rows: Sequence[Row], axis: str, name: str) -> list[tuple[float, float]]:
    """(axis, value) of the rows that have the value."""
    return [(x, y) for row in rows if (x := row.get(axis)) is not None and (y := row.get(name)) is not None]


def curves(
    title: str, x_label: str, rows: Sequence[Row], *columns: tuple[str, str, str], around: tuple[str, str] | None = None
) -> Markup:
    """Columns (name, column, CSS) of the rows, by epoch or generation, and a band `around` (column, its spread)."""
    axis = "epoch" if x_label == "epoch" else "generation"
    lines = [Line(name, points(rows, axis, column), css) for name, column, css in columns]
    band = None
    if around:
        middle, spread = (points(rows, axis, column) for column in around)
        wide = dict(spread)
        band = Band([(x, y - wide[x], y + wide[x]) for x, y in middle if x in wide], "c")
    return Markup(line_chart(title, x_label, lines, band))  # ours: names in it are escaped


def foresight(run: Found) -> Markup | None:
    """How far ahead M foresees rewards, on its own z."""
    r2 = measured(run, "open_loop").get("r2")
    if not isinstance(r2, list) or not all(map(is_number, r2)):
        return None
    ahead = [(20.0 * number, value) for number, value in enumerate(r2, 1)]
    return Markup(line_chart("Share of 20 steps' reward that M foresees", "steps ahead", [Line("R²", ahead, "m")]))


def scores(evaluation: dict[str, Any], one: str, count: str) -> Markup:
    """A bar for each of the evaluation's `count`, episodes called `one`, the lowest first."""
    ranked = sorted(zip(evaluation["scores"], evaluation["seeds"], strict=True))
    marks = [(f"mean {evaluation['mean']:.0f}", evaluation["mean"])] if len(ranked) > 1 else []
    bars = [(f"{one} {seed}", score) for score, seed in ranked]
    return Markup(bar_chart(f"Score of every {one}, lowest first", count, bars, marks, "c"))


# --------------------------------------------------------------------------------------------------- tables


def drives(evaluation: dict[str, Any]) -> Rows:
    """Seed, score and steps of every evaluated episode."""
    columns = (evaluation[name] for name in ("seeds", "scores", "lengths"))
    return [(str(seed), signed(score, 1), str(length)) for seed, score, length in zip(*columns, strict=True)]


def measured(run: Found, name: str) -> dict[str, Any]:
    """A part of quality.json; empty where it was not measured."""
    found = run.quality.get(name)
    return found if isinstance(found, dict) else {}


def ranking(run: Found) -> tuple[str, Rows] | None:
    """What fixed policies earn in the world and in M's dream, and how well both agree."""
    found = measured(run, "ranking")
    policies = found.get("policies")
    if not isinstance(policies, dict) or not all(is_number(found.get(name)) for name in ("rank", "slope")):
        return None
    pairs = [(name, pair) for name, pair in policies.items() if isinstance(pair, list) and len(pair) == 2]
    wrong = "" if trusted(found) else ": not the world's order, C may learn the wrong thing"
    agree = f"rank correlation {found['rank']:.2f}, slope {found['slope']:.2f}{wrong}"
    return agree, [(name, *map(signed, pair)) for name, pair in pairs if all(map(is_number, pair))]


# --------------------------------------------------------------------------------------------------- films


def left_alone(picture: Image.Image) -> str:
    """CSS of the line in M's dream, the lowest of three rows, where M no longer watches; none where it always does."""
    watched, columns = math.ceil(DREAM_WARM_UP / DREAM_STRIDE), picture.width // FRAME_SIZE
    return f"left:calc({watched / columns:.2%} - 2px);height:{1 / 3:.2%}" if watched < columns else ""


def film(picture: Image.Image, gap: int = 3) -> str:
    """A grid of frames as a data URI, with a transparent gap of `gap` pixels around each."""
    columns, rows = picture.width // FRAME_SIZE, picture.height // FRAME_SIZE
    grid = Image.new("RGBA", (columns * (FRAME_SIZE + gap), rows * (FRAME_SIZE + gap)))
    for column, row in itertools.product(range(columns), range(rows)):
        x, y = FRAME_SIZE * column, FRAME_SIZE * row
        frame = picture.crop((x, y, x + FRAME_SIZE, y + FRAME_SIZE))
        grid.paste(frame, (x + gap * column + gap // 2, y + gap * row + gap // 2))
    return png_uri(grid)


def png_uri(image: Image.Image) -> str:
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG", optimize=True)
        return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()
