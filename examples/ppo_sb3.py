"""PPO of stable-baselines3 on CarRacing-v3, trained on our simulator and scored on Gymnasium's own frames.

    pip install stable-baselines3
    python examples/ppo_sb3.py
    worldmodels evaluate --policy examples/ppo_sb3.py:PPODriver

The five discrete actions of CarRacing; `PPODriver` says them as the continuous ones that they stand for.
"""

import argparse
import time

import numpy as np
import torch
from cars import Cars, Driver
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

FILE = "ppo_sb3.zip"
ACTIONS = np.array([[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]])  # CarRacing(continuous=False)


class SB3Cars(VecEnv):
    """`Cars` as stable-baselines3 wants a vector environment."""

    def __init__(self, lanes: int, seed: int):
        self.cars, self.actions = Cars(lanes, seed, continuous=False), None
        super().__init__(lanes, spaces.Box(0, 255, self.cars.seen.shape[1:], np.uint8), spaces.Discrete(5))

    def reset(self):
        return self.cars.reset()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        seen, rewards, terminated, over, last = self.cars.step(self.actions)
        infos = [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(over):
            infos[lane] = {"terminal_observation": last[lane], "TimeLimit.truncated": not terminated[lane]}
        return seen, rewards.astype(np.float32), over, infos

    def close(self):
        self.cars.envs.close()

    def get_attr(self, name, indices=None):
        return [None] * self.num_envs  # asked for the render mode

    def set_attr(self, name, value, indices=None):
        raise NotImplementedError

    def env_method(self, name, *arguments, indices=None, **keywords):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * self.num_envs


class Say(BaseCallback):
    """A line per update: steps, minutes, the mean score of the last 50 episodes."""

    def __init__(self, cars: Cars):
        super().__init__()
        self.cars, self.began = cars, time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        minutes, processor = (time.perf_counter() - self.began) / 60, time.process_time() / 60
        score = np.mean(self.cars.scores[-50:]) if self.cars.scores else np.nan
        print(
            f"{self.num_timesteps:>8,} actions {minutes:6.1f} min {processor:6.1f} processor min {score:7.1f}",
            flush=True,
        )


class PPODriver(Driver):
    """The trained policy, its likeliest action."""

    def __init__(self):
        self.model = PPO.load(FILE, device="cpu")

    def choose(self, seen):
        action, _ = self.model.predict(seen, deterministic=True)
        return ACTIONS[int(action)]


def main(actions: int, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    cars = SB3Cars(16, seed)
    model = PPO(
        "CnnPolicy", VecNormalize(cars, norm_obs=False), n_steps=128, batch_size=256, n_epochs=4, gamma=0.98,
        learning_rate=lambda left: 5e-4 * left, ent_coef=0.01, clip_range=0.2, seed=seed, device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 256}},
    )  # fmt: skip
    model.learn(actions, callback=Say(cars.cars))
    model.save(FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, default=100_000, help="four steps of 1/50 s each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    main(**vars(parser.parse_args()))
