"""Grass, road and borders as changes of coverage.

A plane of coverage says how much of each pixel some colour covers. Here every polygon leaves only its edges: an edge
adds, in each column of pixels that it crosses, the area below it, written as the difference from the row above. Summed
down the rows this is the exact coverage, positive for a polygon that is run through clockwise as seen in the frame.
Abutting polygons simply add up, so no seam shows, and an edge shared by two of one colour need not be drawn at all.

Legend: `change` float32 (86 * P * 96,): rows, planes, columns in the order of `slot`; x to the right, y down, in pixels
of the 96x96 frame; the window is Gymnasium's, 1000x800, its y upwards; view as in camera.py; near: bool (M,) tiles that
may be in view; edges: float64 (MAX_EDGES, 7): x, y of the left end, x, y of the right end, weight, plane, plane to take
it from; quad: float64 (4,2) scratch, corners in the frame.
"""

import math

from numba import njit

from worldmodels.envs.carracing.camera import CAR_X, CAR_Y
from worldmodels.envs.carracing.hud import BAR_ROW
from worldmodels.envs.carracing.state import GRASS_DIM, MAX_TILES, PLAYFIELD, STATE_H, STATE_W, WINDOW_H, WINDOW_W

SCALE_X = STATE_W / WINDOW_W  # frame pixels a window pixel
SCALE_Y = STATE_H / WINDOW_H

# Planes, as offsets in a row of `change`
GRASS, ROAD_0, ROAD_1, ROAD_2, BORDERS, BORDER_RED, FIELD = range(0, 7 * STATE_W, STATE_W)
"""Light squares; tiles by i % 3, a touched one as 0; borders, the red of them; the playfield, black outside."""
PLANES = 7
ROW = PLANES * STATE_W
OPEN = BORDERS  # a row without borders needs the planes before them
CHANGE_SIZE = (BAR_ROW + 2) * ROW  # the last rows take what falls below the picture
NONE = -1  # no plane

MAX_EDGES = 8 * MAX_TILES + 2048
"""Room for four sides of every tile, border and red border, and of 400 squares of grass."""

# The visible part of the window: half its width, half the height that the bar leaves, and how far ahead of the hull its
# middle lies, in window pixels
VIEW_SIDE, VIEW_HEIGHT = WINDOW_W / 2, (WINDOW_H - 100) / 2
VIEW_AHEAD = 100 + VIEW_HEIGHT - CAR_Y
TILE_REACH = 14.0  # world units; a tile and its border reach 13 from the end of the tile
PITCH = 2 * GRASS_DIM  # world units from one light square to the next
SQUARES = 10  # light squares on each side of the origin, along each axis
SQUARE_REACH = 0.75 * GRASS_DIM + 0.1  # world units; half a square's diagonal is 0.71 of its side

DILATION = 0.55
"""Window pixels that gfxdraw's outline and inclusive fill add on every side (fitted to Gymnasium's frames)."""


@njit(cache=True, error_model="numpy")
def keep_edge(edges, count, plane, minus, x0, y0, x1, y1, weight) -> int:
    """Note an edge, from left to right, unless it cannot matter; returns how many are noted now."""
    if x0 > x1:
        x0, y0, x1, y1, weight = x1, y1, x0, y0, -weight
    if x1 > 0.0 and x0 < STATE_W and x0 < x1 and (y0 < BAR_ROW or y1 < BAR_ROW):
        edge = edges[count]
        edge[0], edge[1], edge[2], edge[3], edge[4], edge[5], edge[6] = x0, y0, x1, y1, weight, plane, minus
        return count + 1
    return count


@njit(cache=True, error_model="numpy")
def add_edges(change, slot, edges, count) -> None:
    """Add weight * the area below every noted edge to its plane and take it from its plane `minus`, if any."""
    for index in range(count):
        edge = edges[index]
        x0, y0, x1, y1, weight, plane, minus = edge[0], edge[1], edge[2], edge[3], edge[4], int(edge[5]), int(edge[6])
        slope = (y1 - y0) / (x1 - x0)
        if x0 < 0.0:
            x0, y0 = 0.0, y0 - slope * x0
        if x1 > STATE_W:
            x1, y1 = float(STATE_W), y1 - slope * (x1 - STATE_W)
        if y0 >= BAR_ROW and y1 >= BAR_ROW:
            continue
        if y0 < 0.0 or y1 < 0.0:
            flat_from, flat_to = x0, x1
            if y1 > 0.0:
                x0, y0 = x0 - y0 / slope, 0.0
                flat_to = x0
            elif y0 > 0.0:
                x1, y1 = x0 - y0 / slope, 0.0
                flat_from = x1
            add_flat(change, slot, plane, minus, flat_from, flat_to, weight)
            if flat_from < flat_to and y0 <= 0.0 and y1 <= 0.0:
                continue
        if y0 > BAR_ROW:
            x0, y0 = x0 + (BAR_ROW - y0) / slope, float(BAR_ROW)
        elif y1 > BAR_ROW:
            x1, y1 = x1 + (BAR_ROW - y1) / slope, float(BAR_ROW)
        add_pieces(change, slot, plane, minus, x0, y0, x1, y1, slope, weight)


