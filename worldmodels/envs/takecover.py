"""Take Cover, the paper's second world: in a room of Doom monsters throw fireballs, and all one can do is step aside.

Legend: N lanes (games side by side, each in an engine of its own), H × W the game's screen in pixels.

`Engine` is one game of ViZDoom as the paper played it; `TakeCover` gives it the interface of `gymnasium.Env`,
`TakeCoverVectorEnv` that of `gymnasium.vector`: one rule, one copy. Every engine is a process of its own, so that the
threads that wait for them here keep all cores busy. docs/takecover.md has the settings and the baselines.
"""

import functools
import itertools
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from numba import njit

from worldmodels.data.policies import STREAMS
from worldmodels.envs import TAKECOVER, describe
from worldmodels.envs.actions import Threshold
from worldmodels.envs.frames import FRAME_SIZE, area_weights
from worldmodels.envs.lanes import FRAMES, Lanes
from worldmodels.envs.seeded import refuse_closed
from worldmodels.errors import UserError
from worldmodels.workers.places import cores

RESOLUTIONS = ("640x480", "400x300", "320x240", "256x192", "160x120")  # pixels of the screen; the first is the paper's
VIEW = 400 / 480  # share of the screen's rows above the status bar (paper's code: rows 0–400 of 480)
SKILL = 4  # the paper's code says 5, which the ViZDoom of its day took as 4
START_TIC = 14  # of an episode's first frame (paper's code)
TIMEOUT = 2100  # steps after which an episode is cut (paper's code); 35 are a second
OLDEST = (1, 3)  # ViZDoom: the one tested; before 1.1 a hit could not be seen
LIVES = 3  # engines that may die in a row

ACTIONS = spaces.Discrete(3)  # 0 none, 1 right, 2 left
ORDER = describe(TAKECOVER).order  # left, none, right
BUTTONS = ([False, False], [False, True], [True, False])  # MOVE_LEFT and MOVE_RIGHT of each action
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 35}


# ---------------------------------------------------------------------------------------------- one game


