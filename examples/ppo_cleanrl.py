"""PPO in one file, after CleanRL's, on CarRacing-v3: trained on our simulator, scored on Gymnasium's own frames.

    python examples/ppo_cleanrl.py
    worldmodels evaluate --policy examples/ppo_cleanrl.py:PPODriver

Shapes: N cars, T actions per update, M samples of a minibatch.

Continuous actions drawn from Beta distributions, whose range ends where that of steering and pedals does.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from cars import STACK, Cars, Driver
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Beta

FILE = "ppo_cleanrl.safetensors"
LOW, HIGH = np.array([-1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0])  # steering, gas, brake


@dataclass
class Args:
    actions: int = 100_000
    """in all, of four steps of 1/50 s each"""
    cars: int = 16
    steps: int = 128
    """actions of each car per update"""
    epochs: int = 4
    minibatch: int = 256
    learning_rate: float = 5e-4
    """falls to zero"""
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.001
    value: float = 0.5
    max_norm: float = 0.5
    reward_scale: float = 0.1
    seed: int = 0
    threads: int = 2


class Agent(nn.Module):
    """Actor and critic behind one small convolutional network."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            layer(nn.Conv2d(STACK, 16, 8, 4)), nn.ReLU(), layer(nn.Conv2d(16, 32, 4, 2)), nn.ReLU(),
            layer(nn.Conv2d(32, 32, 3)), nn.ReLU(), nn.Flatten(), layer(nn.Linear(512, 256)), nn.ReLU(),
        )  # fmt: skip
        self.actor, self.critic = layer(nn.Linear(256, 6), 0.01), layer(nn.Linear(256, 1), 1.0)

    def forward(self, seen: Tensor) -> tuple[Beta, Tensor]:
        """uint8 (M, 4, 64, 64) → distribution of actions in 0…1 (M, 3), values (M,)."""
        hidden = self.body(seen.float() / 255)
        alpha, beta = (1 + nn.functional.softplus(self.actor(hidden))).chunk(2, dim=1)
        return Beta(alpha, beta), self.critic(hidden)[:, 0]


def layer(module: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


def to_env(actions: np.ndarray) -> np.ndarray:
    """0…1 → steering −1…1, gas and brake 0…1."""
    return LOW + actions * (HIGH - LOW)


class PPODriver(Driver):
    """The trained policy, the mean of its distribution."""

    def __init__(self):
        self.agent = Agent()
        self.agent.load_state_dict(load_file(FILE))

    @torch.no_grad()
    def choose(self, seen):
        distribution, _ = self.agent(torch.from_numpy(seen)[None])
        return to_env(distribution.mean[0].numpy())


def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    agent, cars, began = Agent(), Cars(args.cars, args.seed), time.perf_counter()
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    updates = args.actions // (args.cars * args.steps)
    seen = cars.reset()
    shape = (args.steps, args.cars)
    frames = torch.zeros(*shape, *seen.shape[1:], dtype=torch.uint8)
    actions, log_probs, values, rewards, ends = (torch.zeros(*shape, *more) for more in ((3,), (), (), (), ()))

    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / updates)
        for t in range(args.steps):
            frames[t] = torch.from_numpy(seen)
            with torch.no_grad():
                distribution, values[t] = agent(frames[t])
                actions[t] = distribution.sample()
                log_probs[t] = distribution.log_prob(actions[t].clamp(1e-4, 1 - 1e-4)).sum(1)
            seen, reward, terminated, over, last = cars.step(to_env(actions[t].numpy()))
            rewards[t], ends[t] = torch.from_numpy(reward * args.reward_scale), torch.from_numpy(over).float()
            if (cut := over & ~terminated).any():  # goes on behind the cut: what it would still be worth
                with torch.no_grad():
                    rewards[t, cut] += args.gamma * agent(torch.from_numpy(last[cut]))[1]

        with torch.no_grad():
            following = agent(torch.from_numpy(seen))[1]
        advantages, ahead = torch.zeros(shape), torch.zeros(args.cars)
        for t in reversed(range(args.steps)):
            goes_on = args.gamma * (1 - ends[t])
            ahead = rewards[t] + goes_on * following - values[t] + args.gae_lambda * goes_on * ahead
            advantages[t], following = ahead, values[t]
        returns = advantages + values

        flat = [x.flatten(0, 1) for x in (frames, actions, log_probs, advantages, returns)]
        for _ in range(args.epochs):
            for rows in torch.randperm(args.steps * args.cars).split(args.minibatch):
                x, a, before, advantage, target = (part[rows] for part in flat)
                distribution, value = agent(x)
                ratio = (distribution.log_prob(a.clamp(1e-4, 1 - 1e-4)).sum(1) - before).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                gain = torch.min(ratio * advantage, ratio.clamp(1 - args.clip, 1 + args.clip) * advantage).mean()
                loss = args.value * (value - target).square().mean() - gain
                loss = loss - args.entropy * distribution.entropy().sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_norm)
                optimizer.step()

        done, minutes = (update + 1) * args.steps * args.cars, (time.perf_counter() - began) / 60
        score = np.mean(cars.scores[-50:]) if cars.scores else np.nan
        processor = time.process_time() / 60
        print(f"{done:>8,} actions {minutes:6.1f} min {processor:6.1f} processor min {score:7.1f}", flush=True)
    save_file(agent.state_dict(), FILE)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
