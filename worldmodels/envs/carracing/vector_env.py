"""Gymnasium's CarRacing-v3 for many cars: autoreset, seeding and infos as `gymnasium.vector.SyncVectorEnv`'s.

Legend: N lanes (cars side by side, each on its own track), S the frame's side in pixels (96 or 64). An observation is a
frame uint8 (S,S,3), or what the options make of it: (S,S) in grey, or the state vector float32 (D,).

`batch.Batch` drives the lanes; docs/carracing.md says how closely all this follows Gymnasium 1.4.0 and where it does
not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from worldmodels.envs.actions import car_space
from worldmodels.envs.carracing.batch import Batch, Start, View, draw_colors
from worldmodels.envs.carracing.state import FPS, Rules
from worldmodels.envs.carracing.video import Window
from worldmodels.envs.seeded import SeededLanes
from worldmodels.errors import UserError

METADATA: dict[str, Any] = {"render_modes": ["human", "rgb_array", "state_pixels"], "render_fps": FPS}

# What Gymnasium's `step` makes of the actions 0 nothing, 1 right, 2 left, 3 gas, 4 brake: steer, gas, brake.
DISCRETE_CONTROLS = np.array([[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]])


class CarRacingVectorEnv(SeededLanes):
    """N lanes of CarRacing-v3 as one `gymnasium.vector` environment; `gymnasium.make_vec` makes it.

    ## Spaces
    Actions, rewards, endings and infos are those of Gymnasium's CarRacing-v3; observations uint8 (N,S,S,3).

    ## Episodes
    `autoreset_mode` is NEXT_STEP (default), SAME_STEP or DISABLED, each as in `gymnasium.vector.SyncVectorEnv`, with
    one difference: in DISABLED mode a lane whose episode has ended rests. Stepping it changes nothing, costs nothing
    and pays 0, its last frame and flags stay, until `reset(options={"reset_mask": mask})` begins it anew.
    An episode is cut (truncated) after `max_episode_steps` steps; None and −1 never cut.

    ## Seeding
    Each lane has its own generator, seeded as Gymnasium seeds: `reset(seed=7)` gives lane i the seed 7 + i, a list one
    seed per lane, None goes on. What a lane returns depends on its seed and actions alone: not on N, place or threads.

    ## Reset options
    "reset_mask" bool (N,), Gymnasium's "randomize", and for training "start" ("random" or a tile), "speed" (units/s
    or a pair to draw between), "zoomed" (past the first second's zoom) and "track_seed" (one for all lanes, or a list
    of one per lane).

    Args:
        num_envs: N.
        render_mode: "rgb_array" (600×400), "state_pixels" or "human" (lane 0); `render()` gives one picture per lane.
        verbose: print the length of each track.
        lap_complete_percent: as Gymnasium's.
        domain_randomize: new colours at each reset, as Gymnasium's.
        continuous: steer, gas, brake, or Gymnasium's five discrete actions.
        obs_size: 96, or 64 for the 96×96 frame averaged to 64×64.
        num_threads: threads that share the lanes (None: all cores).
        autoreset_mode: see above.
        max_episode_steps: see above.
        copy: hand out fresh observations; False hands out the buffer that the next call overwrites.
        frames: "fast", or "exact": every pixel as Gymnasium draws it, at about a seventh of the speed.
        observation: "pixels", or "state": the vector of `observe.STATE` instead of a frame, which is not drawn.
        frame_skip: steps for which an action is held; rewards add up, the last step is observed.
        hud: False leaves the bar with score and indicators black.
        grayscale: observe luminance (S,S), as `gymnasium.wrappers.GrayscaleObservation`.
        track_seed: drive the track of this seed at every reset, or one drawn from a list of seeds.
        telemetry: "progress" (visited tiles as a share) and "speed" (units/s) in every info.
        lap_rule: "gymnasium", or "crossing": a lap of enough tiles ends whenever a wheel comes onto tile 0.

    Raises:
        UserError: an argument that means nothing, or two that contradict each other.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        obs_size: int = 96,
        num_threads: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = 1000,
        copy: bool = True,
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
        super().__init__(num_envs, autoreset_mode)
        view = View(observation, frames, obs_size, hud, grayscale)
        rules = rules_of(lap_complete_percent, lap_rule)
        self.batch = Batch(num_envs, domain_randomize, rules, view, frame_skip, track_seed, num_threads)
        self.render_mode = render_mode
        self.verbose = verbose
        self.continuous = continuous
        self.max_episode_steps = None if max_episode_steps == -1 else max_episode_steps  # Gymnasium's −1
        self.copy = copy
        self.telemetry = telemetry
        self.single_action_space = car_space() if continuous else spaces.Discrete(len(DISCRETE_CONTROLS))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = view.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        if domain_randomize:  # as Gymnasium's constructor: a first reset with "randomize": False keeps these
            for lane, generator in enumerate(self._generators):
                draw_colors(generator, self.batch.tracks, lane)
        self._elapsed = np.zeros(num_envs, np.int64)  # steps in this episode
        self._window: Window | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes in all lanes or in those of `options["reset_mask"]` bool (N,).

        Returns observations of all lanes and an info, empty without `telemetry`.

        Raises:
            TypeError, ValueError: a reset mask or seeds of the wrong type or shape (as `SyncVectorEnv`).
            gymnasium.error.Error: a seed that is no natural number.
            UserError: an option of ours has a value that means nothing.
        """
        start = Start.from_options(options, self.num_envs)
        lanes = self._to_begin(seed, options)
        self._begin(lanes, start)
        if self.render_mode == "human":
            self.render()
        infos: dict[str, Any] = {}
        for lane in np.flatnonzero(lanes).tolist():
            infos = self._add_info(infos, self._telemetry(lane), lane)
        return self.batch.frames.copy() if self.copy else self.batch.frames, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
        """One step of every lane: actions float (N,3) steer, gas, brake, or int (N,).

        Returns observations (N,…), rewards float64 (N,), terminated and truncated bool (N,), infos.

        Raises:
            ResetNeeded, ClosedEnvironmentError: before the first reset, after close.
            AttributeError, IndexError, TypeError, ValueError, InvalidAction: actions that Gymnasium refuses too.
        """
        self._refuse_wrong_order()
        active = ~self._ended
        controls = self._controls(actions, active)

        observations = np.empty_like(self.batch.frames) if self.copy else None
        rewards, terminated = self.batch.advance(controls, active, observations)
        self._elapsed += active
        most = np.inf if self.max_episode_steps is None else self.max_episode_steps
        over, begun = self._end(terminated, active & (self._elapsed >= most))
        endings = {lane: self._ending(lane, bool(terminated[lane])) for lane in np.flatnonzero(over).tolist()}
        if begun.any():
            self._begin(begun, Start())
            if observations is not None:
                observations[begun] = self.batch.frames[begun]
        infos = self._infos(active | begun, endings)
        if self.render_mode == "human":
            self.render()
        shown = self.batch.frames if observations is None else observations
        return shown, rewards, self._terminated.copy(), self._truncated.copy(), infos

    def rest(self, lanes: np.ndarray) -> None:
        """Cut the episodes of `lanes` int64 (n,) here, unless they have ended; for the mode DISABLED."""
        self._truncated[lanes], self._ended[lanes] = ~self._terminated[lanes], True

    def _ending(self, lane: int, terminated: bool) -> dict[str, Any]:
        """What `SyncVectorEnv` tells about an episode that has just ended, before its lane begins anew."""
        info = self._telemetry(lane) | (self.batch.info(lane) if terminated else {})
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return {"final_obs": self.batch.frames[lane].copy(), "final_info": info}
        return info

    def _telemetry(self, lane: int) -> dict[str, Any]:
        return self.batch.telemetry(lane) if self.telemetry else {}

    def _infos(self, awake: np.ndarray, endings: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """The infos of a step, lane by lane as `SyncVectorEnv` adds them; awake: bool (N,)."""
        infos: dict[str, Any] = {}
        for lane in np.flatnonzero(awake).tolist() if self.telemetry else sorted(endings):
            ending = endings.get(lane, {})
            infos = self._add_info(infos, ending, lane)
            if "progress" not in ending:
                infos = self._add_info(infos, self._telemetry(lane), lane)
        return infos

    def _controls(self, actions: Any, active: np.ndarray) -> np.ndarray:
        """Actions as given → steer, gas, brake float64 (N,3); refuses what Gymnasium refuses, before anything moves."""
        if self.continuous and not isinstance(actions, np.ndarray):  # Gymnasium takes any sequence of arrays
            actions = np.stack([action.astype(np.float64) for action in actions])
        if not (self.continuous and actions.ndim == 0) and len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for num_envs={self.num_envs} lanes")
        if self.continuous:
            return pedals(actions, active)
        space = self.single_action_space
        for action in actions:
            if not space.contains(action):
                raise InvalidAction(
                    f"you passed the invalid action `{action}`. The supported action_space is `{space}`"
                )
        return DISCRETE_CONTROLS[np.asarray(actions, np.int64)]

    def _begin(self, lanes: np.ndarray, start: Start) -> None:
        self.batch.begin(lanes, self._generators, start)
        self._elapsed[lanes] = 0
        if self.verbose:
            for lane in np.flatnonzero(lanes).tolist():
                print(f"Track generation: {self.batch.tracks.count[lane]}-tiles track")

    def render(self) -> tuple[np.ndarray | None, ...]:  # type: ignore[override]
        """One picture per lane, each as `CarRacing.render` gives it; "human" shows lane 0."""
        if self.render_mode is None or not self._started:
            return (None,) * self.num_envs
        assert self.render_mode in METADATA["render_modes"], f"unknown render mode {self.render_mode!r}"
        if self.render_mode == "human":
            self._window = self._window or Window()
            self._window.show(self.batch.picture(0, "human"))
            return (None,) * self.num_envs
        return tuple(self.batch.picture(lane, self.render_mode) for lane in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None


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
