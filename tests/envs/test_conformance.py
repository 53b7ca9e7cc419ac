"""The exact frames' arithmetic beside pygame's, random use beside Gymnasium's, and Gymnasium's own instruments."""

import math
import warnings

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium.utils.env_match import check_environments_match
from gymnasium.utils.performance import benchmark_vector_step
from pygame import gfxdraw

from conformance import driver, fuzz
from conformance.closed_loop import OURS, THEIRS
from worldmodels.envs.carracing import camera, hud, shrink, window
from worldmodels.envs.carracing.state import zeros

CASES = sorted(fuzz.CASES.glob("*.json"))


# ------------------------------------------------------------------------------------------ beside pygame


def surface_of(canvas: window.Canvas) -> pygame.Surface:
    """The window as pygame holds it before the flip."""
    surface = pygame.Surface((1000, 800))
    pixels = canvas.window[::-1].T.astype(np.uint32)
    pygame.surfarray.blit_array(surface, pixels.astype(np.int32))
    return surface


def shown(surface: pygame.Surface) -> np.ndarray:
    """The picture above the bar, uint32 (700,1000)."""
    return (pygame.surfarray.array2d(surface).T[::-1] & 0xFFFFFF)[: window.BAR_TOP].astype(np.uint32)


def frame_of(canvas: window.Canvas) -> np.ndarray:
    frame = np.zeros((3, 96, 96), np.uint8)
    shrink.shrink_window(canvas.window, canvas.mixed, np.arange(96), frame)
    return frame.transpose(1, 2, 0)


