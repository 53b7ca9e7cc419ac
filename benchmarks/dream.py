"""Dream steps per second, C included: beside plain PyTorch, the matrix products alone and the real loop, in one run.

    python -m benchmarks.dream [--world takecover] [--seconds 1] [--repeats 5]

The car's M of 256 units with a reward head (Z 32, K 5) and C of 867 parameters, or Take Cover's M of 512 (Z 64) and C
of 1,088, one candidate for every four lanes; no dream ends. `plain` is the same step in PyTorch operations, noise and
C's batched product included; `floor` multiplies M's matrices and does nothing else; `bfloat16`
is ours with products in it, where the processor has it; `real` drives our simulator, or
Doom at 320×240, with V, M and C. The columns take turns, so that what else the machine does
meets all of them; a line has the best turn of each, and in brackets the median of steps per second of processor time.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from conformance.arguments import above_zero, count
from worldmodels import envs
from worldmodels.agent import Agent, Eyes
from worldmodels.cli import as_a_command
from worldmodels.controller import Controller
from worldmodels.dream import DreamStep
from worldmodels.envs import CARRACING, TAKECOVER, Actions, World
from worldmodels.fast_dream import Dreams, Population
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode
from worldmodels.vision import VAE
from worldmodels.workers.places import choose_bfloat16

LANES = (64, 256, 1024)
PLAY = 20  # steps of one call


@dataclass(frozen=True)
class Sizes:
    """A world, and M and C of its sizes, untrained."""

    env_id: str
    mdrnn: MDRNN
    controller: Controller
    real_lanes: int

    @property
    def actions(self) -> Actions:
        return envs.actions_in(World(self.env_id))


def sizes(world: str) -> Sizes:
    """The paper's."""
    if world == "carracing":
        return Sizes(CARRACING, MDRNN(include_reward=True).requires_grad_(False), Controller(), 64)
    mdrnn = MDRNN(64, 1, 512, include_terminal=True, include_restart=True, step_reward=1.0).requires_grad_(False)
    mdrnn.head.bias[-1] = -100.0  # no dream ends
    return Sizes(TAKECOVER, mdrnn, Controller(64, 512, 1, "zch", bias=False), 16)


def plain(paper: Sizes, lanes: int) -> Iterator[int]:
    """The plain way: PyTorch's operations, one batch."""
    mdrnn, controller, actions_of = paper.mdrnn, paper.controller, paper.actions
    step, parameters = DreamStep(mdrnn), torch.randn(lanes // 4, controller.size) * 0.1
    chosen = torch.arange(lanes) // 4
    z, (h, c) = torch.randn(lanes, mdrnn.z_size), mdrnn.initial_state(lanes)
    restart = torch.zeros(lanes)
    with torch.no_grad():
        while True:
            for _ in range(PLAY):
                seen = controller.see(z, (h, c))
                raw = controller.act(parameters[chosen], seen)
                actions = torch.from_numpy(actions_of.squash(raw.numpy()))
                noises = torch.rand(lanes, mdrnn.z_size), torch.randn(lanes, mdrnn.z_size)
                z, h, c, _, _ = step(z, actions, h, c, restart, *noises, 1.0)
            yield lanes * PLAY


def ours(paper: Sizes, lanes: int, threads: int, dtype: torch.dtype = torch.float32) -> Iterator[int]:
    """`Dreams.play`."""
    mdrnn, controller = paper.mdrnn, paper.controller
    dreams = Dreams(mdrnn, lanes, threads=threads, dtype=dtype)
    parameters = np.random.default_rng(0).normal(0, 0.1, (lanes // 4, controller.size))
    act = Population(dreams, controller, parameters, np.arange(lanes) // 4, paper.actions)
    z = np.random.default_rng(1).standard_normal((lanes, mdrnn.z_size), dtype=np.float32)
    while True:
        dreams.begin(np.arange(lanes), np.arange(lanes) % 4, z)
        yield int(dreams.play(act, PLAY)[1].sum())


def floor(mdrnn: MDRNN, lanes: int) -> Iterator[int]:
    """The LSTM's and the head's products, in one batch."""
    hidden, outputs = mdrnn.hidden_size, mdrnn.head.out_features
    lstm, head = torch.randn(mdrnn.lstm.input_size + hidden, 4 * hidden), mdrnn.head.weight.t().contiguous()
    x, h = torch.randn(lanes, len(lstm)), torch.randn(lanes, hidden)
    gates, out = torch.empty(lanes, 4 * hidden), torch.empty(lanes, outputs)
    while True:
        for _ in range(PLAY):
            torch.addmm(torch.zeros(4 * hidden), x, lstm, out=gates)
            torch.addmm(torch.zeros(outputs), h, head, out=out)
        yield lanes * PLAY


def real(paper: Sizes, threads: int) -> Iterator[int]:
    """V, M and C in the world itself; a lane whose episode has ended begins another."""
    population = np.random.default_rng(0).normal(0, 0.1, (paper.real_lanes // 4, paper.controller.size))
    v, actions = VAE(paper.mdrnn.z_size).requires_grad_(False), paper.actions
    agent = Agent(Eyes(v), paper.mdrnn, paper.controller, population, actions)
    env = envs.make(World.practice(paper.env_id), paper.real_lanes, threads=threads)
    frames, _ = env.reset(seed=0)
    lanes = np.arange(paper.real_lanes)
    agent.begin(lanes, [Episode(int(lane), int(lane) // 4) for lane in lanes])
    while True:
        for _ in range(PLAY):
            frames, _, terminated, truncated, _ = env.step(actions.to_env(agent.act(lanes, frames)))
            if (terminated | truncated).any():
                frames, _ = env.reset(options={"reset_mask": terminated | truncated})
        yield paper.real_lanes * PLAY


def rates(work: dict[str, Iterator[int]], seconds: float, repeats: int) -> dict[str, tuple[float, float]]:
    """Steps per second of each column: the best turn, and the median per second of processor time."""
    for steps in work.values():
        next(steps)
    wall: dict[str, list[float]] = {name: [] for name in work}
    busy: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, steps in work.items():
            done, started, used = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - started < seconds:
                done += next(steps)
            wall[name].append(done / (time.perf_counter() - started))
            busy[name].append(done / (time.process_time() - used))
    return {name: (max(wall[name]), float(np.median(busy[name]))) for name in work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("carracing", "takecover"), default="carracing")
    parser.add_argument("--seconds", type=above_zero, default=1.0)
    parser.add_argument("--repeats", type=count, default=5)
    arguments = parser.parse_args()
    paper = sizes(arguments.world)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for lanes in LANES:
            columns = {
                "plain": plain(paper, lanes),
                "ours": ours(paper, lanes, threads),
                "floor": floor(paper.mdrnn, lanes),
            }
            if choose_bfloat16("auto", torch.device("cpu")):
                columns["bfloat16"] = ours(paper, lanes, threads, torch.bfloat16)
            if lanes == LANES[0]:
                columns["real"] = real(paper, threads)
            measured = rates(columns, arguments.seconds, arguments.repeats)
            line = "  ".join(f"{name} {best:8,.0f} ({median:8,.0f})" for name, (best, median) in measured.items())
            print(f"{threads} threads, {lanes:5,} lanes: {line}", flush=True)
    held = [x for x in vars(Dreams(paper.mdrnn, 1024)).values() if isinstance(x, torch.Tensor | np.ndarray)]
    print(f"memory: {sum(x.nbytes for x in held) / 1024 / 1024:.1f} KiB a lane")


if __name__ == "__main__":
    with as_a_command():
        main()
