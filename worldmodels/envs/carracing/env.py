"""Gymnasium's CarRacing-v3 as an environment of one car, and what it shares with that of many (vector_env.py).

Legend: N lanes (cars side by side, each on its own track), S the frame's side in pixels (96 or 64). An observation is a
frame uint8 (S,S,3), or what the options make of it: (S,S) in grey, or the state vector float32 (D,).

`batch.Batch` drives N lanes; `CarRacing` gives it the interface of `gymnasium.Env`, `CarRacingVectorEnv` that of
`gymnasium.vector`: one rule, one copy. docs/carracing.md says how closely all this follows Gymnasium 1.4.0 and where it
does not.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils import EzPickle

from worldmodels.envs.actions import car_space
from worldmodels.envs.carracing.batch import Batch, Start, View, draw_colors
from worldmodels.envs.carracing.state import FPS, WINDOW_H, WINDOW_W, Rules
from worldmodels.envs.carracing.video import import_pygame
from worldmodels.errors import UserError

METADATA: dict[str, Any] = {"render_modes": ["human", "rgb_array", "state_pixels"], "render_fps": FPS}

# What Gymnasium's `step` makes of the actions 0 nothing, 1 right, 2 left, 3 gas, 4 brake: steer, gas, brake.
DISCRETE_CONTROLS = np.array([[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]])


class Window:
    """The window of render mode "human": pygame's, 1000×800, 50 frames a second, as Gymnasium opens it."""

    def __init__(self) -> None:
        self.pygame = pygame = import_pygame()
        pygame.display.init()
        self.screen = pygame.display.set_mode((WINDOW_W, WINDOW_H))
        self.clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> None:
        """Show uint8 (800,1000,3) and wait for the frame's turn."""
        self.pygame.event.pump()
        self.clock.tick(FPS)
        self.pygame.surfarray.blit_array(self.screen, picture.transpose(1, 0, 2))
        self.pygame.display.flip()

    def close(self) -> None:
        """Close the window."""
        self.pygame.display.quit()
        self.pygame.quit()


def rules_of(lap_complete_percent: float, lap_rule: str) -> Rules:
    if lap_rule not in ("gymnasium", "crossing"):
        raise UserError(f'lap_rule is {lap_rule!r}: give "gymnasium" or "crossing" (any crossing of the start line).')
    return Rules(float(lap_complete_percent), lap_rule == "crossing")