@njit(cache=True, error_model="numpy")
def add_flat(change, slot, plane, minus, x0, x1, weight) -> None:
    """An edge above the frame, which covers its columns from the first row on."""
    column = int(x0)
    while column < x1:
        width = weight * (min(x1, column + 1.0) - max(x0, float(column)))
        place = plane + slot[column]
        change[place] += width
        if minus >= 0:
            change[place + minus - plane] -= width
        column += 1


@njit(cache=True, error_model="numpy")
def add_pieces(change, slot, plane, minus, x0, y0, x1, y1, slope, weight) -> None:
    """An edge inside the frame, column by column from left to right."""
    column = int(x0)
    here, y = x0, y0
    while here < x1:
        there = column + 1.0
        y_there = y0 + slope * (there - x0)
        if there >= x1:
            there, y_there = x1, y1
        place = plane + slot[column]
        width = weight * (there - here)
        add_piece(change, place, width, y, y_there)
        if minus >= 0:
            add_piece(change, place + minus - plane, -width, y, y_there)
        here, y = there, y_there
        column += 1


@njit(cache=True, error_model="numpy")
def add_piece(change, place, weight, ya, yb) -> None:
    """A piece of an edge inside one column, from the height ya to yb; weight: its signed width."""
    low, high = min(ya, yb), max(ya, yb)
    row, last = int(low), int(high)
    place += row * ROW
    if row == last:
        part = weight * (0.5 * (low + high) - row)
        change[place] += weight - part
        change[place + ROW] += part
        return
    rate = weight / (high - low)
    reach = row + 1.0 - low
    above = 0.5 * rate * reach * reach
    change[place] += above
    carry = rate * reach - above
    half = 0.5 * rate
    for _ in range(last - row - 1):
        place += ROW
        change[place] += carry + half
        carry = half
    place += ROW
    reach = high - last
    below = 0.5 * rate * reach * reach
    change[place] += carry + rate * reach - below
    change[place + ROW] += below


@njit(cache=True, error_model="numpy")
def to_frame(u, v, view) -> tuple[float, float]:
    """A vertex, relative to the hull, in the frame: the centre of the window pixel that pygame truncates it to."""
    _, _, cos, sin, zoom = view
    x, y = int(CAR_X + zoom * (cos * u - sin * v)), int(CAR_Y + zoom * (sin * u + cos * v))
    return (x + 0.5) * SCALE_X, (WINDOW_H - 0.5 - y) * SCALE_Y


@njit(cache=True, error_model="numpy")
def draw_square(edges, count, plane, left, lower, side, view, quad) -> int:
    """A square along the world's axes, its lower left corner given relative to the hull."""
    cos, sin = view[2], view[3]
    # dilation along the world's axes, in the frame
    wide_x, wide_y = DILATION * SCALE_X * cos, -DILATION * SCALE_Y * sin
    high_x, high_y = -DILATION * SCALE_X * sin, -DILATION * SCALE_Y * cos
    for corner in range(4):  # clockwise from the lower left one
        right, upper = corner // 2, (corner + 1) // 2 % 2
        u, v = to_frame(left + right * side, lower + upper * side, view)
        across, along = 2 * right - 1, 2 * upper - 1
        quad[corner, 0], quad[corner, 1] = u + across * wide_x + along * high_x, v + across * wide_y + along * high_y
    return keep_sides(edges, count, plane, quad, 1.0)


@njit(cache=True, error_model="numpy")
def playfield_ends(view) -> bool:
    """Whether the end of the playfield may be in view."""
    reach = 1.0 + math.hypot(CAR_X, WINDOW_H - CAR_Y) / view[4]  # from the hull to the farthest visible corner
    return max(abs(view[0]), abs(view[1])) + reach > PLAYFIELD


