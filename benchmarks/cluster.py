"""Many workers, in one run on this machine: what they cost, what they bring, and what a model makes of it.

    python -m benchmarks.cluster [--only rows,workers,dispatch,memory,serial,ranks] [--repeats 5] [--steps 100]

`rows`: driving in products of 8 rows and more, one thread each, beside products as large as there are lanes.
`workers`: steps per second of Ray with 1 and 2 workers beside 2 processes, a generation of 64 × 4 episodes.
`dispatch`: a generation of 1,024 episodes that are over at once. `memory`: of the process that gathers episodes.
`serial`: what a generation costs that no worker shares; with `rows` it makes the model. `ranks`: torchrun.
Columns take turns, so that what else the machine does meets all of them. One thread is timed by the processor's clock.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conformance.arguments import count
from worldmodels import pretrained
from worldmodels.agent import Agent
from worldmodels.cli import as_a_command
from worldmodels.data.episodes import encode
from worldmodels.envs import CARRACING, World, actions_in
from worldmodels.evolution import strategies
from worldmodels.evolution.fitness import fitness
from worldmodels.rollout import Episode, GiveUp, Rollout
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import write_atomically
from worldmodels.runs.metrics import read
from worldmodels.workers import driver
from worldmodels.workers.driver import Course, Driver, Drivers, Job, Outcome, best_of
from worldmodels.workers.places import Place, cores, limited_threads
from worldmodels.workers.pool import open_pool

PARTS = ("rows", "workers", "dispatch", "memory", "serial", "ranks")
HERE = (Place("cpu", 1),)
STEPS, EPISODES = 1_000, 1_024  # of the paper's generation: 64 candidates, 16 episodes each


def turns(work: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each column's results, turn by turn."""
    for column in work.values():
        column()
    results: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, column in work.items():
            results[name].append(column())
    return results


def ratio(results: dict[str, list[float]], ours: str, baseline: str) -> str:
    """Median of the turns' ratios, and their range."""
    found = sorted(a / b for a, b in zip(results[ours], results[baseline], strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.3f} – {found[-1]:.3f})"


def shipped() -> tuple[Drivers, np.ndarray]:
    """The driver of the package, on our simulator."""
    world = World(CARRACING)
    models, parameters = best_of(RunDir.of(pretrained.folder("carracing")), actions_in(world))
    return Drivers(world, 64, models), parameters


# ---------------------------------------------------------------------------------------------- same bits


class OneProduct(Driver):
    """Drives in one product of all lanes that drive, whatever their number, on all threads."""

    def policy(self, job: Job, actions):  # type: ignore[no-untyped-def]
        models, (eyes, memory) = self.setup.models, self.models
        return Agent(eyes, memory, models.controller, job.population, actions, models.seed)