def pedals(actions: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Continuous actions (N,3 or more) of any numeric dtype → float64 (N,3), as Gymnasium reads an action.

    Gymnasium clips the gas and leaves steering and brake as they are: so do we (in `physics.step`).

    Raises:
        IndexError, TypeError, ValueError: as Gymnasium does for too few numbers, too many axes, text.
        ValueError: a gas that is NaN in a lane of `active` bool (N,). Gymnasium's car vanishes into NaN there and its
            drawing raises ValueError; any other NaN or infinity drives.
    """
    if actions.ndim < 2 or actions.shape[1] < 3:
        raise IndexError(f"an action is steer, gas, brake: got the shape {actions.shape[1:]}, expected (3,)")
    if actions.ndim > 2:
        raise TypeError(f"an action is three numbers: got the shape {actions.shape[1:]}, expected (3,)")
    controls = actions[:, :3].astype(np.float64)
    if (strange := active & np.isnan(controls[:, 1])).any():
        raise ValueError(f"the gas is NaN in lanes {np.flatnonzero(strange).tolist()}")
    return controls


def refuse_invalid(action: Any, space: gymnasium.Space) -> None:
    if not space.contains(action):
        raise InvalidAction(f"you passed the invalid action `{action}`. The supported action_space is `{space}`")


# ------------------------------------------------------------------------------------------ environments


class CarRacing(gymnasium.Env[np.ndarray, Any], EzPickle):
    """CarRacing-v3 as Gymnasium's, for one car: a batch of one. `gymnasium.make` makes it.

    Arguments, spaces, rewards, endings, info and reset options as Gymnasium's CarRacing, plus the arguments from
    `obs_size` on and the reset options of `CarRacingVectorEnv`. Stepping on after an ending goes on driving, as
    Gymnasium's does.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        obs_size: int = 96,
        num_threads: int | None = None,
        *,
        frames: str = "fast",
        observation: str = "pixels",
        frame_skip: int = 1,
        hud: bool = True,
        grayscale: bool = False,
        track_seed: int | Sequence[int] | None = None,
        telemetry: bool = False,
        lap_rule: str = "gymnasium",
    ):
        EzPickle.__init__(
            self, render_mode, verbose, lap_complete_percent, domain_randomize, continuous, obs_size, num_threads,
            frames=frames, observation=observation, frame_skip=frame_skip, hud=hud, grayscale=grayscale,
            track_seed=track_seed, telemetry=telemetry, lap_rule=lap_rule,
        )  # fmt: skip
        view = View(observation, frames, obs_size, hud, grayscale)
        rules = rules_of(lap_complete_percent, lap_rule)
        self.batch = Batch(1, domain_randomize, rules, view, frame_skip, track_seed, num_threads)
        self.render_mode = render_mode
        self.verbose = verbose
        self.continuous = continuous
        self.action_space = car_space() if continuous else spaces.Discrete(len(DISCRETE_CONTROLS))
        self.telemetry = telemetry
        self.observation_space = view.space
        if domain_randomize:
            draw_colors(self.np_random, self.batch.tracks, 0)
        self._started = self._closed = False
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; returns the observation and an info, empty without `telemetry`.

        Raises:
            gymnasium.error.Error: a seed that is no natural number.
            UserError: a reset option of ours has a value that means nothing.
        """
        if self._closed:
            raise ClosedEnvironmentError("reset() after close(): make a new environment.")
        start = Start.from_options(options)
        super().reset(seed=seed)
        self.batch.begin(self.batch.everyone, [self.np_random], start)
        self._started = True
        if self.verbose:
            print(f"Track generation: {self.batch.tracks.count[0]}-tiles track")
        if self.render_mode == "human":
            self.render()
        return self.batch.frames[0].copy(), self._telemetry()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step: the action is float (3,) steer, gas, brake, or an int, or None (as in Gymnasium: nothing is paid).

        Raises:
            ResetNeeded, ClosedEnvironmentError: before the first reset, after close.
            AttributeError, IndexError, TypeError, ValueError, InvalidAction: an action that Gymnasium refuses too.
        """
        if self._closed:
            raise ClosedEnvironmentError("step() after close(): make a new environment.")
        if not self._started:
            raise ResetNeeded("step() before reset(): reset the environment first.")
        batch = self.batch
        reward, terminated = 0.0, False
        if action is None:
            batch.coast(batch.everyone)
        else:
            rewards, endings = batch.advance(self._controls(action), batch.everyone)
            reward, terminated = float(rewards[0]), bool(endings[0])
        if self.render_mode == "human":
            self.render()
        info = self._telemetry() | (batch.info(0) if terminated else {})
        return batch.frames[0].copy(), reward, terminated, False, info

    def _telemetry(self) -> dict[str, Any]:
        return self.batch.telemetry(0) if self.telemetry else {}

    def _controls(self, action: Any) -> np.ndarray:
        """An action as given → steer, gas, brake float64 (1,3)."""
        if not self.continuous:
            refuse_invalid(action, self.action_space)
            return DISCRETE_CONTROLS[[int(action)]]
        return pedals(action.astype(np.float64)[None], self.batch.everyone)

    def render(self) -> np.ndarray | None:
        """The picture of `render_mode`: uint8 (400,600,3) for "rgb_array", (S,S,3) for "state_pixels".

        None for "human", which shows a window, and before the first reset.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode: make the environment with render_mode="rgb_array".')
            return None
        assert self.render_mode in METADATA["render_modes"], f"unknown render mode {self.render_mode!r}"
        if not self._started:
            return None
        picture = self.batch.picture(0, self.render_mode)
        if self.render_mode != "human":
            return picture
        self._window = self._window or Window()
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window; calling it again does nothing."""
        self._closed = True
        if self._window is not None:
            self._window.close()
            self._window = None
