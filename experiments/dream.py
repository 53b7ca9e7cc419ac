r"""What the package's M dreams at several temperatures, and what a C that evolves there alone is worth on the road.

    worldmodels collect --policy agent --logdir worldmodels/pretrained/carracing --start anywhere --max-steps 250 \
        --rollouts 100 --rootdir rollouts
    python -m experiments.dream [--episodes rollouts] [--generations 25] [--images docs/images]

Prints the table of docs/dream.md and writes its pictures. Dreams begin from the package's starts and last
250 steps.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from conformance.arguments import count
from worldmodels import envs, memory, pretrained, vision
from worldmodels.agent import Agent, Eyes
from worldmodels.cli import as_a_command
from worldmodels.controller import Controller
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import load_rollout
from worldmodels.data.latents import look
from worldmodels.dream import Starts
from worldmodels.envs.seeds import SELECTION
from worldmodels.evolution import strategies
from worldmodels.fast_dream import Dreams, Population
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode, drive
from worldmodels.runs import checkpoint
from worldmodels.show.pictures import labelled, write_png
from worldmodels.training.quality import fixed_policies, open_loop, sentences
from worldmodels.vision import VAE

RUN = pretrained.folder("carracing")
TEMPERATURES = (0.1, 0.5, 1.0, 1.3)
HORIZON, SHOWN = 250, (0, 10, 20, 40, 60, 80, 120, 160, 200, 249)  # steps of a dream, steps in the pictures
POPULATION, STARTS, SIGMA = 64, 8, 0.1  # candidates, dreams per candidate, first step size of CMA-ES
ANYWHERE = envs.reset_options(envs.CARRACING, "anywhere")
FRESH_KEY = 10**9  # noise that no generation has met


class World:
    """V, M and the states from which dreams begin, and the road."""

    def __init__(self, vae: VAE, mdrnn: MDRNN, starts: Starts) -> None:
        self.vae, self.mdrnn, self.starts = vae, mdrnn, starts
        self.actions = envs.actions_in(envs.World(envs.CARRACING))
        self.shape = Controller(mdrnn.z_size, mdrnn.hidden_size, self.actions.outputs)

    def dreams(self, temperature: float, which: np.ndarray, keys: np.ndarray) -> Dreams:
        """One dream a start number of `which` (N,), with the noise of `keys` (N,)."""
        dreams = Dreams(self.mdrnn, len(which), temperature=temperature, threads=torch.get_num_threads())
        dreams.begin(np.arange(len(which)), keys, *self.starts.arrays(which))
        return dreams

    def dreamed(self, parameters: np.ndarray, temperature: float, which: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Returns (P, S) of the candidates (P, n), each in the same S dreams."""
        candidates, s = len(parameters), len(which)
        which, keys, who = np.tile(which, candidates), np.tile(keys, candidates), np.repeat(np.arange(candidates), s)
        dreams = self.dreams(temperature, which, keys)
        act = Population(dreams, self.shape, parameters, self.actions)
        returns, _ = dreams.play(act, who, HORIZON, keys, self.starts.arrays(which))
        dreams.close()
        return returns.reshape(candidates, s)

    def real(
        self, parameters: np.ndarray, steps: int | None, options: dict | None, tracks: int = 16, first: int = SELECTION
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tracks,) of one C (n,) on the tracks from `first` on, and the frames of the first."""
        env = envs.make(envs.World(envs.CARRACING), tracks, max_steps=steps)
        agent = Agent(Eyes(self.vae), self.mdrnn, self.shape, parameters[None], self.actions)
        episodes = [Episode(first + track) for track in range(tracks)]
        frames: dict[int, np.ndarray] = {}
        keep = lambda index, rollout: frames.update({index: rollout.frames} if index == 0 else {})  # noqa: E731
        scores, _ = drive(env, self.actions, agent, episodes, options=options, on_rollout=keep)
        env.close()
        return scores, frames[0]

    def strip(self, parameters: np.ndarray, temperature: float, start: int) -> np.ndarray:
        """(64, columns · 64, 3): one dream, driven by one C."""
        dreams = self.dreams(temperature, np.array([start]), np.array([FRESH_KEY]))
        act = Population(dreams, self.shape, parameters[None], self.actions)
        seen = []
        for t in range(HORIZON):
            if t in SHOWN:
                seen.append(self.vae.decode(torch.from_numpy(dreams.z.copy()))[0])
            dreams.step(act(np.arange(1), np.zeros(1, int)))
        return np.concatenate(seen, axis=1)


def evolved(world: World, temperature: float, generations: int, seed: int = 0) -> np.ndarray:
    """The mean of CMA-ES after `generations` in the dream alone: every candidate of one meets the same dreams."""
    strategy = strategies.make("cma", world.shape.size, POPULATION, SIGMA, seed=seed)
    for generation in range(generations):
        draw = np.random.default_rng([seed, generation])
        which, keys = draw.integers(len(world.starts.z), size=STARTS), draw.integers(2**62, size=STARTS)
        strategy.tell(world.dreamed(strategy.ask(), temperature, which, keys).mean(axis=1))
    return strategy.mean


def picture(path: Path, rows: list[np.ndarray], names: list[str]) -> None:
    """Strips under each other, each with its name above, and the columns' steps over all."""
    parts = [np.concatenate([labelled(f"step {t}" if t == 0 else str(t), 64) for t in SHOWN], axis=1)]
    for row, name in zip(rows, names, strict=True):
        parts += [labelled(name, row.shape[1], "left"), row]
    write_png(path, np.concatenate(parts))


