"""A toy environment with image observations and Discrete actions, for tests of the whole pipeline."""

import os
import time

import gymnasium
import numpy as np

from worldmodels.envs import DESCRIPTIONS, Description

TOY = "tests.helpers.toy:worldmodels-tests/Toy-v0"


class Toy(gymnasium.Env):
    """A white square on a coloured 40×48 field; actions move it left or right, or leave it; the right edge pays 1.

    The episode ends after 12 steps at the edge, after 20 steps by its registration, after 18 by its description. A
    machine with TOY_SLEEP in its environment takes so many seconds more per step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = gymnasium.spaces.Box(0, 255, (40, 48, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.at, self.at_edge, self.colour = 0, 0, np.zeros(3, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.at_edge = int(self.np_random.integers(40)), 0
        self.colour = self.np_random.integers(200, size=3, dtype=np.uint8)
        return self.render(), {}

    def step(self, action):
        assert self.action_space.contains(int(action))
        time.sleep(float(os.environ.get("TOY_SLEEP", 0)))
        self.at = int(np.clip(self.at + (int(action) - 1) * 4, 0, 40))
        reward = float(self.at == 40)
        self.at_edge += self.at == 40
        return self.render(), reward, self.at_edge == 12, False, {}

    def render(self):
        image = np.empty((40, 48, 3), np.uint8)
        image[:] = self.colour
        image[16:24, self.at : self.at + 8] = 255
        return image


DESCRIPTIONS["worldmodels-tests/Toy-v0"] = Description(
    "worldmodels-tests/Toy-v0", crop=(4, 36, 0, 48), action="discrete", time_limit=18
)
if "worldmodels-tests/Toy-v0" not in gymnasium.registry:
    gymnasium.register("worldmodels-tests/Toy-v0", Toy, max_episode_steps=20)
