"""What smoothscale makes of the bar below the picture: score, speed, four wheel speeds, steering, gyroscope.

Rectangles and digits have integer corners in the 1000x800 window, so the frame's pixels follow exactly from
`pygame.transform.smoothscale`'s integer arithmetic, which `shrink_tables`, `span` and `shrink` repeat.

Legend: R rows of a score picture, Q its columns; a frame is planar, uint8 (3, 96, 96), its columns reordered by `slot`.
"""

import base64
import math
import zlib
from typing import NamedTuple

import numpy as np
from numba import njit

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
TABLE_COLUMNS = 12  # room for "-1100"

GLYPH_TOP = 730  # the window's y of the first row of the glyphs: 750 - 46 // 2 + 3
GLYPH_H = 32
GLYPH_W = 23  # width and advance of a digit
MINUS_W = 13
MINUS = 10

# Coverage of "0123456789-", (11, 32, 23) uint8, as pygame's default font (freesansbold) renders them at size 42, and
# that font's kerning in thousandths of the size. Embedded so that a frame needs no font; tests compare with pygame.
_GLYPHS = (
    "c-rlmd30698Nk2CBg=yj5>b{w5eiZXve+J#2%(BLU4WL-"
    "DhP_~9z-a%w5g&fQZ2S&)qwVhRSU%$5I8D`lB0wzkcA{ff*}M9iCM@-Aj``mxt;mGnR#>P-k#&Jc-mUOf8IC0+}zo}?E-"
    "M|#J`YT9;iQ_JO(rwlx9iUe}kfTHCsWcA1&yumn~f`((}GE)I4{njFb!y#|u%fNnjmMX+nJx$9bsI5bj5PH`Bh2+WVrP6TIQ?3@`)n0)baz>rQ~R"
    "sEiW$K5Q)p*o{grfk$F1S@zgbVCrcnz~}t8K~A_E;)4J<#Y%}gAwB^R;J>93dl44`(8SfUVY3+E3jh5~(vFBv12ppAGKqbN^8w2FZ>_{phz|ke^W"
    "Q5H_e1;+z+P0Y5%_!9+5qq(DmM#!54Ii!n1jl6ftO?J4uBg`*&=WTZ?yQBR>-y1;Yfdu&+Ovr?@%qdozqLG|Aga+Qrhs-"
    "2ZWL)26f4HPRja;eiE8AS``~Sg9jB&>7kuXPkeHAg}?0B$`SC@NStl=l)UYVAGTa@*LCd%4v8K*WmAJ?oD9$x<Z5I6uixOW1%8^#VjH?`Rr-ZM{i"
    "mskgEV;KN5K=ZRo$Jj4f;u`5!YwnMccKs%KIaJk6JBxhlP3nh|}+ozMZ`@B8l|xD@%|QivPI@8!t0$8)~zupCQ=DWm*<$a=hqM>X>pGafHBVI|58"
    "Ohgi-5ZAi7bE;Ou66VnJ+8+5E6@i05Rn-(X<PG`3wExk^MVK33lFATMf;W*KfSe?!ktC!wOgAxA_YrP><qu1vXygXHZLH`n>MMHGzD-fnN+BV$hh"
    "<+Guqg@(lxb|mZmaxP7G-3EP%P9=!y5lN$?03gsLT-"
    "6F?My>+Nmlasupo@x6MSv)B(<^jK;#eN1<l4d@cwwjVmD`}m6O)go1X&G|I~$f^ZQ#+U&`<*)Hc%#AH&86OiR@x4hkVos$fR=;!telG3{stmkxxl"
    "m5$pkQxMNFXb+5~&PM30^Ux&~oHmZq={YgS%8}rPf9r9@*5MdeY!!V=!ySBm5?*h&g=9)5U?gPSW%B0{uQ4&%f^_CRAK~J$#Xdy<bQik{+*5{I`7"
    "+c)c@SIg0=$CC4x-"
    "U#vGq8>4`>cAM)BAq2lciAZ0C;<_h+RQi)n7c`&(_ClTRWkytUiMbZJgwQZ!qd*ikdSiK&J4f!f?Rrbhgmfye`{K0UJB6|ZxR0ES(0!=3}K@d97b"
    "iw@kCpR+{{`~qudc}+Zm_1AWb>AyUODCjouOxCLCYT~F$)|%>Yg2}A0&*2+yZeu=bkcn}RmpeS^Y#x<{n>d==ump$S-"
    "N>{zo$i?RXJrd(Nfrdnre(QWysLu$XJU~rESrou?j(H39ap>J>nv9sj~Sch(&!k>WwhPr7|1F;e+vo^em-"
    "_$ZiZiR&~Sbv5*>ILAILAFmV8|8KY#eiffC=#@%nl(=C&l^s+Sp)IocWV-"
    "_1$xLI060QtgbxHG<FQryl)Z;8FI<4s&bC4}<{pMeQ+>|B`2($R3H{B2Di`#OusS+=1A!6uqTIwhQ^XQzq^vUow3LlY8y&-"
    "U?8M!<H8GFNhxoI1)@LnHNVp*3P1+ClP-Z&r|4Ww2u6mb{E0z`Lv8$QK0A<^b$d7{t>-"
    "!UYo6GF;<RhOs0bE+k0y!b8OPF^UY1AA1)hUpWX1JW3_Gm(jzPMbhO)6EdcK+X`j=2pT*)u;d%BEo}obJ&(x|tnn}LZT7;nh?qAa^wpu;*$_fI&G"
    "pLTI$bc#@eC!xI?h(D;zJyDE87=?P+@|@qLWvSAA+$P<H%4F=0LJaCu<A~3nHWO&6o$aj@5ssId>1jgtm+fmHt_v}28Xq)=Zg|h@y7w_qTdVRT)x"
    "n8r>Mb#ZSq)UQP@#;a*j`lN{$Mpel3eiCsB#EB@Q_v-KkN*m8|5fwbgwhDOeJrbDPgrZP_8Og<RM**m{C#m>GOZH~OY#m3@$V&*F8JA65i281D&L"
    "KM|pSdmR4fU?WjmE?r=SPFJWM>id?0B@^_m8?hq2%->MBd2+|ASvA?`CSRdrJZlaB_o{I?xMew$4LTHK`;7(-"
    "!<(2FZeYBLt!A}}EYed3^<tiMD%8M_;3yId8d)PESi7KwYd0qnfe&wUtv^{KO`IhHY{ORJ!*fmiEN1$VCeD#{SQp#Bz&%#I&DDCebuuy577I)ohS"
    "~OZ_iVx8cqbuVWnxOtmYH}Q#w&4-W9zy5<(!(<s{B_c>w6X-On1*JhXwPl=m+pwL8lo9^Y@gr)Y087*e_D`0EPgGsBi1b>zkCsuICti-5zqr-"
    "o0vZD)coSg_fUdIE--JR$b;A_IRzp*I){xDmn53OjT?4GYsp<+;>0EuTCG-cVHQI;q{?0GdOLXD7@6W`W!QFRg1D(!>Q6YhOP<dk2jJR?~-"
    "aPl^@;i-^d+47!%reA;mMr%(RZ7xRd5HfMUQ00A58!?#XXt41p!;fLxP-"
    "6hn!+{pTuDlV%+YB8?J9BR&F9go>={Oppa3s))QzyAwjO*Fykz(j4C6Ir0sZ3;21`|Gu!=`Duk>nvbLBK4(lm)l2v36B|vDWsb;|!NNu5Y%Ou`Id"
    "^+Ob)fF#>r=wMfLZp<e6y&bwJL2{KU-Z(#ngfI>T-JDux+udd2O)|`xq_qbP>Q793)3eNq*-_a*-"
    "?}^ZXQRLxKM4!$V1=W_w>^+GZ8HDt~#QgZR*6$*5^Gw&Fyosb1AY5dTU<1?uxj2<7|$7#X%m+)I`%=rYP<I$rMlW>xCpvP*`ybhR6Y==b~#Kqoq-"
    "mlnr_4^9$sBrp6daC)f>UO3sM0eXBtE>`d(Tl;*i`sjT^6tZe3(`TPQ%BwzYZOZPy&WnOr#Iwx3o@o2pqXZYWik+ZwuW|XYxT0n9W6vDDrn6MlSm"
    "<kzwVEa9zNI+q<M@QAEw|*Ri|~yucWk45<{RWk!+M==^~zBV-WLq|7U^}V(Mg%*txd%{AL;_%$bXaki=xDT0RLaeKLM9wB(e"
)
_KERNING = (
    (58, 0, 73, 75, 0, 79, 0, 0, 65, 80),  # after 0
    (0, -85, 0, 0, 0, 0, 0, -65, 0, 0),  # after 1
    (84, 0, 0, 70, 0, 0, 77, 0, 70, 91),  # after 2
    (70, 0, 61, 87, 0, 88, 66, 0, 77, 78),  # after 3
    (89, 0, 59, 92, 0, 89, 86, 0, 97, 80),  # after 4
    (0, 0, 0, 73, 0, 77, 0, 0, 63, 77),  # after 5
    (66, 0, 0, 82, 0, 87, 62, 0, 73, 81),  # after 6
    (0, 0, 0, 0, -62, 0, 0, 0, 0, 0),  # after 7
    (65, 0, 69, 81, 0, 85, 61, 0, 71, 86),  # after 8
    (0, 0, 70, 65, 0, 69, 0, 0, 0, 70),  # after 9
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),  # after -
)


