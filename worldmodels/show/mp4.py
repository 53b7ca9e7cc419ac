"""Videos that any browser plays: H.264 in an mp4, written through the ffmpeg of the `imageio-ffmpeg` wheel."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from worldmodels.errors import UserError
from worldmodels.runs.files import replacing

MOST_BITS = 1500  # kbit per second: a drive of 1,000 steps, 20 s at 50 steps per second, stays under 4 MB


@contextlib.contextmanager
def mp4_writer(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends a frame; the file appears, complete, when the `with` block ends well.

    Frames are uint8 (height, width, 3), of one size; an odd side is shown with its last pixels twice. None is kept in
    memory, and a block that raises leaves nothing behind.

    Args:
        path: the mp4 to write (its folder is made).
        fps: frames per second.

    Raises:
        UserError: there is no ffmpeg, or it could not write all of the video.
    """
    encoder: Generator[None, np.ndarray, None] | None = None
    shape: tuple[int, ...] = ()
    frames = 0
    failed = f"ffmpeg could not write {path}: see what it says above, and whether the disk is full."

    def add(frame: np.ndarray) -> None:
        nonlocal encoder, shape, frames
        if encoder is None:
            shape = frame.shape
            encoder = _start_encoder(temporary, fps, *_even(frame).shape[:2])
            open_encoder.callback(encoder.close)  # which waits for ffmpeg, and does not say how it ended
        assert frame.dtype == np.uint8 and frame.shape == shape, f"{frame.dtype} {frame.shape} after {shape}"
        try:
            encoder.send(np.ascontiguousarray(_even(frame)))
        except OSError as error:
            raise UserError(failed) from error
        frames += 1

    with replacing(path) as temporary:
        with contextlib.ExitStack() as open_encoder:
            yield add
        if encoder is not None and _frames_in(temporary) != frames:
            raise UserError(failed)


def _frames_in(path: Path) -> int:
    """How many frames a video has; 0 where it is none."""
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path.absolute()))[0]
    except RuntimeError:
        return 0


def require_ffmpeg() -> None:
    """UserError where there is none."""
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(
            "There is no ffmpeg to write a video: install one, or leave --video and --render out."
        ) from error


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame with even sides: yuv420p halves the colours' resolution."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frame


def _start_encoder(path: Path, fps: float, height: int, width: int) -> Generator[None, np.ndarray, None]:
    """An ffmpeg process that takes frames through `send`."""
    require_ffmpeg()
    limits = ["-crf", "23", "-maxrate", f"{MOST_BITS}k", "-bufsize", f"{2 * MOST_BITS}k"]
    encoder: Generator[None, np.ndarray, None] = imageio_ffmpeg.write_frames(
        str(path.absolute()),  # ffmpeg takes `-run` for an option and `run:1` for a protocol
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",  # the one pixel format that every browser decodes
        macro_block_size=2,
        quality=None,
        output_params=[*limits, "-movflags", "+faststart", "-f", "mp4"],  # plays before all of it is there
    )
    next(encoder)
    return encoder
