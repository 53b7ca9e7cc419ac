"""Dream steps per second, C included: beside plain PyTorch, the matrix products alone and the real loop, in one run.

    python -m benchmarks.dream [--world takecover] [--seconds 1] [--repeats 5]
    python -m benchmarks.dream --run exp_dir

The car's M of 256 units with a reward head (Z 32, K 5) and C of 867 parameters, or Take Cover's M of 512 (Z 64) and C
of 1,088, one candidate for every four lanes; no dream ends. `plain` is the same step in PyTorch operations, noise and
C's batched product included; `floor` multiplies M's matrices and does nothing else; `bfloat16`
is ours with products in it, where the processor has it; `real` drives our simulator, or
Doom at 320×240, with V, M and C. The columns take turns, so that what else the machine does
meets all of them; a line has the best turn of each, and in brackets the median of steps per second of processor time.

With `--run`: a generation of 64 Cs around the run's own, four dreams each, to their ends. `endless` are the same M and
C where no dream ends; `plain` goes on with all 256 lanes until the last dream has ended.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conformance.arguments import above_zero, count
from worldmodels import envs
from worldmodels.agent import Agent, Eyes, load
from worldmodels.cli import as_a_command
from worldmodels.controller import Controller
from worldmodels.dream import DreamStep, Starts
from worldmodels.envs import CARRACING, TAKECOVER, Actions, World
from worldmodels.fast_dream import BLOCK, Dreams, Population
from worldmodels.memory import DEATH_LOGIT, MDRNN
from worldmodels.rollout import Episode
from worldmodels.vision import VAE
from worldmodels.workers.places import choose_bfloat16, cores

LANES = (64, 256, 1024)
CPU = torch.device("cpu")
PLAY = 20  # steps of one call
CANDIDATES, SAMPLES = 64, 4  # of a generation
SPREAD = 0.03  # of its Cs' weights around the run's own
HORIZON = 2100  # steps of a dream, at most
ENDLESS = 1e30  # a logit of the end that M never predicts


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


Step = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""z (N, Z), h, c (N, H) and restart (N,) → the next z, h and c, and whether the dream ends, bool (N,)."""


