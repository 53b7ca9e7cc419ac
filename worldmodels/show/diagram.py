"""The picture of the pipeline, frames → V → z → M → h → C → action, as SVG: lying for a desk, standing for a phone.

The drawing has a main axis, along which a frame becomes an action, and a cross axis. `vertical` swaps the two.
"""

from dataclasses import dataclass
from html import escape

HEAD = (
    '<defs><marker id="{id}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>'
)
SHADES = (0.95, 0.35, 0.7, 0.2, 0.85, 0.5, 0.3, 0.75)  # of a vector's cells


@dataclass(frozen=True)
class Sizes:
    """What the models of a run look like."""

    z: int = 32
    h: int = 256
    action: int = 3
    car: bool = True


class _Drawing:
    """Shapes placed by (main, cross) coordinates."""

    def __init__(self, vertical: bool, main: int, cross: int):
        self.vertical = vertical
        self.marker = "tip-tall" if vertical else "tip-wide"
        width, height = self.at(main, cross)
        css = "tall" if vertical else "wide"
        self.parts = [
            f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img">'
            "<title>A frame goes through V, M and C to become an action</title>",
            HEAD.format(id=self.marker),
        ]

    def at(self, main: float, cross: float) -> tuple[float, float]:
        return (cross, main) if self.vertical else (main, cross)

    def rectangle(self, main: float, cross: float, long: float, wide: float, more: str) -> None:
        """A rectangle around its centre, `long` along the main axis."""
        x, y = self.at(main - long / 2, cross - wide / 2)
        width, height = self.at(long, wide)
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {more}/>')

    def text(self, main: float, cross: float, words: str, css: str, down: float = 0, more: str = "") -> None:
        x, y = self.at(main, cross)
        self.parts.append(f'<text class="{css}" x="{x}" y="{y + down}" {more}>{escape(words)}</text>')

    def arrow(self, *stops: tuple[float, float]) -> None:
        """A line through (main, cross) points, with rounded corners and a head at its end."""
        points = [self.at(*stop) for stop in stops]
        path = f"M{points[0][0]} {points[0][1]}"
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            (x0, y0), (x1, y1) = _towards(corner, before), _towards(corner, after)
            path += f"L{x0} {y0}Q{corner[0]} {corner[1]} {x1} {y1}"
        path += f"L{points[-1][0]} {points[-1][1]}"
        self.parts.append(f'<path class="arrow" d="{path}" marker-end="url(#{self.marker})"/>')

    def model(self, main: float, cross: float, css: str, name: str, what: str, does: str) -> None:
        """A box: the model's letter, what it is, what it does."""
        long, wide = (78, 150) if self.vertical else (128, 104)
        self.parts.append(f'<g class="{css}">')
        self.rectangle(main, cross, long, wide, 'class="box" rx="16"')
        lift = 6 if self.vertical else 0
        self.text(main, cross, name, "name", -6 - lift / 2)
        self.text(main, cross, what, "what", 17 - lift / 2)
        self.text(main, cross, does, "what", 35 - lift)
        self.parts.append("</g>")

    def vector(self, main: float, cross: float, css: str, cells: int, name: str, caption: str) -> None:
        """A row of shaded cells, named."""
        size, pitch = 14, 17
        self.parts.append(f'<g class="cells {css}">')
        first = cross - pitch * (cells - 1) / 2
        for i in range(cells):
            more = f'rx="3" opacity="{SHADES[i % len(SHADES)]}"'
            self.rectangle(main, first + pitch * i, 20 if self.vertical else size + 8, size, more)
        self.parts.append("</g>")
        if self.vertical:
            beside = pitch * cells / 2 + 14
            self.text(main, cross - beside, name, "strong", 5, 'style="text-anchor:end"')
            self.text(main, cross + beside, caption, "cap", 5, 'style="text-anchor:start"')
        else:
            self.text(main, cross + 88, name, "strong")
            self.text(main, cross + 88, caption, "cap", 18)

    def svg(self) -> str:
        return "".join([*self.parts, "</svg>"])


