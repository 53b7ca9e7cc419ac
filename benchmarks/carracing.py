"""Steps a second of CarRacing: Gymnasium, EnvPool (where installed) and ours, side by side in one run.

    python -m benchmarks.carracing            # about four minutes on two cores
    python -m benchmarks.carracing --quick    # about one

Every environment is driven along its road by the same pixel-steered driver (closed_loop.py); only the time inside
`step` counts, frames included. The baselines are measured before and after ours, so that a machine that slows down
shows. Reset time, memory a lane, cold compilation and cached start follow.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

import worldmodels  # noqa: F401  (registers worldmodels/CarRacing-v3)
from benchmarks.closed_loop import drive
from worldmodels.envs.carracing import CarRacingVectorEnv

WARM_UP = 60  # steps before the clock runs: past the camera's zoom, at speed
HOLD = 5  # steps an action is held, so that the driver does not take most of the benchmark's time
OURS = "worldmodels/CarRacing-v3"


@dataclass
class Speed:
    """Steps a second of one configuration."""

    name: str
    lanes: int
    pixels: int
    threads: int
    steps_per_second: float


def full_frames(observations: np.ndarray) -> np.ndarray:
    """What the driver sees, uint8 (N,96,96,3): 64×64 frames are enlarged by repeating pixels."""
    if observations.shape[1] == 96:
        return observations
    index = np.arange(96) * 64 // 96
    return observations[:, index][:, :, index]


def steps_per_second(env: Any, seconds: float) -> float:
    """Lane steps a second inside `env.step`, for a batched environment driven along its road."""
    frames, _ = env.reset()
    lanes, spent, steps = len(frames), 0.0, 0
    actions = np.zeros((lanes, 3), np.float32)
    while spent < seconds or steps <= WARM_UP:
        if steps % HOLD == 0:
            actions = np.stack([drive(frame) for frame in full_frames(frames)])
        begin = time.perf_counter()
        frames = env.step(actions)[0]
        steps += 1
        if steps > WARM_UP:
            spent += time.perf_counter() - begin
    env.close()
    return lanes * (steps - WARM_UP) / spent


def gymnasium_envs(lanes: int, threads: int) -> Any:
    """Gymnasium's environments in one process (threads = 1), or in as many processes as `threads`."""
    if threads == 1:
        return SyncVectorEnv([lambda: gymnasium.make("CarRacing-v3")] * lanes)
    return gymnasium.make_vec("CarRacing-v3", num_envs=threads, vectorization_mode="async")


def envpool_envs(lanes: int, threads: int) -> Any:
    """EnvPool's environments."""
    import envpool

    return envpool.make_gymnasium("CarRacing-v3", num_envs=lanes, num_threads=threads, seed=0)


def our_envs(lanes: int, threads: int, pixels: int = 96) -> Any:
    """Our environments."""
    return CarRacingVectorEnv(lanes, num_threads=threads, obs_size=pixels)


def baselines(seconds: float) -> list[Speed]:
    """Gymnasium and EnvPool, one core and two."""
    found = []
    for threads in (1, 2):
        speed = steps_per_second(gymnasium_envs(1, threads), seconds)
        found.append(Speed("gymnasium 1.4.0", threads, 96, threads, speed))
    try:
        import envpool  # noqa: F401
    except ImportError:
        print("(EnvPool is not installed: `pip install envpool==1.2.5` adds it to the table)")
        return found
    for threads in (1, 2):
        speed = steps_per_second(envpool_envs(64, threads), seconds)
        found.append(Speed("EnvPool 1.2.5", 64, 96, threads, speed))
    return found


def speed_table(seconds: float) -> list[Speed]:
    """Measure everything; print a row as soon as it is known."""
    header = f"{'':18}{'lanes':>6}{'pixels':>8}{'threads':>9}{'steps/s':>10}{'x gymnasium':>13}{'x EnvPool':>11}"
    print(header + "\n" + "-" * len(header))
    rows: list[Speed] = []

    def best(name: str, threads: int) -> float:
        return max(
            (row.steps_per_second for row in rows if row.name == name and row.threads == threads), default=np.nan
        )

    def show(row: Speed) -> None:
        rows.append(row)
        ratios = [row.steps_per_second / best(name, row.threads) for name in ("gymnasium 1.4.0", "EnvPool 1.2.5")]
        print(
            f"{row.name:18}{row.lanes:>6}{row.pixels:>8}{row.threads:>9}{row.steps_per_second:>10,.0f}"
            f"{ratios[0]:>13.1f}{ratios[1]:>11.1f}",
            flush=True,
        )

    for row in baselines(seconds):
        show(row)
    for threads in (1, 2):
        for pixels in (96, 64):
            for lanes in (1, 16, 64, 256):
                speed = steps_per_second(our_envs(lanes, threads, pixels), seconds)
                show(Speed("ours", lanes, pixels, threads, speed))
    for row in baselines(seconds):
        show(row)
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
    """KiB a lane: arrays of the simulator, and growth of the resident set after resets and steps."""
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
    theirs, ours, many = gymnasium.make("CarRacing-v3"), gymnasium.make(OURS), our_envs(64, 1)
    ours.reset(), many.reset()
    print(f"\nreset, one lane, first frame included: gymnasium {milliseconds(theirs.reset, 20):.1f} ms, ", end="")
    print(f"ours {milliseconds(ours.reset, 200):.2f} ms; 64 lanes {milliseconds(many.reset, 20) / 64:.2f} ms a lane")
    arrays, resident = memory_per_lane()
    print(f"memory a lane (256 lanes): {arrays:.0f} KiB of arrays, {resident:.0f} KiB resident")
    with tempfile.TemporaryDirectory() as cache:
        cold = start_seconds(cache)
        print(f"import to first step: {cold:.1f} s cold (compiles, once)", end="", flush=True)
        print(f", {min(start_seconds(cache) for _ in range(3)):.2f} s from the cache")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a second a row instead of three")
    run(0.5 if parser.parse_args().quick else 3.0)