@njit(cache=True, error_model="numpy")
def squares_near(view) -> tuple[int, int, int, int]:
    """Light squares that may be in view: first and last column, first and last row (inclusive)."""
    x, y, cos, sin, zoom = view
    ahead = VIEW_AHEAD / zoom
    radius = math.hypot(VIEW_SIDE, VIEW_HEIGHT) / zoom + GRASS_DIM
    middle_x, middle_y = x + sin * ahead, y + cos * ahead
    first_x, last_x = math.floor((middle_x - radius) / PITCH), math.floor((middle_x + radius) / PITCH)
    first_y, last_y = math.floor((middle_y - radius) / PITCH), math.floor((middle_y + radius) / PITCH)
    return max(-SQUARES, first_x), min(SQUARES - 1, last_x), max(-SQUARES, first_y), min(SQUARES - 1, last_y)


@njit(cache=True, error_model="numpy")
def square_in_view(left, lower, view) -> bool:
    """Whether the square with this lower left corner may be in view."""
    x, y, cos, sin, zoom = view
    u, v = left + 0.5 * GRASS_DIM - x, lower + 0.5 * GRASS_DIM - y
    across, along = abs(cos * u - sin * v), abs(sin * u + cos * v - VIEW_AHEAD / zoom)
    return across < VIEW_SIDE / zoom + SQUARE_REACH and along < VIEW_HEIGHT / zoom + SQUARE_REACH


@njit(cache=True, error_model="numpy")
def draw_grass(edges, count, view, quad) -> tuple[int, bool]:
    """The light squares in view, and the playfield if its end may be in view: returns the edges, and whether it was."""
    x, y = view[0], view[1]
    field = playfield_ends(view)
    if field:
        count = draw_square(edges, count, FIELD, -PLAYFIELD - x, -PLAYFIELD - y, 2 * PLAYFIELD, view, quad)
    first_x, last_x, first_y, last_y = squares_near(view)
    for index_x in range(first_x, last_x + 1):
        for index_y in range(first_y, last_y + 1):
            if square_in_view(PITCH * index_x, PITCH * index_y, view):
                left, lower = PITCH * index_x - x, PITCH * index_y - y
                count = draw_square(edges, count, GRASS, left, lower, GRASS_DIM, view, quad)
    return count, field


@njit(cache=True, error_model="numpy")
def find_near(centre, count, view, near) -> None:
    """near[i]: tile i, or a border beside it, may touch the visible part of the window."""
    x, y, cos, sin, zoom = view
    side, height, ahead = VIEW_SIDE / zoom + TILE_REACH, VIEW_HEIGHT / zoom + TILE_REACH, VIEW_AHEAD / zoom
    for tile in range(count):
        u, v = centre[tile, 2] - x, centre[tile, 3] - y
        near[tile] = (abs(cos * u - sin * v) < side) & (abs(sin * u + cos * v - ahead) < height)


@njit(cache=True, error_model="numpy")
def cross_section(road, tile, view) -> tuple[float, float, float, float]:
    """Both edges of the road at the end of a tile, pushed outwards: left x, y, right x, y in the frame."""
    x, y, cos, sin, _ = view
    left_x, left_y = to_frame(road[tile, 0, 0] - x, road[tile, 0, 1] - y, view)
    right_x, right_y = to_frame(road[tile, 1, 0] - x, road[tile, 1, 1] - y, view)
    u, v = road[tile, 1, 0] - road[tile, 0, 0], road[tile, 1, 1] - road[tile, 0, 1]
    length = math.sqrt(u * u + v * v)
    out_x = DILATION * SCALE_X * (cos * u - sin * v) / length
    out_y = -DILATION * SCALE_Y * (sin * u + cos * v) / length
    return left_x - out_x, left_y - out_y, right_x + out_x, right_y + out_y


@njit(cache=True, error_model="numpy")
def draw_road(edges, count, road, plain, tiles, view, near) -> int:
    """The road as one ribbon: its two sides, its ends, and the lines where the shade of the tiles changes."""
    here = (0.0, 0.0, 0.0, 0.0)
    previous, plane = -2, NONE
    for tile in range(tiles):
        if not near[tile]:
            continue
        plane_before = plane
        plane = ROAD_0 if plain[tile] else ROAD_0 + tile % 3 * STATE_W
        if previous != tile - 1:
            if previous >= 0:
                count = keep_edge(edges, count, plane_before, NONE, here[0], here[1], here[2], here[3], 1.0)
            here = cross_section(road, tile - 1 if tile else tiles - 1, view)
            count = keep_edge(edges, count, plane, NONE, here[0], here[1], here[2], here[3], -1.0)
        elif plane != plane_before:
            count = keep_edge(edges, count, plane_before, plane, here[0], here[1], here[2], here[3], 1.0)
        before = here
        here = cross_section(road, tile, view)
        count = keep_edge(edges, count, plane, NONE, before[0], before[1], here[0], here[1], 1.0)
        count = keep_edge(edges, count, plane, NONE, here[2], here[3], before[2], before[3], 1.0)
        previous = tile
    if previous >= 0:
        count = keep_edge(edges, count, plane, NONE, here[0], here[1], here[2], here[3], 1.0)
    return count