class Engine:
    """One game of Take Cover in a process of its own, started when it is first needed.

    The screen on which an episode ends is not looked at (ViZDoom hands out zeros): `frame` stays the one before. An
    engine that dies is replaced, and the episode is played again to where it was: nobody notices.

    Raises:
        UserError: no such resolution, ViZDoom missing or too old; later, engines that die again and again.
    """

    def __init__(self, resolution: str):
        if resolution not in RESOLUTIONS:
            raise UserError(f"Take Cover has no resolution {resolution}: choose one of {', '.join(RESOLUTIONS)}.")
        width, height = (int(side) for side in resolution.split("x"))
        self.vizdoom, self.resolution = import_vizdoom(), resolution
        self.deaths = self.vizdoom.ViZDoomErrorException, self.vizdoom.ViZDoomUnexpectedExitException
        self.spans = *spans(round(VIEW * height)), *spans(width)  # of the view above the status bar
        self.pixels, self.shared = np.zeros((height, 3 * width), np.uint8), False
        """uint8 (H, W · 3), the screen; whether it is the memory that the engine draws on"""
        self.frame = np.zeros(FRAMES.shape, np.uint8)
        """uint8 (64, 64, 3): the view above the status bar, as V sees it"""
        self.game: Any = None
        self.seed, self.played = 0, list[int]()  # of this episode: enough to play it again

    @property
    def screen(self) -> np.ndarray:
        """uint8 (H, W, 3), status bar included."""
        return self.pixels.reshape(len(self.pixels), -1, 3)

    def begin(self, seed: int) -> None:
        """Start the episode of this seed (below 2³²); its frames depend on the seed and the actions alone."""
        self.seed, self.played = seed, []
        self._survive()

    def step(self, action: int) -> tuple[float, bool, bool]:
        """One tic → (reward, terminated, truncated)."""
        self.played.append(action)
        try:
            return self._step(action)
        except self.deaths:
            self.close()
            return self._survive(LIVES - 1)

    def close(self) -> None:
        """End the process."""
        if self.game is not None:
            self.game.close()
            self.game = None

    def _survive(self, lives: int = LIVES) -> tuple[float, bool, bool]:
        """All of the episode so far; should the engine die of it, again in a new one."""
        for _ in range(lives):
            try:
                return self._replay()
            except self.deaths:
                self.close()
        raise UserError(
            f"The Doom engine died {LIVES} times in a row (out of memory, or killed from outside): "
            "run the command again with fewer lanes."
        )

    def _replay(self) -> tuple[float, bool, bool]:
        if self.game is None:
            self.game = self._start()
        self.game.set_seed(self.seed)
        self.game.new_episode()
        self._look()
        outcome = (0.0, False, False)
        for action in self.played:
            outcome = self._step(action)
        return outcome

    def _step(self, action: int) -> tuple[float, bool, bool]:
        reward = self.game.make_action(BUTTONS[action])
        if self.game.is_episode_finished():
            dead = self.game.is_player_dead()
            return reward, dead, not dead
        self._look()
        return reward, False, False

    def _look(self) -> None:
        if not self.shared:
            self.pixels = self.game.get_state().screen_buffer.reshape(self.pixels.shape)
        shrink(self.pixels, *self.spans, self.frame)

    def _start(self) -> Any:
        game = self.vizdoom.DoomGame()
        game.load_config(os.path.join(self.vizdoom.scenarios_path, "take_cover.cfg"))
        game.set_screen_resolution(getattr(self.vizdoom.ScreenResolution, f"RES_{self.resolution.upper()}"))
        game.set_screen_format(self.vizdoom.ScreenFormat.RGB24)
        game.set_render_hud(True)
        game.set_render_screen_flashes(True)  # red when hit, as in 2018; today's scenario file says no
        game.set_doom_skill(SKILL)
        game.set_episode_start_time(START_TIC)
        game.set_episode_timeout(TIMEOUT)
        game.set_window_visible(False)
        game.set_doom_config_path(os.devnull)  # instead of _vizdoom.ini in the working directory
        if sys.platform == "linux":
            game.set_vizdoom_path(launcher(os.getpid()))
        with STARTING:
            others = shared_memory()
            game.init()
            pixels = take_over(shared_memory() - others, self.pixels.shape)
        self.shared = np.array_equal(pixels, game.get_state().screen_buffer.reshape(self.pixels.shape))
        if self.shared:
            self.pixels = pixels
        return game


def import_vizdoom() -> Any:
    """The module; UserError when it is missing or too old."""
    install = "`pip install worldmodels-pytorch[doom]`"
    try:
        import vizdoom
    except ImportError:
        raise UserError(f"Take Cover needs ViZDoom: {install}.") from None
    if tuple(int(number) for number in vizdoom.__version__.split(".")[:2]) < OLDEST:
        needed = ".".join(str(number) for number in OLDEST)
        raise UserError(f"Take Cover needs ViZDoom {needed}, and {vizdoom.__version__} is installed: {install}.")
    return vizdoom


STARTING = threading.Lock()  # so that `take_over` meets no engine that has yet to open its memory
LAUNCHER = """#!/bin/sh
'''exec' '{python}' -IS "$0" "$@"
'''
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: SIGKILL when the parent ends
if os.getppid() == {parent}:
    os.chdir({folder!r})  # the engine makes an empty folder _vizdoom where it runs
    os.execv({engine!r}, [{engine!r}, *sys.argv[1:]])
"""


@functools.cache
def launcher(parent: int) -> str:
    """Path of a program that turns into the engine once the kernel has promised to end it with `parent`, this process.

    Without it an engine outlives a parent that is killed. It is a file in memory: there is nothing to clean up.
    """
    engine = str(Path(import_vizdoom().__file__).with_name("vizdoom"))
    text = LAUNCHER.format(python=sys.executable, parent=parent, folder=tempfile.gettempdir(), engine=engine)
    file = os.memfd_create("takecover")
    os.write(file, text.encode())
    return f"/proc/{parent}/fd/{file}"


