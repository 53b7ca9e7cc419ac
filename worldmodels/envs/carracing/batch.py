"""N lanes of CarRacing: where an episode begins, how a step goes, what a frame shows. No rule about when to begin anew.

Legend: N lanes (cars side by side, each on its own track), S the frame's side in pixels (96 or 64).
"""

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from worldmodels.envs.carracing import physics, track
from worldmodels.envs.carracing.render import Renderer, draw_lanes
from worldmodels.envs.carracing.state import PLAYFIELD, VIDEO_H, VIDEO_W, WINDOW_H, WINDOW_W, Cars, Tracks, allocate
from worldmodels.envs.carracing.video import draw_video
from worldmodels.errors import UserError

CORES: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Start:
    """How an episode begins; the defaults are Gymnasium's reset.

    The generator's draws for `tile` and `speed` come after the track's, so that a seed means the same track whatever
    the start.
    """

    tile: int | None = 0
    """Tile the car stands on, counted around the loop (modulo its length); None draws one."""
    speed: tuple[float, float] = (0.0, 0.0)
    """Units/s along the road: drawn between the two where they differ."""
    zoomed: bool = False
    """Begin at t = 1 s, past the camera's zoom."""
    randomize: bool = True
    """Draw new colours (Gymnasium's option; counts only with `domain_randomize`)."""

    @classmethod
    def from_options(cls, options: Any) -> "Start":
        """Read `reset`'s options: "randomize" (Gymnasium's) and "start", "speed", "zoomed" (ours).

        Raises:
            UserError: one of ours has a value that means nothing.
        """
        if not isinstance(options, dict):
            return cls()
        tile = options.get("start", 0)
        if tile == "random":
            tile = None
        elif isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
            raise UserError(f'The reset option "start" is {tile!r}: give "random" or the index of a tile.')
        speed = options.get("speed", 0.0)
        try:
            low, high = speed if isinstance(speed, (tuple, list)) else (speed, speed)
            low, high = float(low), float(high)
        except (TypeError, ValueError):
            low = high = math.nan
        if not 0 <= low <= high < math.inf:
            raise UserError(f'The reset option "speed" is {speed!r}: give units/s, or (lowest, highest).')
        return cls(tile, (low, high), bool(options.get("zoomed", False)), bool(options.get("randomize", True)))


def draw_colors(generator: np.random.Generator, tracks: Tracks, lane: int) -> None:
    """Gymnasium's `_reinit_colors`: road, background and grass at random."""
    tracks.road_color[lane] = generator.uniform(0, 210, size=3)
    tracks.bg_color[lane] = generator.uniform(0, 210, size=3)
    tracks.grass_color[lane] = tracks.bg_color[lane]
    tracks.grass_color[lane, generator.integers(3)] += 20