@njit(cache=True, error_model="numpy")
def draw_borders(edges, count, border, border_tile, borders, view, near, quad) -> tuple[int, int, int]:
    """Red and white quads beside the road; returns the edges and the rows [first, last) of the frame they may reach.

    Neighbours in a row share an edge, which then needs no drawing.
    """
    joined_before = False
    top, bottom = float(BAR_ROW), 0.0
    for index in range(borders):
        tile = border_tile[index]
        if not near[tile]:
            joined_before = False
            continue
        joined = (
            index + 1 < borders
            and near[border_tile[index + 1]]
            and border[index, 0, 0] == border[index + 1, 3, 0]
            and border[index, 0, 1] == border[index + 1, 3, 1]
        )
        turn = widen_border(border[index], view, quad, 0.0 if joined else 1.0, 0.0 if joined_before else -1.0)
        for corner in range(4):
            if not (corner == 0 and joined or corner == 2 and joined_before):
                count = keep_side(edges, count, BORDERS, quad, corner, turn)
            top, bottom = min(top, quad[corner, 1]), max(bottom, quad[corner, 1])
        if tile % 2:
            # the one before is painted over, the one after paints over this one
            widen_border(border[index], view, quad, -1.0 if joined else 1.0, -1.0)
            count = keep_sides(edges, count, BORDER_RED, quad, turn)
        joined_before = joined
    return count, max(int(top) - 1, 0), min(max(int(bottom) + 2, 1), BAR_ROW)


@njit(cache=True, error_model="numpy")
def keep_side(edges, count, plane, quad, corner, weight) -> int:
    """keep_edge from one corner of a quad to the next."""
    after = (corner + 1) % 4
    x0, y0, x1, y1 = quad[corner, 0], quad[corner, 1], quad[after, 0], quad[after, 1]
    return keep_edge(edges, count, plane, NONE, x0, y0, x1, y1, weight)


@njit(cache=True, error_model="numpy")
def keep_sides(edges, count, plane, quad, weight) -> int:
    """All four."""
    for corner in range(4):
        count = keep_side(edges, count, plane, quad, corner, weight)
    return count


@njit(cache=True, error_model="numpy")
def widen_border(border, view, quad, front, back) -> float:
    """A border into the frame, dilated across the road, and along it by `front` and `back` dilations.

    border: float64 (4,2) in the world, inner front, outer front, outer back, inner back. Returns 1 if these run
    clockwise in the frame, else -1.
    """
    x, y = view[0], view[1]
    ax, ay = to_frame(border[0, 0] - x, border[0, 1] - y, view)
    bx, by = to_frame(border[1, 0] - x, border[1, 1] - y, view)
    cx, cy = to_frame(border[2, 0] - x, border[2, 1] - y, view)
    dx, dy = to_frame(border[3, 0] - x, border[3, 1] - y, view)
    front_x, front_y = dilation(bx - ax, by - ay)
    back_x, back_y = dilation(cx - dx, cy - dy)
    along_x, along_y = dilation(bx - cx, by - cy)
    quad[0, 0], quad[0, 1] = ax - front_x + front * along_x, ay - front_y + front * along_y
    quad[1, 0], quad[1, 1] = bx + front_x + front * along_x, by + front_y + front * along_y
    quad[2, 0], quad[2, 1] = cx + back_x + back * along_x, cy + back_y + back * along_y
    quad[3, 0], quad[3, 1] = dx - back_x + back * along_x, dy - back_y + back * along_y
    return 1.0 if front_x * along_y < front_y * along_x else -1.0


@njit(cache=True, error_model="numpy")
def dilation(x, y) -> tuple[float, float]:
    """DILATION window pixels in a direction of the frame."""
    u, v = x / SCALE_X, y / SCALE_Y
    length = DILATION / max(math.sqrt(u * u + v * v), 1e-3)
    return SCALE_X * u * length, SCALE_Y * v * length