# smoothscale's fixed point: window pixels a frame pixel in 1/16384, and the reciprocal in 1/65536
COLUMN_SPACE, ROW_SPACE = 0x4000 * WINDOW_W // STATE_W, 0x4000 * WINDOW_H // STATE_H
COLUMN_SCALE, ROW_SCALE = 0x40000000 // COLUMN_SPACE, 0x40000000 // ROW_SPACE

# Columns of an axis table, int64 (96, 4): pixel i of the frame sums parts of two window pixels and all between them
FIRST, CARRY, LAST, PART = range(4)


class Hud(NamedTuple):
    """Tables for `draw_hud`, the same for every lane."""

    columns: np.ndarray  # int64 (96,4) axis tables
    rows: np.ndarray
    glyphs: np.ndarray  # uint8 (11,32,23)
    kerning: np.ndarray  # int64 (11,10)
    scores: np.ndarray  # uint8 (2 * SCORE_LIMIT + 2, R, Q): index 0 is "-000", 1 + SCORE_LIMIT + n shows n


def axis_table(space: int, source: int) -> np.ndarray:
    """The weights, in 1/16384, of pygame's `filter_shrink_X/Y` (SSE2) for an axis of `source` window pixels."""
    one = 0x4000
    table = np.zeros((96, 4), np.int64)
    table[0, FIRST] = -1  # nothing is carried into the first
    counter, index = space, 0
    for pixel in range(source):
        if counter > one:
            counter -= one
            continue
        table[index, LAST], table[index, PART] = pixel, counter
        index += 1
        if index == len(table):
            break
        table[index, FIRST], table[index, CARRY] = pixel, one - counter
        counter += space - one
    return table