class Batch:
    """N lanes: their tracks, cars and frames, without any rule about when an episode begins anew."""

    def __init__(
        self, num_envs: int, lap_complete_percent: float, domain_randomize: bool, obs_size: int,
        num_threads: int | None,
    ):  # fmt: skip
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}: at least one lane is needed.")
        if obs_size not in (64, 96):
            raise UserError(f"obs_size is {obs_size}: frames are 96 (Gymnasium's) or 64 pixels wide.")
        if num_threads is not None and num_threads < 1:
            raise UserError(f"num_threads is {num_threads}: give at least 1, or None for all cores.")
        self.num_envs = num_envs
        self.num_threads = min(num_threads or CORES, CORES, num_envs)
        self.lap_complete_percent = float(lap_complete_percent)
        self.domain_randomize = domain_randomize
        self.tracks: Tracks
        self.cars: Cars
        self.tracks, self.cars = allocate(num_envs)
        with _compile_notice("renderer"):
            self.renderers = [
                Renderer(1, obs_size) for _ in range(self.num_threads)
            ]  # one thread's working memory each
        self.frames = np.zeros((num_envs, obs_size, obs_size, 3), np.uint8)
        self.everyone = np.ones(num_envs, np.bool_)

    def begin(self, lanes: np.ndarray, generators: Sequence[np.random.Generator], start: Start) -> None:
        """Begin an episode in `lanes` bool (N,): new track, car at the start, Gymnasium's step without action."""
        with _compile_notice("begin"):
            for lane in np.flatnonzero(lanes).tolist():
                generator = generators[lane]
                if self.domain_randomize and start.randomize:
                    draw_colors(generator, self.tracks, lane)
                track.generate(generator, self.tracks, lane)
                tile = generator.integers(self.tracks.count[lane]) if start.tile is None else start.tile
                low, high = start.speed
                speed = generator.uniform(low, high) if low < high else low
                physics.place(self.tracks, self.cars, lane, int(tile) % self.tracks.count[lane], speed)
                if start.zoomed:
                    self.cars.time[lane] = 1.0
            self.coast(lanes)

    def coast(self, lanes: np.ndarray) -> None:
        """Gymnasium's `step(None)` in `lanes` bool (N,): the pedals stay, time passes, nothing is paid."""
        cars = self.cars
        held = np.stack([-cars.steer[:, 0], cars.gas[:, 2], cars.brake[:, 0]], axis=1)
        self._share(held, lanes, paid=False)

    def advance(
        self, controls: np.ndarray, lanes: np.ndarray, copy: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step of `lanes` bool (N,) with steer, gas, brake float64 (N,3).

        Returns rewards float64 (N,) and terminated bool (N,); lanes left out get 0 and False. The frames of all lanes
        are also written to `copy`, uint8 (N,S,S,3): two threads do in half the time what `frames.copy()` does in one.
        """
        with _compile_notice("advance"):
            return self._share(controls, lanes, paid=True, copy=copy)

    def _share(
        self, controls: np.ndarray, lanes: np.ndarray, paid: bool, copy: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Step and draw `lanes`, as many of them on each thread; this thread works too."""
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        rows = self.frames.reshape(self.num_envs, self.frames.shape[1], -1)
        chosen = np.flatnonzero(lanes)

        def work(thread: int) -> None:
            first, last = thread * len(chosen) // threads, (thread + 1) * len(chosen) // threads
            _advance_lanes(
                self.tracks, self.cars, controls, chosen[first:last], self.lap_complete_percent, paid,
                self.renderers[thread].tables, self.renderers[thread].scratch, rows, rewards, terminated,
            )  # fmt: skip
            if copy is not None:
                mine = slice(chosen[first] if thread else 0, chosen[last] if thread < threads - 1 else self.num_envs)
                copy[mine] = self.frames[mine]

        threads = max(1, min(self.num_threads, len(chosen)))
        others = [_pool(os.getpid()).submit(work, thread) for thread in range(1, threads)]
        work(0)
        for other in others:
            other.result()
        return rewards, terminated

    def info(self, lane: int) -> dict[str, Any]:
        """Gymnasium's info of a lane whose episode has just terminated."""
        x, y = self.cars.position[lane, 0].tolist()
        return {"lap_finished": max(abs(x), abs(y)) <= PLAYFIELD}

    def picture(self, lane: int, mode: str) -> np.ndarray:
        """What `render()` answers: uint8 (400,600,3), or (S,S,3) for "state_pixels", or (800,1000,3) for "human"."""
        with _compile_notice(mode):
            if mode == "state_pixels":
                only = np.zeros(self.num_envs, np.bool_)
                only[lane] = True
                frames = np.empty_like(self.frames)
                self.renderers[0].draw(self.tracks, self.cars, only, frames)
                return frames[lane].copy()
            size = (WINDOW_W, WINDOW_H) if mode == "human" else (VIDEO_W, VIDEO_H)
            return draw_video(self.tracks, self.cars, lane, size=size)


@njit(cache=True, nogil=True)
def _advance_lanes(
    tracks, cars, controls, lanes, lap_complete_percent, paid, tables, scratch, rows, rewards, terminated
):  # fmt: skip
    """One thread's step: move the cars of `lanes` int64 (L,), draw them into rows, uint8 (N,S,3S), and pay."""
    mine = np.zeros(len(rows), np.bool_)
    mine[lanes] = True
    physics._step_serially(tracks, cars, controls, lanes, lap_complete_percent)
    draw_lanes(tracks, cars, mine, tables, scratch, rows, 0, 1)
    if paid:
        physics._settle(tracks, cars, mine, rewards, terminated)


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process (a forked child has none of its parent's, so it gets its own).

    Threads rather than numba's `prange`: OpenMP would end a child that was forked after its first use.
    """
    return ThreadPoolExecutor(CORES, thread_name_prefix="carracing")


NO_KERNELS = ("__init__", "env", "video")  # files that neither hold kernels nor constants of them


def forget_stale_kernels() -> None:
    """Drop compiled kernels that are older than any source file of this package.

    numba's cache (`cache=True`) notices a change of a kernel's own file, but not of the files whose functions it calls:
    after an update it would go on driving with the old ones.
    """
    sources = [source for source in Path(__file__).parent.glob("*.py") if source.stem not in NO_KERNELS]
    newest = max(source.stat().st_mtime for source in sources)
    for index in Path(str(physics.off_playfield.stats.cache_path)).glob("*.nbi"):
        with suppress(FileNotFoundError):  # another process was quicker
            if index.stat().st_mtime < newest:
                index.unlink()


_compiled: set[str] = set()


@contextmanager
def _compile_notice(work: str) -> Iterator[None]:
    """Say what is being waited for when the first call of `work` compiles instead of loading numba's cache."""
    if work in _compiled:
        yield
        return
    notice = threading.Timer(
        2.0, print, ["compiling the simulator, once, ~30 s"], {"file": sys.stderr, "flush": True}
    )  # fmt: skip
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
    _compiled.add(work)