def shared_memory() -> set[str]:
    """Names of the files in memory that this process shares with its engines; none where there are no such files."""
    maps = Path("/proc/self/maps")
    names = (line.split()[-1] for line in maps.read_text().splitlines()) if maps.exists() else ()
    return {name for name in names if name.startswith("/dev/shm/ViZDoom")}


def take_over(names: set[str], shape: tuple[int, ...]) -> np.ndarray:
    """The screen uint8 (H, W · 3) on which the engine draws that shares these files, read-only; empty without them.

    It is the end of one of them. Read there, it need not be asked of ViZDoom, which copies it twice: a fifth of what a
    tic costs this process. The names go, since all have the files open: they would keep 10 MB an engine after this
    process was killed.
    """
    pixels = np.empty(0, np.uint8)
    for name in names:
        if name.startswith("/dev/shm/ViZDoomSM"):
            pixels = np.asarray(np.memmap(name, np.uint8, "r"))[-math.prod(shape) :].reshape(shape)
        Path(name).unlink(missing_ok=True)
    return pixels


# --------------------------------------------------------------------------------------------- the frame


@functools.cache
def spans(source: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of so many rows or columns of pixels each pixel of a frame has: the first of them, int64 (64,), and their
    shares, float32 (64, k)."""
    weights = area_weights(source, FRAME_SIZE)  # (64, source), few of them above zero
    longest = int((weights > 0).sum(axis=1).max())
    first = np.minimum((weights > 0).argmax(axis=1), source - longest)
    return first, np.take_along_axis(weights, first[:, None] + np.arange(longest), axis=1)


@njit(cache=True, nogil=True)
def shrink(screen, rows, row_weights, columns, column_weights, frame):  # type: ignore[no-untyped-def]
    """Exact area average of a screen uint8 (H, W · 3) into `frame` uint8 (64, 64, 3), rounded half up."""
    line = np.empty(screen.shape[1], np.float32)
    for i in range(frame.shape[0]):
        line[:] = 0.5
        for k in range(row_weights.shape[1]):
            source, weight = screen[rows[i] + k], row_weights[i, k]
            for x in range(line.size):
                line[x] += weight * source[x]
        for j in range(frame.shape[1]):
            pixels = line[3 * columns[j] :]
            red = green = blue = np.float32(0)
            for k in range(column_weights.shape[1]):
                weight = column_weights[j, k]
                red += weight * pixels[3 * k]
                green += weight * pixels[3 * k + 1]
                blue += weight * pixels[3 * k + 2]
            frame[i, j, 0], frame[i, j, 1], frame[i, j, 2] = np.uint8(red), np.uint8(green), np.uint8(blue)


# ------------------------------------------------------------------------------------------ environments


class TakeCover(gymnasium.Env[np.ndarray, np.int64], EzPickle):
    """Take Cover as the paper played it.

    ## Action space
    `Discrete(3)`: 0 none, 1 step right, 2 step left.

    ## Observation space
    uint8 (64, 64, 3): the view above the status bar, by exact area average.

    ## Rewards
    +1 a tic (1/35 s).

    ## Episode end
    Terminated when the player dies; truncated after 2,100 steps (a minute). The observation of the last step repeats
    the one before: the game shows nothing there.

    ## Seeding
    An episode depends on its seed and actions alone, and is that of ViZDoom's own wrapper. All begin with one frame.

    Args:
        resolution: of the game's screen, "640x480" (the paper's) to "160x120": the smaller, the faster. What happens
            does not depend on it, only how finely it is drawn before it is averaged.
        render_mode: "rgb_array": `render()` gives the game's screen, uint8 (H, W, 3).
    """

    metadata = METADATA
    action_space = ACTIONS
    observation_space = FRAMES

    def __init__(self, resolution: str = RESOLUTIONS[0], render_mode: str | None = None):
        EzPickle.__init__(self, resolution, render_mode)
        self.render_mode = render_mode
        self.engine = Engine(resolution)
        self.running = self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ClosedEnvironmentError after `close`."""
        refuse_closed(self.closed, "reset()")
        super().reset(seed=seed)
        self.engine.begin(int(self.np_random.integers(2**32, dtype=np.uint32)))
        self.running = True
        return self.engine.frame.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One tic.

        Raises:
            ResetNeeded, ClosedEnvironmentError: before the first reset or after an episode's end, after `close`.
            InvalidAction: any other action.
        """
        refuse_closed(self.closed, "step()")
        plain = isinstance(action, int | np.integer) and 0 <= action < len(BUTTONS)
        if not plain and action not in self.action_space:  # a check of 30 µs
            raise InvalidAction(f"{action!r} is no action: 0 none, 1 right, 2 left.")
        if not self.running:
            raise ResetNeeded("step() before reset(), or after the episode's end: call reset() first.")
        reward, terminated, truncated = self.engine.step(int(action))
        self.running = not (terminated or truncated)
        return self.engine.frame.copy(), reward, terminated, truncated, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The game's screen uint8 (H, W, 3), or None without a render mode."""
        return self.engine.screen.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """End the engine; calling it again does nothing."""
        self.closed = True
        self.engine.close()