def plain_step(
    mdrnn: MDRNN, controller: Controller, actions_of: Actions, parameters: Tensor, mask: Tensor | None = None
) -> Step:
    """A step of N dreams with one row of `parameters` (N, n) in each, in PyTorch's operations, one batch."""
    rule = DreamStep(mdrnn)

    @torch.no_grad()
    def step(z: Tensor, h: Tensor, c: Tensor, restart: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        raw = controller.act(parameters, controller.see(z, (h, c)))
        actions = torch.from_numpy(actions_of.squash(raw.numpy()))
        z, h, c, _, end = rule(z, actions, h, c, restart, torch.rand(z.shape), torch.randn(z.shape), 1.0, mask)
        return z, h, c, end

    return step


def plain(paper: Sizes, lanes: int) -> Iterator[int]:
    """The plain way."""
    parameters = torch.randn(lanes // 4, paper.controller.size) * 0.1
    step = plain_step(paper.mdrnn, paper.controller, paper.actions, parameters[torch.arange(lanes) // 4])
    z, (h, c) = torch.randn(lanes, paper.mdrnn.z_size), paper.mdrnn.initial_state(lanes)
    restart = torch.zeros(lanes)
    while True:
        for _ in range(PLAY):
            z, h, c, _ = step(z, h, c, restart)
        yield lanes * PLAY


def ours(paper: Sizes, lanes: int, threads: int, dtype: torch.dtype = torch.float32) -> Iterator[int]:
    """`Dreams.play`."""
    mdrnn, controller = paper.mdrnn, paper.controller
    dreams, each = Dreams(mdrnn, lanes, threads=threads, dtype=dtype), np.arange(lanes)
    parameters = np.random.default_rng(0).normal(0, 0.1, (lanes // 4, controller.size))
    act = Population(dreams, controller, parameters, paper.actions)
    z = np.random.default_rng(1).standard_normal((lanes, mdrnn.z_size), dtype=np.float32)
    starts = z, *np.zeros((2, lanes, mdrnn.hidden_size), dtype=np.float32), np.ones(lanes)
    while True:
        yield int(dreams.play(act, each // 4, PLAY, each % 4, starts)[1].sum())


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


class Generation:
    """A generation of a run's evolution: E dreams."""

    def __init__(self, folder: Path):
        self.agent, draw = load(folder), np.random.default_rng(0)
        mdrnn, mean = self.agent.memory, self.agent.population.numpy()
        bank = Starts.load(folder / "mdrnn" / "starts.safetensors", mdrnn).first()
        self.parameters = (mean + SPREAD * draw.standard_normal((CANDIDATES, mean.shape[1]))).astype(np.float32)
        self.who = np.repeat(np.arange(CANDIDATES), SAMPLES)
        self.keys = np.tile(np.arange(SAMPLES), CANDIDATES)
        self.starts = bank.arrays(draw.integers(len(bank.z), size=SAMPLES)[self.keys])
        mask = mdrnn.dropout_mask(SAMPLES, torch.Generator().manual_seed(0))
        self.mask = None if mask is None else mask.numpy()[self.keys]

    def plain(self) -> Iterator[int]:
        """The plain way, every lane until the last has ended."""
        agent, mask = self.agent, None if self.mask is None else torch.from_numpy(self.mask)
        parameters = torch.from_numpy(self.parameters[self.who])
        step = plain_step(agent.memory, agent.controller, agent.actions, parameters, mask)
        yield 0
        while True:
            (z, h, c, restart), alive, done = map(torch.from_numpy, self.starts), torch.ones(len(self.who)) > 0, 0
            for _ in range(HORIZON):
                z, h, c, end = step(z, h, c, restart)
                restart = torch.zeros(len(z))
                done += int(alive.sum())
                alive &= ~end
                if not alive.any():
                    break
            yield done

    def ours(self, threads: int, dtype: torch.dtype, death: float = DEATH_LOGIT, steps: int = HORIZON) -> Iterator[int]:
        """`Dreams.play`, as evolution has it."""
        agent = self.agent
        dreams = Dreams(agent.memory, BLOCK * threads, threads=threads, dtype=dtype, death=death)
        act = Population(dreams, agent.controller, self.parameters, agent.actions)
        yield int(dreams.play(act, self.who, PLAY, self.keys, self.starts, self.mask)[1].sum())
        while True:
            yield int(dreams.play(act, self.who, steps, self.keys, self.starts, self.mask)[1].sum())


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


def print_rates(what: str, columns: dict[str, Iterator[int]], seconds: float, repeats: int) -> None:
    """One line."""
    measured = rates(columns, seconds, repeats)
    line = "  ".join(f"{name} {best:8,.0f} ({median:8,.0f})" for name, (best, median) in measured.items())
    print(f"{what}: {line}", flush=True)


def untrained(world: str, seconds: float, repeats: int) -> None:
    """M and C of the paper's sizes, in dreams that do not end."""
    paper = sizes(world)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for lanes in LANES:
            columns = {
                "plain": plain(paper, lanes),
                "ours": ours(paper, lanes, threads),
                "floor": floor(paper.mdrnn, lanes),
            }
            if choose_bfloat16("auto", CPU):
                columns["bfloat16"] = ours(paper, lanes, threads, torch.bfloat16)
            if lanes == LANES[0]:
                columns["real"] = real(paper, threads)
            print_rates(f"{threads} threads, {lanes:5,} lanes", columns, seconds, repeats)
    held = [x for x in vars(Dreams(paper.mdrnn, 1024)).values() if isinstance(x, np.ndarray) and x.base is None]
    print(f"memory: {sum(x.nbytes for x in held) / 1024 / 1024:.1f} KiB a lane")


def to_the_end(folder: Path, seconds: float, repeats: int) -> None:
    """A generation of a run, on all cores."""
    generation, threads = Generation(folder), cores()
    torch.set_num_threads(threads)
    columns = {"plain": generation.plain()}
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        if name == "float32" or choose_bfloat16("auto", CPU):
            columns[name] = generation.ours(threads, dtype)
            columns[f"{name}, endless"] = generation.ours(threads, dtype, ENDLESS, 10 * PLAY)
    print_rates(f"{threads} threads, {len(generation.who)} dreams", columns, seconds, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("carracing", "takecover"), default="carracing")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=above_zero, default=1.0)
    parser.add_argument("--repeats", type=count, default=5)
    arguments = parser.parse_args()
    if arguments.run:
        to_the_end(arguments.run, arguments.seconds, arguments.repeats)
    else:
        untrained(arguments.world, arguments.seconds, arguments.repeats)


if __name__ == "__main__":
    with as_a_command():
        main()
