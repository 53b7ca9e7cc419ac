"""Videos: frames of any size, and a sentence where there is no ffmpeg."""

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.show.mp4 import mp4_writer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 65), (33, 41)])
def test_an_odd_side_gets_its_last_pixels_twice(tmp_path: Path, height: int, width: int) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[height // 2 :] = 200
    with mp4_writer(tmp_path / "odd.mp4", 25) as add:
        for _ in range(3):
            add(frame)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "odd.mp4"))
    assert next(reader)["size"] == (width + width % 2, height + height % 2)
    decoded = np.frombuffer(next(reader), np.uint8).reshape(height + height % 2, -1, 3)
    assert np.abs(decoded[:height, :width].astype(int) - frame).mean() < 8
    assert np.abs(decoded[-1].astype(int) - 200).max() < 30


@pytest.mark.parametrize("name", ["-run", "run:1", "100% [x] ü"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mp4_writer(Path(name) / "film.mp4", fps=10) as add:
        add(np.zeros((16, 16, 3), np.uint8))
    assert (tmp_path / name / "film.mp4").stat().st_size > 100


def test_a_missing_ffmpeg_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(UserError, match="no ffmpeg"), mp4_writer(tmp_path / "none.mp4", 25) as add:
        add(np.zeros((48, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("frames", [12, 300])  # ffmpeg fails as it closes the file, or while it is sent frames
def test_a_video_that_was_not_written_whole_is_none(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "film.mp4"
    code = (
        "import resource\nimport numpy as np\nfrom pathlib import Path\nfrom worldmodels.show.mp4 import mp4_writer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\nnoise = np.random.default_rng(0)\n"
        f"with mp4_writer(Path({str(path)!r}), 25) as add:\n"
        f"    for _ in range({frames}): add(noise.integers(256, size=(128, 128, 3), dtype=np.uint8))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "UserError: ffmpeg could not write" in done.stderr and not list(tmp_path.iterdir())