class TakeCoverVectorEnv(Lanes):
    """N lanes of Take Cover, their engines at work side by side; spaces, rewards, endings and seeds are `TakeCover`'s.

    The autoreset mode is DISABLED, and a lane whose episode has ended rests: stepping it changes nothing and pays 0,
    its last frame and flags stay, until `reset(options={"reset_mask": mask})` begins it anew. (Gymnasium's own vector
    environments around `TakeCover` have the other modes.) What a lane returns depends on its seed and actions alone.

    Args:
        num_envs: N.
        resolution, render_mode: as in `TakeCover`.
        num_threads: engines at work at the same time (None: two a core, one of them waiting while its frame is shrunk).
        max_episode_steps: cut (truncate) episodes after so many steps; None leaves it to the game.
        copy: hand out fresh observations; False hands out the buffer that the next call overwrites.
        obs_size, autoreset_mode: 64 and DISABLED, as the pipeline asks every batched environment for.
    """

    def __init__(
        self,
        num_envs: int = 1,
        resolution: str = RESOLUTIONS[0],
        render_mode: str | None = None,
        num_threads: int | None = None,
        max_episode_steps: int | None = None,
        copy: bool = True,
        obs_size: int = FRAME_SIZE,
        autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    ):
        if obs_size != FRAME_SIZE or AutoresetMode(autoreset_mode) != AutoresetMode.DISABLED:
            raise ValueError("lanes of Take Cover have frames of 64×64 and the autoreset mode DISABLED only")

        def lane() -> gymnasium.Env:
            env = TakeCover(resolution, render_mode)
            return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)

        super().__init__([lane] * num_envs, min(num_envs, num_threads or 2 * cores()), copy)


# ---------------------------------------------------------------------------------------------- baselines

Raw = Iterator[float]
"""An endless sequence of numbers in [-1, 1], as M reads them; `Threshold` steps left below -1/3, right above 1/3."""


def collected(name: str) -> Callable[[np.random.Generator], Raw]:
    """What `worldmodels collect --policy NAME` plays here."""
    return lambda rng: (float(vector[0]) for vector in STREAMS[name](Threshold(ORDER), rng))


def sweep(tics: int) -> Callable[[np.random.Generator], Raw]:
    """Left and right in turn for so many tics each, eyes closed."""
    return lambda rng: itertools.cycle([-1.0] * tics + [1.0] * tics)


BASELINES: dict[str, Callable[[np.random.Generator], Raw]] = {
    "random": collected("white"),  # a new output every tic
    "held": collected("held"),
    "stay": lambda rng: itertools.repeat(0.0),
    "left": lambda rng: itertools.repeat(-1.0),
    "legs": collected("legs"),
    **{f"sweep-{tics}": sweep(tics) for tics in (60, 80, 100, 105, 110, 115, 130, 150)},
}
"""Policies without eyes, by name: what a score has to be compared with."""