def make_hud() -> Hud:
    """Decode the glyphs and draw every score in range once (about 20 ms)."""
    raw = zlib.decompress(base64.b85decode("".join(_GLYPHS)))
    glyphs = np.frombuffer(raw, np.uint8).reshape(11, GLYPH_H, GLYPH_W).copy()
    kerning = np.array(_KERNING, np.int64)
    columns, rows = axis_table(COLUMN_SPACE, WINDOW_W), axis_table(ROW_SPACE, WINDOW_H)
    scores = np.zeros((2 * SCORE_LIMIT + 2, SCORE_ROWS, TABLE_COLUMNS), np.uint8)
    hud = Hud(columns, rows, glyphs, kerning, scores)
    line = np.zeros((GLYPH_H, WINDOW_W), np.int64)
    draw_score(-0.0, hud, line, scores[0])
    for number in range(-SCORE_LIMIT, SCORE_LIMIT + 1):
        draw_score(float(number), hud, line, scores[1 + SCORE_LIMIT + number])
    return hud


@njit(cache=True, error_model="numpy")
def span(axis: np.ndarray, index: int, low: int, high: int) -> tuple[int, int, int]:
    """How window pixels low..high (inclusive) count in pixel `index` of the frame: fully, by its carry, by its part."""
    first, last = axis[index, FIRST], axis[index, LAST]
    full = max(0, min(last - 1, high) - max(first + 1, low) + 1)
    carry = axis[index, CARRY] if low <= first <= high else 0
    return full, carry, axis[index, PART] if low <= last <= high else 0


