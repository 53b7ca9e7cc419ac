"""What smoothscale makes of the bar below the picture: score, speed, four wheel speeds, steering, gyroscope.

Rectangles and digits have integer corners in the 1000x800 window, so the frame's pixels follow exactly from
`pygame.transform.smoothscale`'s integer arithmetic (shrink.py).

Legend: R rows of a score picture, Q its columns; a frame is planar, uint8 (3, 96, 96), its columns reordered by `slot`.
"""

import math
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numba import njit

from worldmodels.envs.carracing.shrink import (
    CARRY,
    COLUMN_SCALE,
    COLUMNS,
    FIRST,
    LAST,
    PART,
    ROW_SCALE,
    ROWS,
    shrink_cell,
    sum_of_three,
)
from worldmodels.envs.carracing.state import STATE_H, STATE_W, WINDOW_H, WINDOW_W

BAR_ROW = 84
"""First row of the bar: the window's y = 700."""

SCORE_LIMIT = 1100
"""Scores from -SCORE_LIMIT to SCORE_LIMIT are drawn once, in advance; any other when it shows."""

BARS = 11
"""Room for the bars: speed, four wheels in two parts each, steering, gyroscope."""

SCORE_END = 1e8  # no score is drawn from here on (nor one that is not a number)

SCORE_ROW = 87  # first row that the digits reach
SCORE_ROWS = 5
SCORE_COLUMNS = 24  # room for ten digits
SCORE_W = 256  # window pixels of those columns, and a few more
TABLE_COLUMNS = 12  # room for "-1100"

GLYPH_TOP = 730  # the window's y of the first row of the glyphs: 750 - 46 // 2 + 3
GLYPH_H = 32
GLYPH_W = 23  # width and advance of a digit
MINUS_W = 13
MINUS = 10

DIGITS = Path(__file__).with_name("digits.npz")
"""pygame's default font (freesansbold) at size 42, kept so that a frame needs no font (tests compare with pygame):
coverage uint8 (11,32,23) of "0123456789-", kerning int16 (11,10) of a digit after a glyph, in 1/1000 of the size."""
KERNING_UNIT = 42 * 64 / 1000  # of that kerning, in the font engine's 1/64 pixel

# The indicators: Gymnasium divides the window into 40 units each way.
UNIT_X, UNIT_Y = WINDOW_W // 40, WINDOW_H // 40  # window pixels
BAR_BASE = WINDOW_H - UNIT_Y  # upright bars grow from here
SIDE_TOP, SIDE_BOTTOM = WINDOW_H - 4 * UNIT_Y, WINDOW_H - 2 * UNIT_Y  # the rows of the bars that grow sideways
SPEED_PLACE, WHEEL_PLACE, STEER_PLACE, SPIN_PLACE = 5, 7, 20, 30  # where they stand, in units
SPEED_HEIGHT, OMEGA_HEIGHT = 0.02, 0.01  # units per unit/s and per rad/s
STEER_WIDTH, SPIN_WIDTH = -10.0, -0.8  # units per rad and per rad/s
LEAST = 1e-4  # no bar for less
CELL_W, CELL_H = WINDOW_W / STATE_W, WINDOW_H / STATE_H  # window pixels per frame pixel
BRIGHTEST = 253  # what smoothscale makes of 255
WHITE, RED, GREEN, BLUE, VIOLET = 0xFFFFFF, 0xFF0000, 0x00FF00, 0x0000FF, 0x3300FF  # 0x00RRGGBB


class Hud(NamedTuple):
    """Tables of the bar, the same for every lane."""

    glyphs: np.ndarray  # uint8 (11,32,23)
    kerning: np.ndarray  # int64 (11,10)
    scores: np.ndarray  # uint8 (2 * SCORE_LIMIT + 2, R, Q): index 0 is "-000", 1 + SCORE_LIMIT + n shows n


class HudScratch(NamedTuple):
    """Working memory of one thread."""

    bars: Annotated[np.ndarray, "int64", (BARS, 5)]
    across: Annotated[np.ndarray, "int64", (STATE_W,)]  # a row of a bar
    window: Annotated[np.ndarray, "uint32", (WINDOW_H, SCORE_W)]  # for scores beyond the table, else black
    picture: Annotated[np.ndarray, "uint8", (SCORE_ROWS, SCORE_COLUMNS)]


def make_hud() -> Hud:
    """Read the digits and draw every score in range once (about 20 ms)."""
    with np.load(DIGITS) as digits:
        glyphs, kerning = digits["coverage"], digits["kerning"].astype(np.int64)
    scores = np.zeros((2 * SCORE_LIMIT + 2, SCORE_ROWS, TABLE_COLUMNS), np.uint8)
    hud = Hud(glyphs, kerning, scores)
    window = np.zeros((WINDOW_H, SCORE_W), np.uint32)
    draw_score(-0.0, hud, window, scores[0])
    for number in range(-SCORE_LIMIT, SCORE_LIMIT + 1):
        draw_score(float(number), hud, window, scores[1 + SCORE_LIMIT + number])
    return hud