def foresight(world: World, folder: str) -> None:
    """Print how well M foresees the rewards of the episodes in `folder` on its own z."""
    paths = open_dataset(folder).files
    episodes = [look(world.vae, load_rollout(path)) for path in paths]
    for temperature in (0.0, *TEMPERATURES):
        measured = open_loop(world.mdrnn, episodes, temperature)
        print(f"temperature {temperature}: {next(sentences({'open_loop': measured}))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=count, default=25)
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--episodes", help="folder of real episodes, for M's foresight of their rewards")
    arguments = parser.parse_args()
    mdrnn = memory.load(RUN)
    world = World(vision.load(RUN), mdrnn, Starts.load(RUN / "mdrnn" / "starts.safetensors", mdrnn))
    if arguments.episodes:
        foresight(world, arguments.episodes)
    tensors, _ = checkpoint.load(RUN / "ctrl" / "best.safetensors")
    driver = tensors["parameters"].float().numpy()
    everyone, keys = np.arange(len(world.starts.z)), np.arange(len(world.starts.z)) + FRESH_KEY

    start = int(np.flatnonzero(world.starts.restart.numpy() == 0)[3])
    rows = [world.strip(driver, temperature, start) for temperature in TEMPERATURES]
    picture(arguments.images / "dream_temperatures.png", rows, [f"temperature {t}" for t in TEMPERATURES])

    straight = fixed_policies(world.actions, HORIZON)["rest"]  # half gas, straight on
    print("return of 250 steps: the package's driver, half gas straight on, and a C evolved in this dream alone")
    print(f"on the road, from anywhere: driver {world.real(driver, HORIZON, ANYWHERE)[0].mean():.0f}")
    learned = {t: evolved(world, t, arguments.generations) for t in TEMPERATURES}
    for temperature, parameters in learned.items():
        known = world.dreamed(driver[None], temperature, everyone, keys).mean()
        dreams = world.dreams(temperature, everyone, keys)
        blind = sum(dreams.step(np.tile(action, (len(everyone), 1)))[0].mean() for action in straight)
        dreamed = world.dreamed(parameters[None], temperature, everyone, keys).mean()
        short, _ = world.real(parameters, HORIZON, ANYWHERE)
        laps, _ = world.real(parameters, None, None)
        print(
            f"temperature {temperature}: driver {known:.0f}, straight {blind:.0f}, evolved {dreamed:.0f}; it on the "
            f"road {short.mean():.0f}, whole laps {laps.mean():.0f} ± {laps.std():.0f}",
            flush=True,
        )

    _, frames = world.real(learned[1.0], HORIZON, ANYWHERE)
    real = np.concatenate([frames[min(t, len(frames) - 1)] for t in SHOWN], axis=1)
    rows = [world.strip(learned[1.0], 1.0, start), real]
    picture(arguments.images / "dream_cheat.png", rows, ["what it dreams", "what it then drives"])


if __name__ == "__main__":
    with as_a_command():
        main()
