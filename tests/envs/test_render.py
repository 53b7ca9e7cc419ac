"""Frames against Gymnasium's at identical states, and what a frame may depend on.

Legend: N lanes, S = 96 or 64 pixels.
"""

import types

import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_racing

from conformance.frames import CAR_LIMIT, EPISODES, MEAN_LIMIT, OFF_LIMIT, average_64, copy_state, pose, run
from worldmodels.envs.carracing.render import Painter
from worldmodels.envs.carracing.state import Cars, Tracks, allocate
from worldmodels.envs.carracing.video import draw_video

States = tuple[Tracks, Cars]


@pytest.fixture(scope="module")
def states() -> tuple[States, np.ndarray]:
    """Some different instants as one batch, and Gymnasium's frames of them, uint8 (N,96,96,3)."""
    lanes, frames = [], []
    for episode in (EPISODES[0], EPISODES[6], EPISODES[8], EPISODES[9]):
        for _, frame, tracks, cars, _ in pose(episode._replace(steps=120), 4):
            lanes.append((tracks, cars))
            frames.append(frame)
    tracks, cars = (
        type(parts[0])(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for parts in zip(*lanes, strict=True)
    )
    return (tracks, cars), np.stack(frames)


def permuted(states: States, order: np.ndarray) -> States:
    """The same lanes in another order (or some of them, or some twice)."""
    tracks, cars = states
    return Tracks(*(array[order].copy() for array in tracks)), Cars(*(array[order].copy() for array in cars))


def drawn(states: States, size: int, exact: bool = False) -> np.ndarray:
    """All lanes by a fresh painter: uint8 (N,S,S,3)."""
    painter = Painter(size, exact)
    return np.stack([painter.draw(*states, lane) for lane in range(len(states[1].time))])


def test_frames_agree_with_gymnasium() -> None:
    """A sample of `make conformance`: every kind of episode within the limits that hold for all frames."""
    for row in run(150):
        assert row.exact == 0, row
        assert row.mean_96 <= MEAN_LIMIT and row.mean_64 <= MEAN_LIMIT, row
        assert row.off_96 <= OFF_LIMIT and row.off_64 <= OFF_LIMIT, row
        assert row.car <= CAR_LIMIT, row
        assert row.bar <= 0.02, row
        assert not row.video > 0, row  # nan where no picture was compared


@pytest.mark.parametrize("exact", [False, True])
def test_64_is_the_area_average_of_96(states: tuple[States, np.ndarray], exact: bool) -> None:
    """The 64x64 frame is exactly the average of our own 96x96 frame."""
    np.testing.assert_array_equal(drawn(states[0], 64, exact), average_64(drawn(states[0], 96, exact)))


def test_average_reference() -> None:
    """The reference itself, on a frame small enough to do by hand: columns 0, 90, 180 make 30 and 150."""
    frame = np.zeros((1, 96, 96, 3), np.uint8)
    frame[:, :, 1::3], frame[:, :, 2::3] = 90, 180
    assert average_64(frame)[0, 7, :4, 0].tolist() == [30, 150, 30, 150]


@pytest.mark.parametrize("size, exact", [(96, False), (64, False), (96, True), (64, True)])
def test_a_frame_depends_on_its_state_alone(states: tuple[States, np.ndarray], size: int, exact: bool) -> None:
    """Not on N, the order of the lanes, or what was drawn before."""
    states = states[0]
    count = len(states[1].time)
    expected = drawn(states, size, exact)
    order = np.random.default_rng(0).permutation(count)
    np.testing.assert_array_equal(drawn(permuted(states, order), size, exact), expected[order])
    painter = Painter(size, exact)
    for lane in np.random.default_rng(1).integers(count, size=60):  # one lane at a time, after any other
        np.testing.assert_array_equal(painter.draw(*states, lane), expected[lane])
    assert not painter.scratch.change.any()  # nothing is left for the next frame
    assert painter.canvas is None or not painter.canvas.mixed[:96, :96].any()


def test_drawing_changes_no_state(states: tuple[States, np.ndarray]) -> None:
    """Tracks and cars are read only."""
    before = permuted(states[0], np.arange(len(states[1])))
    drawn(states[0], 96)
    for part, copy in zip(states[0], before, strict=True):
        for name, array in part._asdict().items():
            np.testing.assert_array_equal(array, getattr(copy, name), err_msg=name)


def bar(surface: pygame.Surface) -> np.ndarray:
    """The bar of a window, shrunk as Gymnasium shrinks it: (12,96,3)."""
    return pygame.surfarray.array3d(pygame.transform.smoothscale(surface, (96, 96))).transpose(1, 0, 2)[84:]


@pytest.mark.parametrize(
    "score", [0, 7, -0.3, -7, 0.5, 1.5, 117, 471, 990.4, 999.6, 1071, -99, -100, -999.6, 1111, 12345.6, -10000, 123456]
)
def test_score_is_exactly_the_fonts(states: tuple[States, np.ndarray], score: float) -> None:
    """Digits, signs, kerning and the range beyond the table, against pygame's font."""
    tracks, cars = permuted(states[0], np.array([0]))
    cars.reward[:] = score
    for quiet in (cars.velocity, cars.omega, cars.joint_angle, cars.spin):
        quiet[:] = 0
    surface = pygame.Surface((1000, 800))
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    text = font.render(f"{score:04.0f}", True, (255, 255, 255), (0, 0, 0))
    place = text.get_rect()
    place.center = (60, 800 - 800 * 2.5 / 40.0)
    surface.blit(text, place)
    for exact in (False, True):
        np.testing.assert_array_equal(drawn((tracks, cars), 96, exact)[0, 84:], bar(surface))


def test_indicators_are_gymnasiums(states: tuple[States, np.ndarray]) -> None:
    """Speed, wheels, steering and gyroscope of either sign, also where a bar leaves the black part or the window."""
    tracks, cars = permuted(states[0], np.array([0]))
    rng = np.random.default_rng(2)
    for scale in (0.00003, 0.3, 1.0, 1.0, 1.0, 1.0, 6.0):
        cars.velocity[0, 0] = scale * rng.normal(0, 40, 2)
        cars.omega[0] = scale * rng.normal(0, 100, 4)
        cars.joint_angle[0] = scale * rng.normal(0, 0.2, 4)
        cars.spin[0, 0] = scale * rng.normal(0, 3)
        cars.reward[:] = 0.0
        official = types.SimpleNamespace(surf=pygame.Surface((1000, 800)))
        wheels = [types.SimpleNamespace(omega=omega, joint=None) for omega in cars.omega[0].tolist()]
        wheels[0].joint = types.SimpleNamespace(angle=float(cars.joint_angle[0, 0]))
        hull = types.SimpleNamespace(
            linearVelocity=cars.velocity[0, 0].tolist(), angularVelocity=float(cars.spin[0, 0])
        )
        official.car = types.SimpleNamespace(wheels=wheels, hull=hull)
        car_racing.CarRacing._render_indicators(official, 1000, 800)
        theirs = bar(official.surf)[:, 12:]
        assert np.abs(drawn((tracks, cars), 96)[0, 84:, 12:].astype(int) - theirs).max() <= 2
        np.testing.assert_array_equal(drawn((tracks, cars), 96, exact=True)[0, 84:, 12:], theirs)


def test_video_is_gymnasiums(states: tuple[States, np.ndarray]) -> None:
    """rgb_array with skid marks, pixel for pixel; the window's size for "human"."""
    env = car_racing.CarRacing(render_mode="rgb_array")
    env.reset(seed=3)
    env._render = lambda mode: None  # drawing is slow: only the last state is wanted
    for _ in range(80):
        env.step(np.array([0.9, 1.0, 0.0], np.float32))
    del env._render
    assert len(env.car.particles) > 2
    tracks, cars = allocate(1)
    copy_state(env, tracks, cars, 0)
    np.testing.assert_array_equal(draw_video(tracks, cars, 0), env.render())
    assert draw_video(tracks, cars, 0, size=(1000, 800)).shape == (800, 1000, 3)
    marked, marks = draw_video(tracks, cars, 0), int(cars.skid_total[0])
    cars.skid_total[0] = 0
    assert (draw_video(tracks, cars, 0) != marked).any()
    cars.skid_total[0] = marks
    cars.angle[0, 0] = np.nan  # where Gymnasium's drawing raises
    assert not draw_video(tracks, cars, 0).any()
