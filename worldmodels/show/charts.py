"""Small SVG charts for the report: drawn as text, coloured by the page's style sheet, sharp at every size.

Colours are CSS classes (`v`, `m`, `c`: the paper's three models), so that a chart follows the page into the dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 480, 270  # user units; a card is about as many pixels wide, so text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40  # margins
MOST_POINTS = 400  # of a line: more would not be seen
MOST_MARKERS = 40  # longer lines get no dots


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]  # (x, y), x rising
    css: str  # classes: a colour (v, m, c, ink), and `faint`, `dashed`, or `dots` (of what is measured now and then)


@dataclass(frozen=True)
class Band:
    """A shaded range around a curve."""

    points: Sequence[tuple[float, float, float]]  # (x, low, high)
    css: str


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) between low and high, as near to `about` as can be."""
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    ticks = [_multiples(power * m, low, high) for m in (1, 2, 2.5, 5, 10)]
    return min(ticks, key=lambda found: abs(len(found) - about))


def _multiples(step: float, low: float, high: float) -> list[float]:
    """The multiples of `step` from low to high."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def number(value: float) -> str:
    """A number as short as it stays readable, with a true minus sign: 12,300 · 31.25 · 0.0125."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


class _Plot:
    """Axes: from data to the picture's units."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str):
        self.x0, self.x1 = _spread(min(xs), max(xs), margin=0.0)
        self.y0, self.y1 = _spread(min(ys), max(ys), margin=0.06)
        self.x_label = x_label

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM), 1)

    def figure(self, title: str, content: Sequence[str], legend: str = "", x_ticks: Sequence[float] = ()) -> str:
        """The title and the legend above the SVG element: grid, ticks, `content`."""
        parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
        for tick in nice_ticks(self.y0, self.y1):
            parts += [_across("grid", self.y(tick)), _text(LEFT - 8, self.y(tick) + 4, "end", number(tick))]
        parts += [_text(self.x(tick), HEIGHT - BOTTOM + 18, "middle", number(tick)) for tick in x_ticks]
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "middle", self.x_label))
        drawing = "".join([*parts, *content, "</svg>"])
        return f"<figure><figcaption><b>{escape(title)}</b>{legend}</figcaption>{drawing}</figure>"


def _across(css: str, y: float) -> str:
    """A horizontal line."""
    return f'<line class="{css}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'


def _text(x: float, y: float, anchor: str, text: str, css: str = "tick") -> str:
    return f'<text class="{css}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _spread(low: float, high: float, margin: float) -> tuple[float, float]:
    """A range that is not empty, widened by `margin` of its size."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        return low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def thinned(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """At most MOST_POINTS of them, evenly, the last one included."""
    stride = math.ceil(len(points) / MOST_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def line_chart(title: str, x_label: str, lines: Sequence[Line], band: Band | None = None) -> str:
    """Curves over a common x axis, with their legend; points that are not finite are left out (a band's all are)."""
    lines = [replace(line, points=[point for point in line.points if math.isfinite(point[1])]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    edges = thinned(band.points) if band and band.points else []
    ys = [y for line in lines for _, y in line.points] + [y for _, low, high in edges for y in (low, high)]
    plot = _Plot([x for line in lines for x, _ in line.points], ys, x_label)
    content = []
    if band and edges:
        outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in reversed(edges)]
        content.append(f'<polygon class="band {band.css}" points="{_path(plot, outline)}"/>')
    for line in lines:
        kept = thinned(line.points)
        content.append(f'<polyline class="line {line.css}" points="{_path(plot, kept)}"/>')
        if "dots" in line.css or len(kept) <= MOST_MARKERS:
            content += [_dot(plot, line, x, y) for x, y in kept]
    legend = "".join(  # names, with the last value of each curve
        f'<span class="key {line.css}">{escape(line.name)} <i>{number(line.points[-1][1])}</i></span>' for line in lines
    )
    whole = [tick for tick in nice_ticks(plot.x0, plot.x1, 6) if tick == int(tick)]
    return plot.figure(title, content, legend, whole)


def _path(plot: _Plot, points: Sequence[tuple[float, ...]]) -> str:
    return " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in points)


def _dot(plot: _Plot, line: Line, x: float, y: float) -> str:
    tip = escape(f"{line.name}, {plot.x_label} {number(x)}: {number(y)}")
    return f'<circle class="dot {line.css}" cx="{plot.x(x)}" cy="{plot.y(y)}" r="3"><title>{tip}</title></circle>'


def bar_chart(
    title: str, x_label: str, bars: Sequence[tuple[str, float]], marks: Sequence[tuple[str, float]], css: str
) -> str:
    """One bar per value, in the order given, and horizontal lines at the `marks`."""
    plot = _Plot([0, max(len(bars), 6)], [0.0, *(value for _, value in [*bars, *marks])], x_label)
    gap = 0.18 if len(bars) <= 60 else 0.0
    content = []
    for i, (name, value) in enumerate(bars):
        left, right = plot.x(i + gap / 2), plot.x(i + 1 - gap / 2)
        top, bottom = sorted((plot.y(value), plot.y(0)))
        content.append(
            f'<rect class="bar {css}" x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}">'
            f"<title>{escape(name)}: {value:.1f}</title></rect>"
        )
    for name, value in marks:
        y = plot.y(value)
        content += [_across("mark", y), _text(LEFT + 4, y - 5, "start", name, "tick strong")]
    return plot.figure(title, content)
