"""N lanes of CarRacing: where an episode begins, how a step goes, what a frame shows. No rule about when to begin anew.

Legend: N lanes (cars side by side, each on its own track), S the frame's side in pixels (96 or 64).
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numba
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numba import njit

from worldmodels.envs.carracing import physics, track
from worldmodels.envs.carracing.observe import STATE_SIZE, write_state
from worldmodels.envs.carracing.render import Painter, draw_lane, write_frame, write_grey
from worldmodels.envs.carracing.state import WINDOW_H, WINDOW_W, Rules, Tracks, allocate
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
    track_seeds: tuple[int, ...] = ()
    """Seeds of the tracks, one for all lanes or one per lane; none: the next track of the lane's own generator."""

    @classmethod
    def from_options(cls, options: Any, lanes: int = 1) -> "Start":
        """Read `reset`'s options: "randomize" (Gymnasium's) and "start", "speed", "zoomed", "track_seed" (ours).

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
        track_seeds: tuple[int, ...] = ()
        if options.get("track_seed") is not None:
            track_seeds = read_track_seeds(options["track_seed"], 'reset option "track_seed"')
            if len(track_seeds) not in (1, lanes):
                count = len(track_seeds)
                raise UserError(
                    f'The reset option "track_seed" lists {count} tracks: give one, or one for each of {lanes}.'
                )
        zoomed, randomize = bool(options.get("zoomed", False)), bool(options.get("randomize", True))
        return cls(tile, (low, high), zoomed, randomize, track_seeds)


def read_track_seeds(value: Any, name: str) -> tuple[int, ...]:
    """One seed of a track, or several.

    Raises:
        UserError: something else than natural numbers.
    """
    seeds = tuple(value) if isinstance(value, (list, tuple, range, np.ndarray)) else (value,)
    natural = all(isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not natural:
        raise UserError(f"The {name} is {value!r}: give the seed of a track, a natural number, or a list of them.")
    return tuple(int(seed) for seed in seeds)


def draw_colors(generator: np.random.Generator, tracks: Tracks, lane: int) -> None:
    """Gymnasium's `_reinit_colors`: road, background and grass at random."""
    tracks.road_color[lane] = generator.uniform(0, 210, size=3)
    tracks.bg_color[lane] = generator.uniform(0, 210, size=3)
    tracks.grass_color[lane] = tracks.bg_color[lane]
    tracks.grass_color[lane, generator.integers(3)] += 20


@dataclass(frozen=True)
class View:
    """What an environment shows of a lane; the defaults are Gymnasium's frame, drawn fast."""

    observation: str = "pixels"
    """"pixels", or "state": the vector of `observe.write_state`."""
    frames: str = "fast"
    """"exact" draws Gymnasium's every pixel, "fast" what differs from it by a fraction of a grey level."""
    obs_size: int = 96
    """96, or 64 for the 96×96 frame averaged by area."""
    hud: bool = True
    """False leaves the bar with score and indicators black."""
    grayscale: bool = False
    """One channel: Gymnasium's GrayscaleObservation of the frame."""

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            UserError: an unknown mode, or options that contradict each other.
        """
        if self.observation not in ("pixels", "state"):
            raise UserError(f'observation is {self.observation!r}: give "pixels" or "state".')
        if self.frames not in ("fast", "exact"):
            raise UserError(f'frames is {self.frames!r}: give "fast" or "exact" (Gymnasium\'s every pixel).')
        if self.obs_size not in (64, 96):
            raise UserError(f"obs_size is {self.obs_size}: frames are 96 (Gymnasium's) or 64 pixels wide.")
        framed = (self.frames, self.obs_size, self.hud, self.grayscale) != ("fast", 96, True, False)
        if self.observation == "state" and framed:
            raise UserError('observation="state" shows no frame: leave frames, obs_size, hud and grayscale out.')

    @property
    def space(self) -> spaces.Box:
        """Of one observation: uint8 (S,S,3) or (S,S), or float32 (D,)."""
        if self.observation == "state":
            return spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        return spaces.Box(0, 255, (self.obs_size, self.obs_size, 3)[: 2 if self.grayscale else 3], np.uint8)

    def painter(self) -> Painter:
        """A thread's painter of coloured frames."""
        return Painter(self.obs_size, self.frames == "exact", self.hud)


