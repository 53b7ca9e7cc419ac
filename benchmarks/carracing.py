"""Steps per second of CarRacing: Gymnasium, EnvPool (where installed), our exact frames and our fast ones in one run.

    python -m benchmarks.carracing            # about five minutes on two cores
    python -m benchmarks.carracing --quick    # about three

Every environment is driven along its road by the same pixel-steered driver (closed_loop.py); only the time inside
`step` counts, frames included. All take turns, a second each, three times, and each one's best round counts: other
work on the machine then slows them alike. Reset time, memory per lane, cold compilation and cached start follow.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

import worldmodels  # noqa: F401  (registers worldmodels/CarRacing-v3)
from conformance.closed_loop import drive
from worldmodels.cli import as_a_command
from worldmodels.envs.carracing import CarRacingVectorEnv

ROUNDS = 5
HOLD = 5  # steps an action is held, so that the driver does not take most of the benchmark's time
OURS = "worldmodels/CarRacing-v3"


@dataclass
class Contender:
    """One configuration of the table, and its best round so far."""

    name: str
    lanes: int
    pixels: int
    threads: int
    env: Any
    frames: np.ndarray
    best: float = 0.0

    def drive(self, seconds: float) -> None:
        """Drive on for so many seconds inside `env.step`; keep the round if it was the fastest."""
        spent, steps = 0.0, 0
        while spent < seconds:
            if steps % HOLD == 0:
                actions = np.stack([drive(frame) for frame in full_frames(self.frames)])
            begin = time.perf_counter()
            self.frames = self.env.step(actions)[0]
            spent += time.perf_counter() - begin
            steps += 1
        self.best = max(self.best, self.lanes * steps / spent)


def full_frames(observations: np.ndarray) -> np.ndarray:
    """What the driver sees, uint8 (N,96,96,3): 64×64 frames are enlarged by repeating pixels."""
    if observations.shape[1] == 96:
        return observations
    index = np.arange(96) * 64 // 96
    return observations[:, index][:, :, index]


def contenders() -> Iterator[Contender]:
    """Gymnasium (one process per thread), EnvPool, ours; all reset."""
    one = SyncVectorEnv([lambda: gymnasium.make("CarRacing-v3")])
    two = gymnasium.make_vec("CarRacing-v3", num_envs=2, vectorization_mode="async")
    for threads, env in ((1, one), (2, two)):
        yield Contender("gymnasium 1.4.0", threads, 96, threads, env, env.reset(seed=0)[0])
    try:
        import envpool
    except ImportError:
        print("(EnvPool is not installed: `pip install envpool==1.2.5` adds it to the table)")
    else:
        for threads in (1, 2):
            env = envpool.make_gymnasium("CarRacing-v3", num_envs=64, num_threads=threads, seed=0)
            yield Contender("EnvPool 1.2.5", 64, 96, threads, env, env.reset()[0])
    for frames, most in (("exact", 64), ("fast", 256)):
        for threads in (1, 2):
            for pixels in (96, 64):
                for lanes in (lanes for lanes in (1, 16, 64, 256) if lanes <= most):
                    env = CarRacingVectorEnv(lanes, num_threads=threads, obs_size=pixels, frames=frames)
                    yield Contender(f"ours, {frames}", lanes, pixels, threads, env, env.reset(seed=0)[0])


def speed_table(seconds: float) -> list[Contender]:
    """Everyone drives in turn, ROUNDS times; the table shows each one's best round."""
    rows = list(contenders())
    for row in rows:
        row.drive(seconds / 2)  # past the camera's zoom, at speed
        row.best = 0.0
    for _ in range(ROUNDS):
        for row in rows:
            row.drive(seconds)
    header = f"{'':16}{'lanes':>6}{'pixels':>8}{'threads':>9}{'steps/s':>10}{'x gymnasium':>13}{'x EnvPool':>11}"
    print(header + "\n" + "-" * len(header))
    best = {(row.name, row.threads): row.best for row in rows if not row.name.startswith("ours")}
    for row in rows:
        ratios = [row.best / best.get((name, row.threads), np.nan) for name in ("gymnasium 1.4.0", "EnvPool 1.2.5")]
        print(
            f"{row.name:16}{row.lanes:>6}{row.pixels:>8}{row.threads:>9}{row.best:>10,.0f}"
            f"{ratios[0]:>13.1f}{ratios[1]:>11.1f}"
        )
        row.env.close()
    return rows


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Median time of `work` in ms."""
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)) * 1e3


def memory_per_lane(lanes: int = 256) -> tuple[float, float]:
    """KiB per lane: arrays of the simulator, and growth of the resident set after resets and steps."""
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
    env = CarRacingVectorEnv(lanes, copy=False)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((lanes, 3)))
    with open("/proc/self/statm") as statm:
        after = int(statm.read().split()[1])
    batch = env.batch
    arrays = sum(array.nbytes for array in (*batch.tracks, *batch.cars, batch.frames))
    return arrays / lanes / 1024, (after - before) * os.sysconf("SC_PAGESIZE") / lanes / 1024


START = """
import time; begin = time.perf_counter()
import numpy, gymnasium, worldmodels
env = gymnasium.make("worldmodels/CarRacing-v3")
env.reset(seed=0); env.step(numpy.zeros(3))
print(time.perf_counter() - begin)
"""


def start_seconds(cache: str) -> float:
    """Seconds from `import` to the first step in a fresh interpreter whose numba cache is the folder `cache`."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    answer = subprocess.run([sys.executable, "-c", START], env=environment, check=True, capture_output=True, text=True)
    return float(answer.stdout.split()[-1])


def run(seconds: float) -> None:
    """The whole benchmark."""
    speed_table(seconds)
    theirs, ours, many = gymnasium.make("CarRacing-v3"), gymnasium.make(OURS), CarRacingVectorEnv(64, num_threads=1)
    ours.reset(), many.reset()
    print(f"\nreset, one lane, first frame included: gymnasium {milliseconds(theirs.reset, 20):.1f} ms, ", end="")
    print(f"ours {milliseconds(ours.reset, 200):.2f} ms; 64 lanes {milliseconds(many.reset, 20) / 64:.2f} ms per lane")
    arrays, resident = memory_per_lane()
    print(f"memory per lane (256 lanes): {arrays:.0f} KiB of arrays, {resident:.0f} KiB resident")
    with tempfile.TemporaryDirectory() as cache:
        cold = start_seconds(cache)
        print(f"import to first step: {cold:.1f} s cold (compiles, once)", end="", flush=True)
        print(f", {min(start_seconds(cache) for _ in range(3)):.2f} s from the cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter turns")
    run(0.3 if parser.parse_args().quick else 1.0)


if __name__ == "__main__":
    with as_a_command():
        main()
