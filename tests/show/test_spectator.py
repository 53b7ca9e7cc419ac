"""The README's picture shows the drive that it says it shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.test_evaluate import play, save_agent
from worldmodels.show import spectator


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_the_readme_picture_shows_the_drive(tmp_path: Path, suffix: str) -> None:
    logdir = save_agent(tmp_path / "run", actions=3)
    picture = tmp_path / "images" / f"drive{suffix}"
    spectator.readme_picture(logdir, picture, seed=5, first=4, steps=8)
    with Image.open(picture) as animation:
        assert (animation.n_frames, animation.size) == (4, (600, 218))  # type: ignore[attr-defined]
    assert picture.stat().st_size < 3_000_000
    _, _, frames = play(logdir, "CarRacing-v3", 5, max_steps=12)
    with Image.open(picture.with_name("reconstructions.png")) as image:
        grid = np.asarray(image)
    assert grid.shape == (256, 8 * 128, 3)
    np.testing.assert_array_equal(grid[:128:2, :128:2], frames[4])