GYMNASIUMS, FRAMES = Rules(), View()


class Batch:
    """N lanes: their tracks, cars and observations, without any rule about when an episode begins anew."""

    def __init__(
        self,
        num_envs: int,
        domain_randomize: bool = False,
        rules: Rules = GYMNASIUMS,
        view: View = FRAMES,
        frame_skip: int = 1,
        track_seed: int | Sequence[int] | None = None,
        num_threads: int | None = None,
    ):
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}: at least one lane is needed.")
        if num_threads is not None and num_threads < 1:
            raise UserError(f"num_threads is {num_threads}: give at least 1, or None for all cores.")
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or frame_skip < 1:
            raise UserError(f"frame_skip is {frame_skip!r}: give the steps per action, at least 1.")
        self.num_envs = num_envs
        self.num_threads = min(num_threads or CORES, CORES, num_envs)
        self.domain_randomize = domain_randomize
        self.rules = rules
        self.view = view
        self.frame_skip = frame_skip
        self.track_seeds = () if track_seed is None else read_track_seeds(track_seed, "argument track_seed")
        self.tracks, self.cars = allocate(num_envs)
        self.frames: np.ndarray = np.zeros((num_envs, *view.space.shape), view.space.dtype)
        self.everyone = np.ones(num_envs, np.bool_)

    @cached_property
    def painters(self) -> list[Painter | None]:
        """One per thread, none where no frame is observed; whoever only asks for the spaces does without (0.4 s)."""
        pixels = self.view.observation == "pixels"
        return [self.view.painter() if pixels else None for _ in range(self.num_threads)]

    @cached_property
    def _painter(self) -> Painter:
        """Of `picture`."""
        return self.view.painter()

    def begin(self, lanes: np.ndarray, generators: Sequence[np.random.Generator], start: Start) -> None:
        """Begin an episode in `lanes` bool (N,): new track, car at the start, Gymnasium's step without action."""
        for lane in np.flatnonzero(lanes).tolist():
            generator = generators[lane]
            if self.domain_randomize and start.randomize:
                draw_colors(generator, self.tracks, lane)
            count = track.generate(self._track_generator(lane, generator, start), self.tracks, lane)
            tile = generator.integers(count) if start.tile is None else start.tile
            low, high = start.speed
            speed = generator.uniform(low, high) if low < high else low
            physics.place(self.tracks, self.cars, lane, int(tile) % count, float(speed))
            if start.zoomed:
                self.cars.time[lane] = 1.0
        self.coast(lanes)

    def _track_generator(self, lane: int, generator: np.random.Generator, start: Start) -> np.random.Generator:
        """What a lane's next track is drawn from: its own generator, or a fresh one of the track's seed."""
        if start.track_seeds:
            seed = start.track_seeds[lane % len(start.track_seeds)]
        elif self.track_seeds:
            seed = self.track_seeds[generator.integers(len(self.track_seeds)) if len(self.track_seeds) > 1 else 0]
        else:
            return generator
        return seeding.np_random(seed)[0]

    def coast(self, lanes: np.ndarray) -> None:
        """Gymnasium's `step(None)` in `lanes` bool (N,): the pedals stay, time passes, nothing is paid."""
        cars = self.cars
        self._share(np.stack([-cars.steer, cars.gas, cars.brake], axis=1), lanes, steps=1, paid=False)

    def advance(
        self, controls: np.ndarray, lanes: np.ndarray, copy: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`frame_skip` steps of `lanes` bool (N,), fewer where an episode ends, with steer, gas, brake float64 (N,3).

        Returns rewards float64 (N,), summed, and terminated bool (N,); lanes left out get 0 and False. The frames of
        all lanes are also written to `copy`, of their shape: two threads do in half the time what `frames.copy()` does
        in one.
        """
        return self._share(controls, lanes, self.frame_skip, paid=True, copy=copy)

    def _share(
        self, controls: np.ndarray, lanes: np.ndarray, steps: int, paid: bool, copy: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Step and draw `lanes`, as many of them on each thread; this thread works too."""
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        rows = self.frames.reshape(*self.frames.shape[:2], -1)
        chosen, painters = np.flatnonzero(lanes), self.painters

        def work(thread: int) -> None:
            first, last = thread * len(chosen) // threads, (thread + 1) * len(chosen) // threads
            painter = painters[thread]
            tables, scratch, canvas = (painter.tables, painter.scratch, painter.canvas) if painter else (None,) * 3
            _advance_lanes(
                self.tracks, self.cars, controls, chosen[first:last], self.rules, steps, paid,
                self.view.hud, self.view.grayscale, tables, scratch, canvas, rows, rewards, terminated,
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
        return {"lap_finished": not physics.off_playfield(*self.cars.position[lane, 0].tolist())}

    def telemetry(self, lane: int) -> dict[str, float]:
        """What `info` says of a lane with `telemetry=True`: visited tiles as a share of all, speed in units/s."""
        speed = math.hypot(*self.cars.velocity[lane, 0].tolist())
        return {"progress": float(self.cars.visited_count[lane] / self.tracks.count[lane]), "speed": speed}

    def picture(self, lane: int, mode: str) -> np.ndarray:
        """What `render()` answers: uint8 (400,600,3), or (S,S,3) for "state_pixels", or (800,1000,3) for "human"."""
        if mode == "state_pixels":
            return self._painter.draw(self.tracks, self.cars, lane)
        if mode == "human":
            return draw_video(self.tracks, self.cars, lane, size=(WINDOW_W, WINDOW_H))
        return draw_video(self.tracks, self.cars, lane)


@njit(cache=True, nogil=True)
def _observe(tracks, cars, lane, hud, grayscale, tables, scratch, canvas, out):
    """Write a lane's observation into its rows: uint8 (S,3*S), or (S,S) in grey, or float32 (D,1) without tables."""
    if tables is None:
        write_state(tracks, cars, lane, out[:, 0])
    else:
        draw_lane(tracks, cars, lane, hud, tables, scratch, canvas)
        if grayscale:
            colors = np.empty((out.shape[0], 3 * out.shape[1]), np.uint8)
            write_frame(tables, scratch, colors)
            write_grey(colors, out)
        else:
            write_frame(tables, scratch, out)


@njit(cache=True, nogil=True)
def _advance_lanes(
    tracks, cars, controls, lanes, rules, steps, paid, hud, grayscale, tables, scratch, canvas, rows, rewards,
    terminated,
):  # fmt: skip
    """One thread's part: move the cars of `lanes` int64 (L,) by some steps, observe the last of each, and pay."""
    for step in range(steps):
        physics.move(tracks, cars, controls, lanes, rules)
        for lane in lanes:
            ended = paid and physics.has_ended(tracks, cars, lane)
            if step == steps - 1 or ended:  # what is not shown is not drawn
                _observe(tracks, cars, lane, hud, grayscale, tables, scratch, canvas, rows[lane])
            if paid:
                rewards[lane] += physics.settle(tracks, cars, lane)
                terminated[lane] = ended
        if step < steps - 1:
            lanes = lanes[~terminated[lanes]]


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process (a forked child has none of its parent's, so it gets its own).

    Threads rather than numba's `prange`: OpenMP would end a child that was forked after its first use.
    """
    return ThreadPoolExecutor(CORES, thread_name_prefix="carracing")