@njit(cache=True, error_model="numpy")
def span(axis: np.ndarray, index: int, low: int, high: int) -> tuple[int, int, int]:
    """How window pixels low..high (inclusive) count in pixel `index` of the frame: fully, by its carry, by its part."""
    first, last = axis[index, FIRST], axis[index, LAST]
    full = max(0, min(last - 1, high) - max(first + 1, low) + 1)
    carry = axis[index, CARRY] if low <= first <= high else 0
    return full, carry, axis[index, PART] if low <= last <= high else 0


@njit(cache=True, error_model="numpy")
def score_text(reward: float, text: np.ndarray) -> int:
    """The glyphs of f"{reward:04.0f}" into `text`, int64 (>= 20,); returns how many."""
    negative = np.copysign(1.0, reward) < 0.0
    number = int(np.rint(abs(reward)))
    digits = 1
    while digits < 18 and number >= 10**digits:
        digits += 1
    length = max(digits + negative, 4)
    for place in range(length - 1, -1, -1):
        text[place] = number % 10
        number //= 10
    if negative:
        text[0] = MINUS
    return length


@njit(cache=True, error_model="numpy")
def paint_score(reward: float, hud: Hud, window: np.ndarray) -> None:
    """Write the score into the window, uint32 (800, SCORE_W or more), in white."""
    if not abs(reward) < SCORE_END:
        return
    text = np.zeros(20, np.int64)
    length = score_text(reward, text)
    pen = 0  # 1/64 pixel, as the font engine adds up advances and kerning
    left = np.zeros(20, np.int64)
    for place in range(length):
        if place:
            pen += int(np.floor(hud.kerning[text[place - 1], text[place]] * KERNING_UNIT + 0.5))
        left[place] = pen >> 6
        pen += 64 * (MINUS_W if text[place] == MINUS else GLYPH_W)
    start = 60 - (left[length - 1] + GLYPH_W) // 2
    for place in range(length):
        glyph = hud.glyphs[text[place]]
        for column in range(max(0, -start - left[place]), GLYPH_W):
            x = start + left[place] + column
            for row in range(GLYPH_H):
                if glyph[row, column] > window[GLYPH_TOP + row, x] & 255:
                    window[GLYPH_TOP + row, x] = glyph[row, column] * 0x010101


@njit(cache=True, error_model="numpy")
def draw_score(reward: float, hud: Hud, window: np.ndarray, picture: np.ndarray) -> None:
    """The score as smoothscale leaves it. window: black, as for `paint_score`; picture: uint8 (R, Q)."""
    paint_score(reward, hud, window)
    for row in range(SCORE_ROWS):
        for column in range(picture.shape[1]):
            picture[row, column] = shrink_cell(window, SCORE_ROW + row, column)[0]
    window[GLYPH_TOP : GLYPH_TOP + GLYPH_H] = 0


@njit(cache=True, error_model="numpy")
def add_bar(bars: np.ndarray, count: int, x0: int, x1: int, y0: int, y1: int, color: int) -> int:
    """Note window pixels x0..x1, y0..y1 (inclusive, in any order) in a colour; returns how many are noted now."""
    bar = bars[count]
    bar[0], bar[1] = max(min(x0, x1), 0), min(max(x0, x1), WINDOW_W - 1)
    bar[2], bar[3] = max(min(y0, y1), 0), min(max(y0, y1), WINDOW_H - 1)
    bar[4] = color
    return count + 1 if bar[0] <= bar[1] and bar[2] <= bar[3] else count


@njit(cache=True, error_model="numpy")
def whole(value: float) -> int:
    """A coordinate as pygame makes an int of it: truncated; beyond an int's range the least (as x86-64 converts)."""
    return int(value) if abs(value) < 2**31 else -(2**31)


@njit(cache=True, error_model="numpy")
def bar_end(height: float) -> int:
    """The window row in which an upright bar of some units ends."""
    return whole(WINDOW_H - (UNIT_Y + UNIT_Y * height))