def _towards(corner: tuple[float, float], other: tuple[float, float], radius: float = 14) -> tuple[float, float]:
    """The point `radius` away from a corner on the way to `other` (along an axis)."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = max(abs(dx), abs(dy))
    share = min(radius, length / 2) / length
    return corner[0] + dx * share, corner[1] + dy * share


def pipeline(sizes: Sizes, frame: str | None, vertical: bool) -> str:
    """The picture.

    Args:
        sizes: numbers to write under z, h and the action.
        frame: a real 64×64 frame as a data URI; None draws an empty one.
        vertical: standing.
    """
    drawing = _Drawing(vertical, 760 if vertical else 1080, 340 if vertical else 312)
    k = 150 if vertical else 130  # cross position of the flow
    stops = (60, 178, 272, 366, 462, 556, 668) if vertical else (62, 240, 392, 544, 696, 848, 1010)
    seen, v, z, m, h, c, action = stops
    box, thin = (39, 14) if vertical else (64, 14)

    _frame(drawing, seen, k, frame)
    drawing.model(v, k, "v", "V", "VAE", "sees")
    drawing.vector(z, k, "v", 7, "z", f"{sizes.z} numbers")
    drawing.model(m, k, "m", "M", "MDN-RNN", "remembers")
    drawing.vector(h, k, "m", 7, "h", f"{sizes.h} numbers")
    drawing.model(c, k, "c", "C", "linear", "decides")
    caption = "steer, gas, brake" if sizes.car else f"{sizes.action} number{'s' if sizes.action > 1 else ''}"
    drawing.vector(action, k, "c", min(sizes.action, 7), "action", caption)

    edges = [(seen, 56), (v, box), (z, thin), (m, box), (h, thin), (c, box), (action, thin)]
    for (start, half), (end, other) in zip(edges, edges[1:], strict=False):
        drawing.arrow((start + half + 4, k), (end - other - 5, k))
    _loops(drawing, k, stops, vertical)
    return drawing.svg()


def _frame(drawing: _Drawing, main: float, cross: float, frame: str | None) -> None:
    """The frame that V sees."""
    side = 104
    x, y = drawing.at(main, cross)
    corner = f'x="{x - side / 2}" y="{y - side / 2}" width="{side}" height="{side}"'
    if frame is not None:
        drawing.parts.append(f'<image {corner} href="{frame}"/>')
    drawing.parts.append(f'<rect class="frame" {corner} rx="4"/>')
    if drawing.vertical:
        drawing.text(main, cross + 62, "a frame, 64×64", "cap", 5, 'style="text-anchor:start"')
    else:
        drawing.text(main, cross + 88, "a frame", "strong")
        drawing.text(main, cross + 88, "64×64", "cap", 18)


def _loops(drawing: _Drawing, k: float, stops: tuple[int, ...], vertical: bool) -> None:
    """The ways round: z to C, the action back to M, and the world's answer."""
    seen, _, z, m, _, c, action = stops
    if vertical:
        drawing.arrow((z + 20, k + 51), (z + 20, 328), (c, 328), (c, k + 78))
        drawing.arrow((action + 14, k), (action + 40, k), (action + 40, 18), (m, 18), (m, k - 78))
        drawing.text(action + 64, 170, "the action goes back to M, and", "cap")
        drawing.text(action + 82, 170, "the world answers with a new frame", "cap")
        return
    drawing.arrow((z, k - 68), (z, 22), (c, 22), (c, k - 58))
    drawing.text((z + c) / 2, 16, "C sees z as well", "cap")
    drawing.arrow((action - 10, k + 112), (action - 10, 272), (m, 272), (m, k + 58))
    drawing.text((m + action) / 2, 266, "the action goes back to M", "cap")
    drawing.arrow((action + 10, k + 112), (action + 10, 304), (seen, 304), (seen, k + 114))
    drawing.text((seen + m) / 2, 298, "the world answers with a new frame", "cap")