def rows(repeats: int, steps: int) -> float:
    """Steps per second in products of 8 rows and more beside the plain way; returns the processor's seconds per lane
    and step."""
    setup, parameters = shipped()
    for threads in sorted({1, cores()}):
        place = Place("cpu", threads)
        for lanes in (64, 16):
            count = 3 * lanes // 2 if lanes == 64 else lanes  # a generation, of which many are given up; selection
            episodes = tuple(Episode(950_000 + i, i) for i in range(count))
            draw = np.random.default_rng(0).normal(1, 0.3 if lanes == 64 else 0.0, (count, len(parameters)))
            population = (parameters * draw).astype(np.float32)
            job = Job(episodes, population, Course("line", steps, GiveUp(steps // 4, steps)))
            workers = {"padded": Driver(setup, place), "plain": OneProduct(setup, place)}

            def drive(worker: Driver, job: Job = job, threads: int = threads) -> float:
                clock = time.process_time if threads == 1 else time.perf_counter
                began = clock()
                with limited_threads(threads):
                    outcome = worker(job)
                return float(outcome.lengths.sum() / (clock() - began))

            setup_lanes = Drivers(setup.world, lanes, setup.models)
            workers["padded"].setup = workers["plain"].setup = setup_lanes
            results = turns({name: lambda w=worker: drive(w) for name, worker in workers.items()}, repeats)
            best = max(results["padded"])
            speed = ratio(results, "padded", "plain")
            print(f"rows: {threads} threads, {lanes} lanes: {best:7,.0f} steps/s, {speed} × the plain way", flush=True)
            if threads == 1 and lanes == 64:
                per_step = 1 / best
    return per_step


# ------------------------------------------------------------------------------------------------ workers


def workers(repeats: int, steps: int) -> None:
    """Processes, Ray with as many workers, and Ray with one."""
    setup, parameters = shipped()
    population = np.stack([parameters * np.float32(1 + 0.002 * i) for i in range(64)])
    tracks, two = range(950_000, 950_004), (Place("cpu", 1),) * 2

    def generation(pool) -> float:  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        _, driven = fitness(pool, population, tracks, Course("line", steps), 64)
        return driven / (time.perf_counter() - began)

    with (
        open_pool(setup, two, "processes") as crew,
        open_pool(setup, HERE, ray="local", most=2) as pair,
        open_pool(setup, HERE, ray="local", most=1) as single,
    ):
        work = {"processes": crew, "ray2": pair, "ray1": single}
        results = turns({name: lambda pool=pool: generation(pool) for name, pool in work.items()}, repeats)
    rates = ", ".join(f"{name} {statistics.median(rate):,.0f}" for name, rate in results.items())
    print(f"workers: steps/s {rates}; Ray with 2 is {ratio(results, 'ray2', 'processes')} × two processes and "
          f"{ratio(results, 'ray2', 'ray1')} × Ray with 1", flush=True)  # fmt: skip


@dataclass(frozen=True)
class Null:
    """Workers whose episodes are over at once; `size` bytes are recorded of each."""

    size: int = 0

    def __call__(self, place: Place) -> Callable[..., Outcome]:
        return self.drive

    def drive(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome:
        count = len(job.episodes)
        return Outcome(np.zeros(count), np.ones(count, np.int64), [os.urandom(self.size)] * count if self.size else [])


def dispatch(repeats: int) -> float:
    """Seconds that handing out a generation takes."""
    population = np.random.default_rng(0).normal(size=(64, 867)).astype(np.float32)
    with open_pool(Null(), HERE, ray="local", most=cores()) as pool:

        def generation(lanes: int) -> float:
            began = time.perf_counter()
            fitness(pool, population.copy(), range(16), Course(), lanes)
            return time.perf_counter() - began

        results = turns({str(lanes): lambda lanes=lanes: generation(lanes) for lanes in (64, 32, 16)}, 4 * repeats)
    for lanes, seconds in results.items():
        print(f"dispatch: 1,024 episodes in blocks of {lanes}: {1000 * statistics.median(seconds):.0f} ms "
              f"(best {1000 * min(seconds):.0f})", flush=True)  # fmt: skip
    return statistics.median(results["16"])


def memory() -> None:
    """Memory of this process while it gathers 100 and then 1,000 episodes of 1 MB."""
    with open_pool(Null(1_000_000), HERE, ray="local", most=cores()) as pool:
        for count in (100, 1_000):
            jobs = [Job((Episode(i), Episode(i + 1)), record=True) for i in range(0, count, 2)]
            for _ in pool.run(jobs):
                pass
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"memory: {count:5,} MB of episodes gathered, peak of this process {peak:.0f} MB", flush=True)


# -------------------------------------------------------------------------------------------- the serial part


def serial() -> float:
    """Seconds per generation of CMA-ES with the paper's 867 numbers, a decomposition every third generation."""
    strategy, seconds = strategies.make("cma", 867, 64, 0.1, 0), []
    with limited_threads(1):
        for _ in range(12):
            began = time.process_time()
            scores = -np.square(strategy.ask()).sum(axis=1)
            strategy.tell(scores)
            seconds.append(time.process_time() - began)
    mean = statistics.mean(seconds)
    print(f"serial: CMA-ES {1000 * mean:.0f} ms a generation, {1000 * max(seconds):.0f} with a decomposition, "
          f"{1000 * min(seconds):.0f} without", flush=True)  # fmt: skip
    return mean


def model(per_step: float, handing_out: float, strategy: float) -> None:
    """The paper's generation on more cores: 64 candidates × 16 episodes of 1,000 steps, all equally long."""
    print("model:  cores  seconds a generation  times as fast  serial share")
    alone = EPISODES * STEPS * per_step + strategy
    for many in (1, 2, 8, 32, 64, 128, 512):
        lanes = min(64, -(-EPISODES // many))
        rounds = -(-EPISODES // (lanes * many))
        padded = max(lanes, driver.ROWS)
        part = strategy + (handing_out if many > 1 else 0.0)
        whole = rounds * padded * STEPS * per_step + part
        print(f"model:  {many:5}  {whole:20.2f}  {alone / whole:13.1f}  {part / whole:12.1%}")


# ------------------------------------------------------------------------------------------------- torchrun


def ranks() -> None:
    """V and M with 1, 2 and 4 processes: speed, and the peak memory of one of them."""
    with tempfile.TemporaryDirectory() as folder:
        data, draw = Path(folder) / "rollouts", np.random.default_rng(0)
        for i in range(20):
            frames = draw.integers(256, size=(101, 64, 64, 3), dtype=np.uint8)
            rewards = np.zeros(100, np.float32)
            rollout = Rollout(frames, draw.random((100, 3), dtype=np.float32), rewards, np.zeros(100, bool))
            write_atomically(data / f"rollout_{i:06d}.npz", encode(rollout))
        for command, stage, rate in (("train-vae", "vae", "frames"), ("train-mdrnn", "mdrnn", "transitions")):
            for count in (1, 2, 4):
                logdir = Path(folder) / f"run{count}"
                words = [command, "--logdir", str(logdir), "--rootdir", str(data), "--epochs", "2", "--nosamples"]
                words += ["--sequence-length", "20"] if stage == "mdrnn" else []
                launch = (
                    ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
                )
                line = [sys.executable, *launch, "-m", "worldmodels", *words]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                peak, done = watched(
                    subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
                )
                assert done == 0
                speed = read(logdir / stage / "metrics.jsonl")[-1][f"{rate}_per_second"]
                print(f"ranks: {command} {count} processes: {speed:7,.0f} {rate}/s, {peak:,.0f} MB in all", flush=True)


def watched(process: "subprocess.Popen[bytes]") -> tuple[float, int]:
    """(most memory of a process and those it started, in MB, counting what they share in parts; its exit code)."""
    import psutil

    most = 0.0
    while process.poll() is None:
        total = 0.0
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += member.memory_full_info().pss / 1e6
            except psutil.Error:
                continue
        most = max(most, total)
        time.sleep(0.5)
    return most, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--steps", type=count, default=100, help="of an episode")
    arguments = parser.parse_args()
    asked = arguments.only.split(",")
    if unknown := [part for part in asked if part not in PARTS]:
        parser.error(f"--only knows no {', '.join(unknown)}: it takes some of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    per_step = rows(arguments.repeats, arguments.steps) if "rows" in asked else None
    if "workers" in asked:
        workers(arguments.repeats, arguments.steps)
    handing_out = dispatch(arguments.repeats) if "dispatch" in asked else None
    if "memory" in asked:
        memory()
    strategy = serial() if "serial" in asked else None
    if per_step and handing_out and strategy:
        model(per_step, handing_out, strategy)
    if "ranks" in asked:
        ranks()


if __name__ == "__main__":
    with as_a_command():
        main()
