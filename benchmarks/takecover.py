"""Take Cover: steps per second beside the plain way, and what policies without eyes score.

    python -m benchmarks.takecover                            # speed, about a minute
    python -m benchmarks.takecover --memory                   # M's training, 512 units, half a minute
    python -m benchmarks.takecover --baselines --games 1000   # scores of the policies without eyes

Speed: Gymnasium's own vector environment (a worker process per core) around ViZDoom's wrapper, each frame cropped and
resized by Pillow, takes turns with `TakeCoverVectorEnv`, 3 seconds each: in this process, all its cores stepping the
lanes of one environment, and in a process per core with lanes of its own, as `worldmodels collect` has it. Every one's
best turn counts, so that other work on the machine slows all alike. Actions are random and episodes begin anew as they
end: a collection's work, but for the files.

M's training: updates on random sequences, in float32 and as the pipeline trains on this processor, in turns likewise.

Baselines: what happens does not depend on the screen, so nothing is drawn that nobody looks at. ± is the standard
deviation of a game.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from PIL import Image

from benchmarks.pipeline import CPU, rate, train_m
from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs import FRAME_SIZE, TAKECOVER, World, actions_for
from worldmodels.envs.takecover import (
    ACTIONS,
    BASELINES,
    BUTTONS,
    TIMEOUT,
    VIEW,
    TakeCover,
    TakeCoverVectorEnv,
)
from worldmodels.memory import MDRNN
from worldmodels.workers.places import Place, choose_bfloat16, cores
from worldmodels.workers.pool import open_pool

LANES = 16
ROUNDS = 3
SECONDS = 3.0  # a turn
FIRST_SEED = 950_000  # of the baselines' games


class Plain(gymnasium.ObservationWrapper):
    """ViZDoom's wrapper, its screen cropped and resized by Pillow."""

    def __init__(self, resolution: str):
        import vizdoom.gymnasium_wrapper  # noqa: F401  (registers its environments)

        os.chdir(tempfile.gettempdir())  # its engine writes its settings where it runs

        super().__init__(
            gymnasium.make(
                "VizdoomTakeCover-v1",
                screen_resolution=f"RES_{resolution.upper()}",
                render_hud=True,
                render_screen_flashes=True,
                episode_start_time=14,
                episode_timeout=2100,
                doom_skill=4,
            )  # fmt: skip
        )
        self.observation_space = gymnasium.spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        screen = observation["screen"]
        view = Image.fromarray(screen[: round(VIEW * len(screen))])
        return np.asarray(view.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BOX))


def plain(resolution: str) -> gymnasium.vector.VectorEnv:
    return gymnasium.vector.AsyncVectorEnv(
        [lambda: Plain(resolution)] * cores(), autoreset_mode=AutoresetMode.SAME_STEP
    )  # fmt: skip


def steps_per_second(env: gymnasium.vector.VectorEnv, rng: np.random.Generator) -> float:
    """Random actions for a turn, ended lanes begun anew."""
    rests = isinstance(env, TakeCoverVectorEnv)
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        _, _, terminated, truncated, _ = env.step(rng.integers(3, size=env.num_envs))
        steps += env.num_envs
        if rests and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    return steps / (time.perf_counter() - begin)