@njit(cache=True, error_model="numpy")
def shrink(value: int, full: int, carry: int, part: int, scale: int) -> int:
    """smoothscale's sum over a span of one value."""
    return ((value * full + (value * carry >> 14) + (value * part >> 14)) * scale) >> 16


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
def draw_score(reward: float, hud: Hud, line: np.ndarray, picture: np.ndarray) -> None:
    """Draw the score as smoothscale leaves it. line: int64 (32, 1000) scratch; picture: uint8 (R, Q)."""
    text = np.zeros(20, np.int64)
    length = score_text(reward, text)
    pen = 0  # 1/64 pixel, as the font engine adds up advances and kerning
    left = np.zeros(20, np.int64)
    for place in range(length):
        if place:
            pen += int(np.floor(hud.kerning[text[place - 1], text[place]] * 2.688 + 0.5))
        left[place] = pen >> 6
        pen += 64 * (MINUS_W if text[place] == MINUS else GLYPH_W)
    start = 60 - (left[length - 1] + GLYPH_W) // 2
    line[:] = 0
    for place in range(length):
        for column in range(GLYPH_W):
            x = start + left[place] + column
            if x >= 0:
                for row in range(GLYPH_H):
                    line[row, x] = max(line[row, x], hud.glyphs[text[place], row, column])
    for column in range(picture.shape[1]):
        shrink_columns(line, hud.columns, column)
    for row in range(SCORE_ROWS):
        shrink_rows(line, hud.rows, row, picture)


@njit(cache=True, error_model="numpy")
def shrink_columns(line: np.ndarray, axis: np.ndarray, index: int) -> None:
    """Replace line[:, index] by smoothscale's column `index` (reads only columns at or right of it)."""
    first, last = axis[index, FIRST], axis[index, LAST]
    for row in range(GLYPH_H):
        total = line[row, last] * axis[index, PART] >> 14
        for x in range(first + 1, last):
            total += line[row, x]
        if first >= 0:
            total += line[row, first] * axis[index, CARRY] >> 14
        line[row, index] = (total * COLUMN_SCALE) >> 16


@njit(cache=True, error_model="numpy")
def shrink_rows(line: np.ndarray, axis: np.ndarray, row: int, picture: np.ndarray) -> None:
    """One row of the picture from the glyphs' rows, whose columns are shrunk already."""
    first, last = axis[SCORE_ROW + row, FIRST], axis[SCORE_ROW + row, LAST]
    for column in range(picture.shape[1]):
        total = 0
        for y in range(max(first, GLYPH_TOP), min(last, GLYPH_TOP + GLYPH_H - 1) + 1):
            value = line[y - GLYPH_TOP, column]
            if y == first:
                value = value * axis[SCORE_ROW + row, CARRY] >> 14
            elif y == last:
                value = value * axis[SCORE_ROW + row, PART] >> 14
            total += value
        picture[row, column] = (total * ROW_SCALE) >> 16


@njit(cache=True, error_model="numpy")
def add_bar(bars: np.ndarray, count: int, x0: int, x1: int, y0: int, y1: int, red: int, green: int, blue: int) -> int:
    """Note window pixels x0..x1, y0..y1 (inclusive, in any order) in a colour; returns how many are noted now."""
    bar = bars[count]
    bar[0], bar[1] = max(min(x0, x1), 0), min(max(x0, x1), WINDOW_W - 1)
    bar[2], bar[3] = max(min(y0, y1), 0), min(max(y0, y1), WINDOW_H - 1)
    bar[4], bar[5], bar[6] = red, green, blue
    return count + 1 if bar[0] <= bar[1] and bar[2] <= bar[3] else count


