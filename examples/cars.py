"""What both examples share: cars to train on, and what a driver sees of Gymnasium's CarRacing-v3.

Shapes: N lanes.

A driver sees the last four of every fourth frame, 64×64 in grey, and holds an action for four steps.
"""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

import worldmodels
from worldmodels.envs import as_frames

HOLD = 4  # steps of 1/50 s for which an action is held
STACK = 4  # frames that a driver sees, HOLD steps apart
STEPS = 1000 // HOLD  # actions in an episode
LOST = 100 // HOLD  # actions without a new tile after which a training episode ends: most of an early one is grass
GREY = np.array([0.2125, 0.7154, 0.0721])  # gymnasium.wrappers.GrayscaleObservation

assert worldmodels  # registers worldmodels/CarRacing-v3


class Cars:
    """N cars that train: `reset`, then `step`; a car whose episode has ended begins another."""

    def __init__(self, lanes: int, seed: int = 0, **arguments):
        self.envs = gymnasium.make_vec(
            "worldmodels/CarRacing-v3", num_envs=lanes, obs_size=64, grayscale=True, frame_skip=HOLD,
            max_episode_steps=STEPS, autoreset_mode=AutoresetMode.DISABLED, **arguments,
        )  # fmt: skip
        self.lanes, self.seed = lanes, seed
        self.seen = np.zeros((lanes, STACK, 64, 64), np.uint8)
        self.idle = np.zeros(lanes, int)
        self.score, self.scores = np.zeros(lanes), []  # of the episodes that go on, and of those that have ended

    def reset(self) -> np.ndarray:
        """What the drivers see, uint8 (N, 4, 64, 64)."""
        frames, _ = self.envs.reset(seed=self.seed)
        self.seen[:] = frames[:, None]
        return self.seen.copy()

    def step(self, actions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(seen (N, 4, 64, 64), rewards (N,), terminated (N,), over (N,), seen last (N, 4, 64, 64)).

        Where `over`, the episode has ended: `seen` is the first of the next, and `seen last` the last of this one.
        """
        frames, rewards, terminated, truncated, _ = self.envs.step(actions)
        self.seen = np.roll(self.seen, -1, axis=1)
        self.seen[:, -1] = frames
        last = self.seen.copy()
        self.idle = np.where(rewards > 0, 0, self.idle + 1)
        over = terminated | truncated | (self.idle >= LOST)
        self.score += rewards
        if over.any():
            self.scores += self.score[over].tolist()
            self.score[over], self.idle[over] = 0.0, 0
            frames, _ = self.envs.reset(options={"reset_mask": over})
            self.seen[over] = frames[over, None]
        return self.seen.copy(), rewards, terminated, over, last


class Driver:
    """For `worldmodels evaluate --policy`: a frame uint8 (96, 96, 3) at a time → Gymnasium's action.

    A subclass has `choose`: what is seen, uint8 (4, 64, 64) → the action that is held.
    """

    def reset(self) -> None:
        self.step, self.seen, self.action = 0, None, None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        if self.step % HOLD == 0:
            grey = (as_frames(observation[None])[0] @ GREY).astype(np.uint8)
            self.seen = np.stack([grey] * STACK) if self.seen is None else np.stack([*self.seen[1:], grey])
            self.action = self.choose(self.seen)
        self.step += 1
        return self.action