@dataclass(frozen=True)
class Collectors:
    """The setup of workers that step lanes of their own, a turn a job; a job is the seed of its actions."""

    resolution: str

    def __call__(self, place: Place) -> Callable[[int, Any], float]:
        env = TakeCoverVectorEnv(LANES // cores(), self.resolution, num_threads=place.threads)
        env.reset(seed=0)
        return lambda seed, on_step=None: steps_per_second(env, np.random.default_rng(seed))


def speed() -> None:
    """The table of steps per second."""
    print(
        f"{'screen':>9}{'plain':>9}{'ours':>9}{'workers':>9}{'ratio':>8}    steps/s on {cores()} cores, {LANES} lanes"
    )
    rng, places = np.random.default_rng(0), (Place("cpu", 1),) * cores()
    for resolution in ("640x480", "320x240", "160x120"):
        contenders = [plain(resolution), TakeCoverVectorEnv(LANES, resolution)]
        for env in contenders:
            env.reset(seed=0)
        with open_pool(Collectors(resolution), places, "processes") as pool:
            turns = []
            for _ in range(ROUNDS):
                rates = [steps_per_second(env, rng) for env in contenders]
                turns.append([*rates, sum(outcome for _, outcome in pool.run(range(cores())))])
        for env in contenders:
            env.close()
        theirs, ours, workers = np.max(turns, axis=0)
        print(f"{resolution:>9}{theirs:>9,.0f}{ours:>9,.0f}{workers:>9,.0f}{workers / theirs:>9.2f}", flush=True)


def memory_speed() -> None:
    """Frames per second of M's training: the paper's M, by the presets' batches and by the paper's."""
    ours = choose_bfloat16("auto", CPU)
    print(f"sequences of steps  float32  {'bfloat16' if ours else 'ours'}  frames/s, {torch.get_num_threads()} threads")
    for batch, length in ((16, 125), (100, 500)):
        works = []
        for bfloat16 in (False, ours):
            mdrnn = MDRNN(64, 1, 512, include_terminal=True, include_restart=True)
            mdrnn.use_bfloat16 = bfloat16
            works.append(train_m(mdrnn, batch, length))
        turns = [[rate(work, SECONDS) for work in works] for _ in range(ROUNDS)]
        plain, best = np.max(turns, axis=0)
        print(f"{batch:>9} of {length:<6}{plain:>9,.0f}{best:>10,.0f}", flush=True)


def score(env: TakeCover, game: int, policy: Callable[[np.random.Generator], Iterator[float]]) -> float:
    """What a policy without eyes scores in a game; tics on which its action stays are played at once, undrawn."""
    raw = np.fromiter(itertools.islice(policy(np.random.default_rng([FIRST_SEED, game])), TIMEOUT), np.float32)
    actions = actions_for(World(TAKECOVER), ACTIONS).to_env(raw[:, None])
    env.reset(seed=FIRST_SEED + game)
    total = 0.0
    for action, tics in itertools.groupby(actions.tolist()):
        total += env.engine.game.make_action(BUTTONS[action], len(list(tics)))
        if env.engine.game.is_episode_finished():
            break
    return total


def scores(policy: Callable[[np.random.Generator], Iterator[float]], games: int) -> np.ndarray:
    """Scores float64 (games,), an engine a core."""
    envs = [TakeCover("160x120") for _ in range(cores())]

    def share(first: int) -> list[float]:
        return [score(envs[first], game, policy) for game in range(first, games, len(envs))]

    total = np.zeros(games)
    with ThreadPoolExecutor(len(envs)) as pool:
        for first, part in enumerate(pool.map(share, range(len(envs)))):
            total[first :: len(envs)] = part
    for env in envs:
        env.close()
    return total


def baselines(names: list[str], games: int) -> None:
    """The table of scores, row by row as they are known."""
    print(
        "| policy | games | score | standard error | median | alive at the end |\n|---|---|---|---|---|---|", flush=True
    )
    for name in names:
        total = scores(BASELINES[name], games)
        spread = total.std(ddof=1)
        print(
            f"| {name} | {games:,} | {total.mean():.0f} ± {spread:.0f} | {spread / np.sqrt(games):.1f} "
            f"| {np.median(total):.0f} | {np.mean(total >= TIMEOUT):.1%} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--baselines", nargs="*", choices=BASELINES, metavar="POLICY", help=f"of {', '.join(BASELINES)} (default: all)"
    )
    parser.add_argument("--memory", action="store_true", help="how fast M learns")
    parser.add_argument("--games", type=count, default=300, help="games a policy")
    arguments = parser.parse_args()
    if arguments.memory:
        memory_speed()
    elif arguments.baselines is None:
        speed()
    else:
        baselines(arguments.baselines or list(BASELINES), arguments.games)


if __name__ == "__main__":
    with as_a_command():
        main()
