"""The simulator and the dream compiled once, before tests run side by side: else each of their processes does it.

    python -m tests.helpers.compiled PART

Two processes at a time, which compile different functions; what calls both kinds comes last.
"""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

ROOT = Path(__file__).parents[2]
STAGES = (("physics_and_dreams", "frames"), ("fast", "exact"))


def physics_and_dreams() -> None:
    from worldmodels.controller import Controller
    from worldmodels.dream_kernels import noise
    from worldmodels.envs.actions import Car
    from worldmodels.fast_dream import Dreams, Population
    from worldmodels.memory import MDRNN

    env = drive(observation="state")
    noise(np.zeros(1), np.zeros(1), 2)
    dreams, shape = Dreams(MDRNN(2, 3, 4), 1), Controller(2, 4, 3)
    act, zero = (
        Population(dreams, shape, np.zeros((1, shape.size)), Car(env.single_action_space)),
        np.zeros(1, np.int64),
    )
    dreams.play(act, zero, 1, zero, (np.zeros((1, 2)), zero, zero, zero))


def frames() -> None:
    """Both kinds of them."""
    from worldmodels.envs.carracing.render import Painter
    from worldmodels.envs.carracing.state import allocate

    for is_exact in (False, True):
        Painter(96, is_exact).draw(*allocate(1), 0)


def fast() -> None:
    drive()


def exact() -> None:
    drive(frames="exact")


def drive(**view: str):
    """A car that sees so, after a step."""
    from worldmodels.envs.carracing import CarRacingVectorEnv

    env = CarRacingVectorEnv(1, num_threads=1, **view)
    env.reset(seed=0)
    env.step(np.zeros((1, 3)))
    return env


def fill_cache() -> None:
    """Nothing where that was done since the sources changed."""
    from worldmodels.envs.carracing import batch

    package = Path(batch.__file__).parents[2]
    sources = [*Path(batch.__file__).parent.glob("*.py"), package / "dream_kernels.py"]
    cache = Path(batch._advance_lanes.stats.cache_path)
    done = cache / f"filled-{sys.implementation.cache_tag}-numba-{numba.__version__}"
    if done.exists() and done.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    for parts in STAGES:
        running = [subprocess.Popen([sys.executable, "-m", "tests.helpers.compiled", part], cwd=ROOT) for part in parts]
        if any([process.wait() for process in running]):
            raise RuntimeError("the simulator does not compile")
    done.touch()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