@njit(cache=True, error_model="numpy")
def list_bars(bars: np.ndarray, velocity: np.ndarray, omega: np.ndarray, joint_angle: float, spin: float) -> int:
    """Gymnasium's indicators, as pygame truncates them, int64 (BARS,7); those below 1e-4 are left out."""
    count = 0
    speed = math.sqrt(float(velocity[0]) * float(velocity[0]) + float(velocity[1]) * float(velocity[1]))
    if speed > 1e-4:
        count = add_bar(bars, count, 125, 150, int(WINDOW_H - (20.0 + 20.0 * (0.02 * speed))), 780, 255, 255, 255)
    for wheel in range(4):
        if abs(omega[wheel]) > 1e-4:
            left, red = 175 + 25 * wheel, 0 if wheel < 2 else 51
            end = int(WINDOW_H - (20.0 + 20.0 * (0.01 * omega[wheel])))
            count = add_bar(bars, count, left, left + 24, end, 780, red, 0, 255)
            # its last column of window pixels belongs to the next wheel's bar as far as that reaches
            after = omega[wheel + 1] if wheel < 3 else 0.0
            end_after = int(WINDOW_H - (20.0 + 20.0 * (0.01 * after)))
            if abs(after) <= 1e-4:
                count = add_bar(bars, count, left + 25, left + 25, end, 780, red, 0, 255)
            elif end < min(end_after, 780):
                count = add_bar(bars, count, left + 25, left + 25, end, min(end_after, 780) - 1, red, 0, 255)
            elif end > max(end_after, 780):
                count = add_bar(bars, count, left + 25, left + 25, max(end_after, 780) + 1, end, red, 0, 255)
    if abs(joint_angle) > 1e-4:
        count = add_bar(bars, count, 500, int((20 + -10.0 * joint_angle) * 25.0), 720, 760, 0, 255, 0)
    if abs(spin) > 1e-4:
        count = add_bar(bars, count, 750, int((30 + -0.8 * spin) * 25.0), 720, 760, 255, 0, 0)
    return count


@njit(cache=True, error_model="numpy")
def draw_bar(frame, slot, columns, rows, across, bar) -> None:
    """One bar over what the frame holds. frame: uint8 (3,96,96); columns, rows: axis tables; across: int64 (>= 96,)."""
    left, right, top, bottom = bar[0], bar[1], bar[2], bar[3]
    first_row, last_row = top * STATE_H // WINDOW_H, min((bottom + 1) * STATE_H // WINDOW_H, STATE_H - 1)
    first, last = left * STATE_W // WINDOW_W, min((right + 1) * STATE_W // WINDOW_W, STATE_W - 1)
    for channel in range(3):
        color = bar[4 + channel]
        if color == 0 and first_row >= BAR_ROW:
            continue
        for column in range(first, last + 1):
            full, carry, part = span(columns, column, left, right)
            across[column] = shrink(color, full, carry, part, COLUMN_SCALE)
        for row in range(first_row, last_row + 1):
            full, carry, part = span(rows, row, top, bottom)
            for column in range(first, last + 1):
                value = shrink(across[column], full, carry, part, ROW_SCALE)
                under = int(frame[channel, row, slot[column]])
                if row < BAR_ROW:  # over the picture; the bar is black, and abutting rectangles simply add up there
                    wide = (min(right + 1, (column + 1) * 10.41667) - max(left, column * 10.41667)) / 10.41667
                    high = (min(bottom + 1, (row + 1) * 8.33333) - max(top, row * 8.33333)) / 8.33333
                    under = int(under * (1.0 - max(wide, 0.0) * max(high, 0.0)))
                frame[channel, row, slot[column]] = min(253, under + value)


@njit(cache=True, error_model="numpy")
def draw_hud(
    frame: np.ndarray,
    slot: np.ndarray,
    hud: Hud,
    velocity: np.ndarray,
    omega: np.ndarray,
    joint_angle: float,
    spin: float,
    reward: float,
    bars: np.ndarray,
    line: np.ndarray,
    picture: np.ndarray,
) -> None:
    """Draw Gymnasium's `_render_indicators` and the score into a planar frame.

    frame: uint8 (3,96,96); slot: int64 (96,) where a column lies in it; velocity: float32 (2,), the hull's; omega:
    float64 (4,); bars: int64 (BARS,7), line: int64 (32,1000), picture: uint8 (R,Q) scratch.
    """
    for channel in range(3):
        frame[channel, BAR_ROW:] = 0
    for index in range(list_bars(bars, velocity, omega, joint_angle, spin)):
        draw_bar(frame, slot, hud.columns, hud.rows, line[0], bars[index])
    if abs(reward) < SCORE_LIMIT:
        number = int(np.rint(reward))
        minus_zero = number == 0 and np.copysign(1.0, reward) < 0.0
        picture = hud.scores[0 if minus_zero else 1 + SCORE_LIMIT + number]
    elif abs(reward) < SCORE_END:
        draw_score(reward, hud, line, picture)
    else:
        return
    for row in range(SCORE_ROWS):
        for column in range(picture.shape[1]):
            if picture[row, column]:
                for channel in range(3):
                    frame[channel, SCORE_ROW + row, slot[column]] = picture[row, column]
