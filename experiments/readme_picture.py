"""The README's picture: a drive as V sees it, V's reconstruction, and M's prediction of the same frame.

python -m experiments.readme_picture --logdir RUN --path docs/images/drive.webp
"""

import argparse
import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from worldmodels.agent import load
from worldmodels.cli import as_a_command
from worldmodels.envs import World, actions_in
from worldmodels.envs.seeds import HELD_OUT
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive
from worldmodels.runs.files import write_atomically
from worldmodels.show import pictures
from worldmodels.show.spectator import Glimpse, Spectator, lane, pace
from worldmodels.workers.places import limited_threads

GYMNASIUM_S = World("CarRacing-v3")


def readme_picture(
    logdir: Path, path: Path, *, world: World = GYMNASIUM_S, seed: int = HELD_OUT, first: int = 60, steps: int = 400
) -> None:
    """Write what the README shows: a drive as V sees it, V's reconstruction, and M's prediction of the same frame.

    Args:
        logdir: a run with V, M and C.
        path: the animation to write, .webp or .gif, below 3 MB; `reconstructions.png` is written beside it.
        world: where to drive.
        seed: the episode.
        first: step at which the animation begins (the camera has come down by 50).
        steps: steps that it shows, of CarRacing every second one: 400 are eight seconds.

    Raises:
        UserError: V, M or C is missing, or the drive ended before `first`.
    """
    seen: list[Glimpse] = []
    agent = load(logdir, actions_in(world))
    with closing(lane(world, first + steps, None)) as lanes, limited_threads(1):  # nothing is drawn for people
        drive(lanes, agent.actions, Spectator(agent, lanes, 1, seen.append), [Episode(seed)])
    if len(seen) <= first:
        raise UserError(f"The drive with seed {seed} ended after {len(seen)} steps: choose another one.")
    labels = ("real", "V's reconstruction", "M's prediction")
    stride, fps = pace(world)
    shown = [
        pictures.panels((now.frame, now.reconstruction, before.prediction), labels)
        for before, now in list(zip(seen, seen[1:], strict=False))[first - 1 :: stride]
    ]
    write_animation(path, shown, fps=fps, most_bytes=3_000_000)
    few = seen[first :: max(1, (len(seen) - first) // 8)][:8]
    grid = [np.concatenate([pictures.fit(frame, 128, 128) for frame in row], axis=1) for row in
            ([now.frame for now in few], [now.reconstruction for now in few])]  # fmt: skip
    pictures.write_png(path.with_name("reconstructions.png"), np.concatenate(grid))


def write_animation(path: Path, pictures: Sequence[np.ndarray], fps: float, most_bytes: int) -> None:
    """Write an endless .gif or .webp, atomically; frames are dropped evenly until it is small enough.

    Args:
        path: ends in .gif or .webp.
        pictures: at least one.
        fps: pictures per second, before any is dropped.
        most_bytes: size it must stay below.
    """
    stride = 1
    while True:
        kept = [Image.fromarray(picture) for picture in pictures[::stride]]
        with io.BytesIO() as buffer:
            _animate(buffer, kept, path.suffix, duration=round(1000 * stride / fps))
            data = buffer.getvalue()
        if len(data) < most_bytes or len(kept) == 1:
            break
        stride += 1
    write_atomically(path, data)


def _animate(file: io.BytesIO, pictures: list[Image.Image], suffix: str, duration: int) -> None:
    """Encode an endless animation, `duration` milliseconds per picture."""
    rest = pictures[1:]
    if suffix == ".gif":
        palette = pictures[len(pictures) // 2].quantize(128)
        pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    else:
        pictures[0].save(
            file, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, quality=80, method=4
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", type=Path, required=True)
    parser.add_argument("--path", type=Path, required=True)
    said = parser.parse_args()
    readme_picture(said.logdir, said.path)


if __name__ == "__main__":
    with as_a_command():
        main()
