"""The dream as a Gymnasium environment: M is the world, and whatever learns in CarRacing can learn in it.

Shapes: N lanes (dreams side by side), Z latent, H hidden, A action.

`DreamVectorEnv` is N dreams with the interface of `gymnasium.vector`, `Dream` one of them with that of
`gymnasium.Env`: a batch of one. worldmodels/dream.py has the rule; docs/dream.md tells what to expect of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from worldmodels import memory, vision
from worldmodels import pretrained as shipped
from worldmodels.dream import Starts
from worldmodels.envs import FRAME_SIZE
from worldmodels.envs.actions import car_space
from worldmodels.envs.seeded import SeededLanes
from worldmodels.errors import UserError
from worldmodels.fast_dream import Dreams
from worldmodels.workers.places import torch_threads

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}
OBSERVATIONS = ("frame", "z", "zh", "zch")
PAINTED = 4  # frames that V paints at once: always as many, since float32 results depend on their number
KEYS = 2**62  # of the noise


def action_space(mdrnn: memory.MDRNN, where: str) -> spaces.Box | spaces.Discrete:
    """What M takes for an action; UserError where M does not say."""
    if mdrnn.action_kind == "discrete":
        return spaces.Discrete(mdrnn.action_size)
    if mdrnn.action_kind == "car":
        return car_space()
    if mdrnn.action_kind == "threshold":
        return spaces.Box(-1, 1, (mdrnn.action_size,), np.float32)
    if mdrnn.action_kind == "box" and mdrnn.action_bounds is not None:
        low, high = np.array(mdrnn.action_bounds, np.float32)
        return spaces.Box(low, high)
    raise UserError(
        f"M in {where} does not say what its actions mean (action kind {mdrnn.action_kind!r}): "
        "train it again with `worldmodels train-mdrnn` on episodes that `worldmodels collect` has gathered."
    )


class DreamVectorEnv(SeededLanes):
    """N dreams of one M; `gymnasium.make_vec("worldmodels/Dream-v0", num_envs=N, run="exp_dir")` makes it.

    ## Spaces
    Actions are those M was trained on: steer, gas, brake for the car, numbers for a Box, a choice for Discrete, one
    number in [−1, 1] where C's output is read by thresholds. Observations: "frame" uint8 (N,64,64,3), painted by V from
    z; "z" float32 (N,Z); "zh" (N,Z+H) and "zch" (N,Z+2H), what C sees: z, then h, or c and h.

    ## Rewards and endings
    M's heads predict them: float64 (N,); an M of Take Cover, which has no reward head, pays 1 per step. A dream ends
    when M's logit of the end is above 0, where M has that head, and is cut (truncated) after `horizon` steps.

    ## Episodes
    `autoreset_mode` is NEXT_STEP (default), SAME_STEP or DISABLED, each as in `gymnasium.vector.SyncVectorEnv`, but
    that in DISABLED mode a lane whose dream is over rests: stepping it changes nothing and pays 0, until
    `reset(options={"reset_mask": mask})` begins it anew.

    ## Seeding
    Each lane has its own generator: `reset(seed=7)` gives lane i the seed 7 + i, a list one seed a lane, None goes on.
    It draws the key of the dream's noise, the start and the dropout mask. What a lane dreams depends on its seed and
    actions alone: not on N, its place or threads.

    Args:
        num_envs: N.
        run: the run directory whose M dreams (and whose V paints).
        pretrained: instead of `run`, a driver of the package, such as "carracing".
        temperature: 0 is deterministic, 1 is M's own spread; more is harder to cheat.
        horizon: steps after which a dream is cut.
        observation: "frame", "z", "zh" or "zch".
        start: "bank" draws one of the run's real states, a number takes that one of them, "prior" draws z from N(0, 1)
            and begins with h = 0.
        render_mode: "rgb_array": `render()` has V paint what is dreamed, 64×64.
        num_threads: threads that share the lanes (None: PyTorch's number).
        autoreset_mode: see above.
        copy: hand out fresh observations; False hands out the buffer that the next call overwrites.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        num_envs: int = 1,
        run: str | Path | None = None,
        pretrained: str | None = None,
        temperature: float = 1.0,
        horizon: int = 1000,
        observation: str = "frame",
        start: str | int = "bank",
        render_mode: str | None = None,
        num_threads: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ):
        super().__init__(num_envs, autoreset_mode)
        if (run is None) == (pretrained is None):
            raise UserError('Say whose dream: run="exp_dir" or pretrained="carracing", one of the two.')
        if observation not in OBSERVATIONS:
            raise UserError(f"observation is {observation!r}: choose one of {', '.join(OBSERVATIONS)}.")
        if not (isinstance(horizon, int | np.integer) and horizon >= 1):
            raise UserError(f"horizon is {horizon}: it is a number of steps, from 1 on.")
        folder = Path(run) if run is not None else shipped.folder(str(pretrained))
        mdrnn = memory.load(folder)
        if not mdrnn.pays:
            raise UserError(
                f"M in {folder} predicts no rewards: train it by `worldmodels train-mdrnn --include-reward --noreload`."
            )
        self.single_action_space = action_space(mdrnn, str(folder))
        self.mdrnn, self.start = mdrnn, start
        self.starts = None if start == "prior" else chosen_starts(folder, mdrnn, start)
        self.vae = vision.load(folder) if observation == "frame" or render_mode is not None else None
        if self.vae is not None and self.vae.z_size != mdrnn.z_size:
            raise UserError(
                f"V makes z of {self.vae.z_size} numbers and M expects {mdrnn.z_size}: "
                "train M again with `worldmodels train-mdrnn --noreload`."
            )
        threads = torch.get_num_threads() if num_threads is None else num_threads
        self.dreams = Dreams(mdrnn, num_envs, temperature=temperature, threads=threads)
        self.horizon, self.observation = horizon, observation
        self.render_mode, self.copy = render_mode, copy
        self.action_space = batch_space(self.single_action_space, num_envs)
        width = {"z": 0, "zh": 1, "zch": 2}.get(observation, 0) * mdrnn.hidden_size + mdrnn.z_size
        self.single_observation_space = (
            spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
            if observation == "frame"
            else spaces.Box(-np.inf, np.inf, (width,), np.float32)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._seen = np.zeros(self.observation_space.shape or (), self.single_observation_space.dtype)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin dreams in all lanes or in those of `options["reset_mask"]` bool (N,); returns all observations.

        Raises:
            TypeError, ValueError: a reset mask or seeds of the wrong type or shape (as `SyncVectorEnv`).
            UserError: any other option.
        """
        options = dict(options or {})
        if more := [name for name in options if name != "reset_mask"]:
            raise UserError(f"A dream has no reset option {', '.join(more)}: how it starts is said when it is made.")
        self._begin(self._to_begin(seed, options))
        return self._observations(), {}

    def _begin(self, mask: np.ndarray) -> None:
        """Begin dreams in the lanes of `mask`, each from its own generator, and see them."""
        lanes, z_size, hidden = np.flatnonzero(mask), self.mdrnn.z_size, self.mdrnn.hidden_size
        keys, which = np.zeros(len(lanes), np.int64), np.zeros(len(lanes), np.int64)
        prior = np.zeros((len(lanes), z_size), np.float32)
        dropped = np.ones((len(lanes), hidden), np.float32)
        for i, generator in enumerate(self._generators[lane] for lane in lanes):
            keys[i] = generator.integers(KEYS)
            if self.starts is None:
                prior[i] = generator.standard_normal(z_size, dtype=np.float32)
            else:
                which[i] = generator.integers(len(self.starts.z))
            if self.mdrnn.dropout:
                dropped[i] = (generator.random(hidden) >= self.mdrnn.dropout) / (1 - self.mdrnn.dropout)
        z, h, c, restart = (prior, 0.0, 0.0, 1.0) if self.starts is None else self.starts.arrays(which)
        self.dreams.begin(lanes, keys, z, h, c, restart, dropped if self.mdrnn.dropout else None)
        self._see(lanes)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
        """One step of every lane: actions float (N,A), or int (N,) of a Discrete M.

        Returns observations, rewards float64 (N,), terminated and truncated bool (N,), infos.

        Raises:
            ResetNeeded, ClosedEnvironmentError: before the first reset, after close.
            ValueError: actions of another shape, out of the choices, or no numbers.
            UserError: M predicts what is no number.
        """
        self._refuse_wrong_order()
        active = ~self._ended
        reward, _ = self.dreams.step(self._vectors(actions))
        terminated = self.dreams.end & active
        over, begun = self._end(terminated, (self.dreams.steps >= self.horizon) & active)
        self.dreams.rest(over)
        self._see(np.flatnonzero(active))
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            for lane in np.flatnonzero(over).tolist():
                infos = self._add_info(infos, {"final_obs": self._seen[lane].copy(), "final_info": {}}, lane)
        if begun.any():
            self._begin(begun)
        rewards = reward.astype(np.float64)
        return self._observations(), rewards, self._terminated.copy(), self._truncated.copy(), infos

    def _vectors(self, actions: Any) -> np.ndarray:
        """Actions as given → action vectors float32 (N,A) as M sees them; those of resting lanes do not matter."""
        given = np.asarray(actions)
        wanted = self.action_space.shape or ()
        if given.shape != wanted:
            raise ValueError(f"the actions have the shape {given.shape}, expected {wanted}")
        moving = ~self._ended
        space = self.single_action_space
        if isinstance(space, spaces.Discrete):
            if not (np.issubdtype(given.dtype, np.integer) and ((given >= 0) & (given < self.mdrnn.action_size)).all()):
                raise ValueError(f"the actions {given} are not all choices of {space}")
            return np.eye(self.mdrnn.action_size, dtype=np.float32)[given]
        assert isinstance(space, spaces.Box)
        vectors = np.clip(given, space.low, space.high).astype(np.float32)
        strange = ~np.isfinite(vectors).all(axis=1) & moving
        if strange.any():
            raise ValueError(f"the action is no number in lanes {np.flatnonzero(strange).tolist()}")
        return np.where(moving[:, None], vectors, np.float32(0))

    def _observations(self) -> np.ndarray:
        return self._seen.copy() if self.copy else self._seen

    def _see(self, lanes: np.ndarray) -> None:
        """Bring the observations of `lanes` up to date."""
        if self.observation == "frame":
            if len(lanes):
                self._seen[lanes] = self._painted(self.dreams.z[lanes])
            return
        z, h, c, first = self.dreams.z, self.dreams.h, self.dreams.c, 0
        for part in {"z": (z,), "zh": (z, h), "zch": (z, c, h)}[self.observation]:
            self._seen[:, first : first + part.shape[1]] = part  # resting lanes have not moved: all alike is fastest
            first += part.shape[1]

    def _painted(self, z: np.ndarray) -> np.ndarray:
        """z (n,Z) → V's frames uint8 (n,64,64,3), in blocks of one size."""
        assert self.vae is not None
        filled = np.zeros((-(-len(z) // PAINTED) * PAINTED, z.shape[1]), np.float32)
        filled[: len(z)] = z
        with torch_threads(1):
            blocks = torch.from_numpy(filled).split(PAINTED)
            return np.concatenate([self.vae.decode(block) for block in blocks])[: len(z)]

    def render(self) -> tuple[np.ndarray | None, ...]:  # type: ignore[override]
        """What is dreamed in each lane, uint8 (64,64,3), painted by V; None without a render mode."""
        if self.render_mode is None or not self._started:
            return (None,) * self.num_envs
        if self.observation == "frame":
            return tuple(self._seen.copy())
        return tuple(self._painted(self.dreams.z))

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        self.dreams.close()


def chosen_starts(folder: Path, mdrnn: memory.MDRNN, start: str | int) -> Starts:
    """The bank of the run in `folder`, or the one of its states that `start` numbers; UserError for anything else."""
    if start != "bank" and not isinstance(start, int | np.integer):
        raise UserError(f'start is {start!r}: say "bank", "prior", or the number of a start in the bank.')
    starts = Starts.load(folder / "mdrnn" / "starts.safetensors", mdrnn)
    if start == "bank":
        return starts
    number = int(start)
    if not 0 <= number < len(starts.z):
        raise UserError(f"start is {number}: the bank in {folder} has the numbers 0 to {len(starts.z) - 1}.")
    return starts.some(slice(number, number + 1))


class Dream(gymnasium.Env[np.ndarray, Any], EzPickle):
    """One dream: `gymnasium.make("worldmodels/Dream-v0", run="exp_dir")` makes it.

    Arguments, spaces, rewards and endings as `DreamVectorEnv`'s. Stepping on after the end changes nothing and pays 0.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(self, render_mode: str | None = None, **keywords: Any):
        EzPickle.__init__(self, render_mode, **keywords)
        self.vector = DreamVectorEnv(1, render_mode=render_mode, autoreset_mode=AutoresetMode.DISABLED, **keywords)
        self.render_mode = render_mode
        self.action_space = self.vector.single_action_space
        self.observation_space = self.vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream; returns the observation and an empty info."""
        super().reset(seed=seed)
        self.vector._generators[0] = self.np_random
        observations, info = self.vector.reset(options=options)
        return observations[0], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; raises what `DreamVectorEnv.step` raises."""
        observations, rewards, terminated, truncated, infos = self.vector.step(np.asarray(action)[None])
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos

    def render(self) -> np.ndarray | None:
        """What is dreamed, uint8 (64,64,3), painted by V; None without a render mode or before the first reset."""
        return self.vector.render()[0]

    def close(self) -> None:
        """End the threads; calling it again does nothing."""
        self.vector.close()