@njit(cache=True, error_model="numpy")
def list_bars(bars: np.ndarray, velocity: np.ndarray, omega: np.ndarray, joint_angle: float, spin: float) -> int:
    """Gymnasium's indicators, as pygame truncates them, int64 (BARS,5); those below LEAST are left out."""
    count = 0
    vx, vy = np.float64(velocity[0]), np.float64(velocity[1])  # numba's float() would stay at 32 bits
    speed = math.sqrt(vx * vx + vy * vy)
    if speed > LEAST:
        left, top = SPEED_PLACE * UNIT_X, bar_end(SPEED_HEIGHT * speed)
        count = add_bar(bars, count, left, left + UNIT_X, top, BAR_BASE, WHITE)
    for wheel in range(4):
        if abs(omega[wheel]) > LEAST:
            left, color = (WHEEL_PLACE + wheel) * UNIT_X, BLUE if wheel < 2 else VIOLET
            right, end = left + UNIT_X, bar_end(OMEGA_HEIGHT * omega[wheel])
            count = add_bar(bars, count, left, right - 1, end, BAR_BASE, color)
            # its last column of window pixels belongs to the next wheel's bar as far as that reaches
            after = omega[wheel + 1] if wheel < 3 else 0.0
            end_after = bar_end(OMEGA_HEIGHT * after)
            if abs(after) <= LEAST:
                count = add_bar(bars, count, right, right, end, BAR_BASE, color)
            elif end < min(end_after, BAR_BASE):
                count = add_bar(bars, count, right, right, end, min(end_after, BAR_BASE) - 1, color)
            elif end > max(end_after, BAR_BASE):
                count = add_bar(bars, count, right, right, max(end_after, BAR_BASE) + 1, end, color)
    if abs(joint_angle) > LEAST:
        end = whole((STEER_PLACE + STEER_WIDTH * joint_angle) * UNIT_X)
        count = add_bar(bars, count, STEER_PLACE * UNIT_X, end, SIDE_TOP, SIDE_BOTTOM, GREEN)
    if abs(spin) > LEAST:
        end = whole((SPIN_PLACE + SPIN_WIDTH * spin) * UNIT_X)
        count = add_bar(bars, count, SPIN_PLACE * UNIT_X, end, SIDE_TOP, SIDE_BOTTOM, RED)
    return count


@njit(cache=True, error_model="numpy")
def draw_bar(frame, slot, across, bar) -> None:
    """One bar over what the frame holds. frame: uint8 (3,96,96); across: int64 (>= 96,)."""
    left, right, top, bottom = bar[0], bar[1], bar[2], bar[3]
    first_row, last_row = top * STATE_H // WINDOW_H, min((bottom + 1) * STATE_H // WINDOW_H, STATE_H - 1)
    first, last = left * STATE_W // WINDOW_W, min((right + 1) * STATE_W // WINDOW_W, STATE_W - 1)
    for channel in range(3):
        color = bar[4] >> 16 - 8 * channel & 255
        if color == 0 and first_row >= BAR_ROW:
            continue
        for column in range(first, last + 1):
            full, carry, part = span(COLUMNS, column, left, right)
            across[column] = sum_of_three(color, carry, color, part, color * full, COLUMN_SCALE)
        for row in range(first_row, last_row + 1):
            full, carry, part = span(ROWS, row, top, bottom)
            for column in range(first, last + 1):
                wide = across[column]
                value = sum_of_three(wide, carry, wide, part, wide * full, ROW_SCALE)
                under = int(frame[channel, row, slot[column]])
                if row < BAR_ROW:  # over the picture; the bar is black, and abutting rectangles simply add up there
                    width = (min(right + 1, (column + 1) * CELL_W) - max(left, column * CELL_W)) / CELL_W
                    height = (min(bottom + 1, (row + 1) * CELL_H) - max(top, row * CELL_H)) / CELL_H
                    under = int(under * (1.0 - max(width, 0.0) * max(height, 0.0)))
                frame[channel, row, slot[column]] = min(BRIGHTEST, under + value)


@njit(cache=True, error_model="numpy")
def write_score(frame, slot, reward, hud, scratch) -> None:
    """Write the score into a planar frame that is black there."""
    picture = scratch.picture
    if abs(reward) < SCORE_LIMIT:
        number = int(np.rint(reward))
        minus_zero = number == 0 and np.copysign(1.0, reward) < 0.0
        picture = hud.scores[0 if minus_zero else 1 + SCORE_LIMIT + number]
    else:
        draw_score(reward, hud, scratch.window, picture)
    for row in range(SCORE_ROWS):
        for column in range(picture.shape[1]):
            if picture[row, column]:
                for channel in range(3):
                    frame[channel, SCORE_ROW + row, slot[column]] = picture[row, column]


@njit(cache=True, error_model="numpy")
def draw_bars(frame, slot, bars, count, across) -> None:
    """Blacken the bar of a planar frame and draw the indicators; across: int64 (>= 96,) scratch."""
    for channel in range(3):
        frame[channel, BAR_ROW:] = 0
    for index in range(count):
        draw_bar(frame, slot, across, bars[index])