def random_quads(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Small and large, near and far, slivers, quads that cross themselves, lines and points."""
    quads = []
    for _ in range(count):
        spread = rng.choice([1.5, 6, 60, 400, 3000])
        quad = rng.uniform((-200, -200), (1200, 1000)) + rng.normal(0, spread, (4, 2))
        if rng.random() < 0.5:  # convex, as tiles are
            middle = quad.mean(axis=0)
            quad = quad[np.argsort([math.atan2(*(corner - middle)) for corner in quad])]
        if rng.random() < 0.2:
            quad[rng.integers(4)] = quad[rng.integers(4)]
        if rng.random() < 0.2:
            quad[:, rng.integers(2)] = quad[0, rng.integers(2)]
        quads.append(np.trunc(quad).astype(np.int64))
    return quads


def test_quads_are_gfxdraws():
    """Quads over one another: every pixel of the picture."""
    rng = np.random.default_rng(0)
    canvas = zeros(window.Canvas)
    surface = surface_of(canvas)
    for number, quad in enumerate(random_quads(rng, 600)):
        color = int(rng.integers(1 << 24))
        canvas.corners[:4] = quad
        window.quad(canvas, color)
        paint(surface, quad, color)
        if number % 10 == 9:
            np.testing.assert_array_equal(canvas.window[: window.BAR_TOP], shown(surface), err_msg=str(number))


def paint(surface: pygame.Surface, quad: np.ndarray, color: int) -> None:
    """As Gymnasium paints a tile."""
    rgb = color >> 16, color >> 8 & 255, color & 255
    gfxdraw.aapolygon(surface, quad.tolist(), rgb)
    gfxdraw.filled_polygon(surface, quad.tolist(), rgb)


def test_no_cell_that_a_quad_touches_is_taken_for_flat():
    """One quad at a time over one colour: the frame, of which only the marked cells are summed."""
    rng = np.random.default_rng(1)
    canvas = zeros(window.Canvas)
    for quad in random_quads(rng, 1200):
        canvas.window[: window.BAR_TOP] = 0x203040
        surface = surface_of(canvas)
        canvas.corners[:4] = quad
        window.quad(canvas, 0xF0C0A0)
        paint(surface, quad, 0xF0C0A0)
        surface = pygame.transform.flip(surface, False, True)
        surface.fill(0, (0, window.BAR_TOP, 1000, 100))
        theirs = pygame.surfarray.array3d(pygame.transform.smoothscale(surface, (96, 96))).transpose(1, 0, 2)
        np.testing.assert_array_equal(frame_of(canvas), theirs, err_msg=str(quad.tolist()))


def test_polygons_are_pygames():
    """Convex polygons of 4 to 8 corners as small as the car's, in any place."""
    rng = np.random.default_rng(1)
    canvas = zeros(window.Canvas)
    surface = surface_of(canvas)
    for _ in range(400):
        count = int(rng.integers(4, 9))
        turns = np.sort(rng.uniform(0, 2 * math.pi, count))
        corners = rng.uniform((-20, 80), (1020, 820)) + rng.uniform(1, 50) * np.stack([np.cos(turns), np.sin(turns)], 1)
        color = int(rng.integers(1 << 24))
        canvas.corners[:count] = np.trunc(corners)
        window.polygon(canvas, count, color)
        pygame.draw.polygon(surface, (color >> 16, color >> 8 & 255, color & 255), corners.tolist())
    np.testing.assert_array_equal(canvas.window[: window.BAR_TOP], shown(surface))


def test_turns_are_pygames():
    rng = np.random.default_rng(2)
    quarters = [k * math.pi / 2 + e for k in range(-9, 9) for e in (0, 5e-7, -5e-7, 2e-6)]
    for angle in [*rng.uniform(-30, 30, 300), *quarters, np.float64(np.float32(-math.pi))]:
        x, y = rng.normal(0, 100, 2)
        cos, sin = camera.turn_of(angle)
        theirs = pygame.math.Vector2(x, y).rotate_rad(angle)
        assert (cos * x - sin * y, sin * x + cos * y) == (theirs.x, theirs.y), angle


@pytest.mark.parametrize("backend", ["SSE2", "GENERIC"])
def test_smoothscale_is_pygames_sse2(backend):
    """Noise, the hardest picture; pygame's generic C differs from SSE2, by one at most (docs/carracing.md)."""
    rng = np.random.default_rng(3)
    canvas = zeros(window.Canvas)
    canvas.window[:] = rng.integers(1 << 24, size=(800, 1000))
    canvas.window[:400] = rng.choice([0, 0xFFFFFF], size=(400, 1000))
    canvas.mixed[:] = 1
    before = pygame.transform.get_smoothscale_backend()
    try:
        pygame.transform.set_smoothscale_backend(backend)
        flipped = pygame.transform.flip(surface_of(canvas), False, True)
        theirs = pygame.surfarray.array3d(pygame.transform.smoothscale(flipped, (96, 96))).transpose(1, 0, 2)
    except ValueError:
        pytest.skip(f"no {backend} here")
    finally:
        pygame.transform.set_smoothscale_backend(before)
    error = np.abs(frame_of(canvas).astype(int) - theirs)
    assert error.max() == (0 if backend == "SSE2" else 1)


def test_every_flat_colour_is_what_the_whole_sum_makes():
    """A cell of one colour is not summed; here it is, for all 256 values and every cell."""
    canvas = zeros(window.Canvas)
    for value in range(256):
        canvas.window[:] = value * 0x010101
        flat = frame_of(canvas)
        canvas.mixed[:] = 1
        np.testing.assert_array_equal(frame_of(canvas), flat)


# -------------------------------------------------------------------------------------- beside Gymnasium


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_once_differed_is_the_same(path):
    """Minimal cases, which conformance.fuzz found with a fault of ours or one put in on purpose."""
    assert fuzz.difference(fuzz.Case.read(path)) == ""


@pytest.mark.slow  # `make conformance-sample` does it too
def test_random_use_is_the_same():
    assert fuzz.run(3, seed=1) == []


@pytest.mark.slow  # `make conformance-sample` does it too
def test_faults_are_found_and_shrunk():
    """Negative controls: a tile half a unit off, one bit of one pixel, one random number too many."""
    found = dict(fuzz.controls(seconds=5))
    assert list(found) == ["tile", "pixel", "generator"] and all(found.values())


def test_gymnasiums_environments_match():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = gymnasium.make(THEIRS), gymnasium.make(OURS, frames="exact")
        check_environments_match(theirs, ours, num_steps=60, seed=3)


def test_gymnasiums_benchmark_runs():
    assert benchmark_vector_step(gymnasium.make_vec(OURS, num_envs=4, frames="exact"), target_duration=0.05, seed=0) > 0


@pytest.mark.slow
def test_the_trained_driver_drives_the_same_episode():
    assert driver.run(1) == []


def test_the_speed_bar_ends_where_gymnasiums_does():
    """Near a whole pixel the last bit of the speed decides: Gymnasium reckons it in 64 bits."""
    rng = np.random.default_rng(4)
    bars = np.zeros((hud.BARS, 5), np.int64)
    for velocity in rng.normal(0, 40, (20_000, 2)).astype(np.float32):
        hud.list_bars(bars, velocity, np.zeros(4), 0.0, 0.0)
        speed = np.sqrt(np.square(float(velocity[0])) + np.square(float(velocity[1])))
        assert min(bars[0, 2], bars[0, 3]) == min(int(800 - (20.0 + 20.0 * (0.02 * speed))), 780)
    # velocities at whole pixels, where 32 bits would round to the other side
    for pixels in range(1, 80):
        for step in range(-40, 40):
            vy = np.float32(pixels * 2.5)
            vy = np.float32(vy + step * np.spacing(vy))
            hud.list_bars(bars, np.array([0.3, vy], np.float32), np.zeros(4), 0.0, 0.0)
            speed = np.sqrt(np.square(float(np.float32(0.3))) + np.square(float(vy)))
            assert bars[0, 2] == int(800 - (20.0 + 20.0 * (0.02 * speed)))
