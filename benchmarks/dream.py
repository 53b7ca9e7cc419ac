"""Dream steps per second, C included: beside plain PyTorch, the matrix products alone and the real loop, in one run.

    python -m benchmarks.dream [--seconds 1] [--repeats 5]

M of 256 units with a reward head (Z 32, K 5), C of 867 parameters, one candidate for every four lanes. `plain` is the
same step in PyTorch operations, noise and C's batched product included; `floor` multiplies M's matrices and does
nothing else; `real` drives our simulator with V, M and C. The columns take turns, so that what else the machine does
meets all of them; a line has the best turn of each, and in brackets the median of steps per second of processor time.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch

from worldmodels import envs
from worldmodels.agent import Agent, Eyes
from worldmodels.controller import Controller
from worldmodels.dream import Dreams, DreamStep, Population
from worldmodels.envs import CARRACING, Actions, World
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode
from worldmodels.vision import VAE

LANES, REAL_LANES = (64, 256, 1024), 64
C = Controller()
PLAY = 20  # steps of one call


def plain(mdrnn: MDRNN, car: Actions, lanes: int) -> Iterator[int]:
    """The plain way: PyTorch's operations, one batch."""
    step, parameters = DreamStep(mdrnn), torch.randn(lanes // 4, 867) * 0.1
    chosen = torch.arange(lanes) // 4
    z, (h, c) = torch.randn(lanes, 32), mdrnn.initial_state(lanes)
    restart = torch.zeros(lanes)
    with torch.no_grad():
        while True:
            for _ in range(PLAY):
                seen = C.see(z, (h, c))
                raw = C.act(parameters[chosen], seen)
                actions = torch.from_numpy(car.squash(raw.numpy()))
                noises = torch.rand(lanes, 32), torch.randn(lanes, 32)
                z, h, c, _, _ = step(z, actions, h, c, restart, *noises, 1.0)
            yield lanes * PLAY


def ours(mdrnn: MDRNN, car: Actions, lanes: int, threads: int) -> Iterator[int]:
    """`Dreams.play`."""
    dreams = Dreams(mdrnn, lanes, threads=threads)
    parameters = np.random.default_rng(0).normal(0, 0.1, (lanes // 4, 867))
    act = Population(dreams, C, parameters, np.arange(lanes) // 4, car)
    z = np.random.default_rng(1).standard_normal((lanes, 32), dtype=np.float32)
    while True:
        dreams.begin(np.arange(lanes), np.arange(lanes) % 4, z)
        yield int(dreams.play(act, PLAY)[1].sum())


def floor(mdrnn: MDRNN, lanes: int) -> Iterator[int]:
    """The LSTM's and the head's products, in one batch."""
    x, h = torch.randn(lanes, 291), torch.randn(lanes, 256)
    gates, out = torch.empty(lanes, 1024), torch.empty(lanes, 481)
    lstm, head = torch.randn(291, 1024), mdrnn.head.weight.t().contiguous()
    while True:
        for _ in range(PLAY):
            torch.addmm(torch.zeros(1024), x, lstm, out=gates)
            torch.addmm(torch.zeros(481), h, head, out=out)
        yield lanes * PLAY


def real(car: Actions, threads: int) -> Iterator[int]:
    """V, M and C on the simulator."""
    population = np.random.default_rng(0).normal(0, 0.1, (REAL_LANES // 4, 867))
    v, m = VAE().requires_grad_(False), MDRNN().requires_grad_(False)
    agent = Agent(Eyes(v), m, C, population, car)
    env = envs.make(World(CARRACING), REAL_LANES, threads=threads)
    frames, _ = env.reset(seed=0)
    lanes = np.arange(REAL_LANES)
    agent.begin(lanes, [Episode(int(lane), int(lane) // 4) for lane in lanes])
    while True:
        for _ in range(PLAY):
            frames, *_ = env.step(car.to_env(agent.act(lanes, frames)))
        yield REAL_LANES * PLAY


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
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    car = envs.actions_in(World(CARRACING))
    mdrnn = MDRNN(include_reward=True).requires_grad_(False)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for lanes in LANES:
            columns = {
                "plain": plain(mdrnn, car, lanes),
                "ours": ours(mdrnn, car, lanes, threads),
                "floor": floor(mdrnn, lanes),
            }
            if lanes == REAL_LANES:
                columns["real"] = real(car, threads)
            measured = rates(columns, arguments.seconds, arguments.repeats)
            line = "  ".join(f"{name} {best:8,.0f} ({median:8,.0f})" for name, (best, median) in measured.items())
            print(f"{threads} threads, {lanes:5,} lanes: {line}", flush=True)
    held = [x for x in vars(Dreams(mdrnn, 1024)).values() if isinstance(x, torch.Tensor | np.ndarray)]
    print(f"memory: {sum(x.nbytes for x in held) / 1024 / 1024:.1f} KiB a lane")


if __name__ == "__main__":
    main()
