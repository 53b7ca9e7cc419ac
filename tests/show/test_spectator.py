"""The README's picture shows the drive that it says it shows."""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from PIL import Image

from experiments.readme_picture import readme_picture
from tests.commands.test_evaluate import play
from tests.helpers.runs import save_agent
from tests.helpers.toy import Toy
from worldmodels import agent
from worldmodels.envs import World, actions_in
from worldmodels.show import spectator


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_the_readme_picture_shows_the_drive(tmp_path: Path, suffix: str) -> None:
    logdir = save_agent(tmp_path / "run", actions=3)
    picture = tmp_path / "images" / f"drive{suffix}"
    readme_picture(logdir, picture, seed=5, first=4, steps=8)
    with Image.open(picture) as animation:
        assert (animation.n_frames, animation.size) == (4, (600, 218))  # type: ignore[attr-defined]
    assert picture.stat().st_size < 3_000_000
    _, _, frames = play(logdir, "CarRacing-v3", 5, max_steps=12)
    with Image.open(picture.with_name("reconstructions.png")) as image:
        grid = np.asarray(image)
    assert grid.shape == (256, 8 * 128, 3)
    np.testing.assert_array_equal(grid[:128:2, :128:2], frames[4])


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (np.full((7, 9, 3), 5, np.uint8), (7, 9, 3)),
        (np.full((7, 9), 5, np.uint8), (7, 9, 3)),
        (np.full((7, 9, 1), 5, np.uint8), (7, 9, 3)),
        (np.full((7, 9, 4), 5, np.uint8), (7, 9, 3)),
    ],
)
def test_grey_and_transparent_views_become_pictures(view: np.ndarray, shape: tuple[int, ...]) -> None:
    picture = spectator.as_picture(view)
    assert picture is not None and picture.shape == shape and (picture == 5).all()


@pytest.mark.parametrize(
    "view", [None, [], np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 7), np.uint8)]
)
def test_what_is_no_picture_is_not_shown(view: object) -> None:
    assert spectator.as_picture(view) is None


class Blind(Toy):
    """Its metadata promises nothing, and it draws nothing for people."""

    metadata = {"render_modes": None, "render_fps": None}  # type: ignore[assignment]


class Speechless(Toy):
    """It promises pictures, and gives none."""

    def render(self):  # type: ignore[no-untyped-def]
        asked = sys._getframe(1).f_code.co_name not in ("step", "reset")  # for people: the toy observes its own picture
        return None if asked else super().render()


@pytest.mark.parametrize("kind", [Blind, Speechless])
def test_an_environment_that_draws_nothing_is_filmed_as_v_sees_it(tmp_path: Path, kind: type[Toy]) -> None:
    name = f"worldmodels-tests/{kind.__name__}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, kind, max_episode_steps=4)
    driver = agent.load(str(save_agent(tmp_path / "run", actions=3)), actions_in(World(name)))
    seen: list[spectator.Glimpse] = []
    spectator.watch(driver, World(name), 3, seen.append)
    assert len(seen) == 4 and spectator.pace(World(name)) == (1, 30)
    for now in seen:
        np.testing.assert_array_equal(now.view, now.frame)


@pytest.mark.parametrize(
    ("says", "pace"),
    [(50, (2, 25)), (35, (1, 35)), (60.0, (2, 30)), (10, (1, 10))]
    + [(nonsense, (1, 30)) for nonsense in (None, 0, -5, float("nan"), float("inf"), "fast")],
)
def test_a_video_runs_as_fast_as_its_world(says, pace, monkeypatch: pytest.MonkeyPatch) -> None:
    world = SimpleNamespace(metadata={"render_fps": says}, close=lambda: None)
    monkeypatch.setattr(spectator, "make_one", lambda _: world)
    assert spectator.pace(World("any")) == pace


def test_without_pygame_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    assert not spectator.has_display()
