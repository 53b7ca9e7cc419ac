"""The paper's temperature table, and what C needs: C evolved in the dream of one M, dreamed and real scores.

    worldmodels run --preset takecover --logdir doom
    python -m experiments.takecover doom [--temperatures 0.1 0.5 1.0 1.15 1.3] [--seeds 2] [--games 500]
        [--resolution 320x240]
    python -m experiments.takecover doom --ablations --temperatures 1.0 --seeds 1 --games 100

V and M are the run's, and so is how C evolves, but for the temperature, the seed and, with --ablations, what C sees or
the M that dreams. Each C lives in a run of its own below doom/temperatures or doom/ablations, so that a killed table
goes on. Dreamed scores are of 256 dreams that no candidate has met, at the temperature at which C evolved; real ones of
development games (seeds from 950,000), by default at 640×480 as `evaluate` plays; 320×240, at which episodes are
gathered, costs a third. ± is the standard deviation of an episode.
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from conformance.arguments import count
from worldmodels import controller, envs
from worldmodels.cli import as_a_command, parse
from worldmodels.commands import train_controller, train_mdrnn
from worldmodels.envs import TAKECOVER, World, describe
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.envs.takecover import RESOLUTIONS
from worldmodels.evolution.fitness import fitness
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json, write_json
from worldmodels.runs.settings import TrainController
from worldmodels.runs.stages import stages
from worldmodels.workers.driver import Course, Drivers, best_of
from worldmodels.workers.places import choose_device, choose_places
from worldmodels.workers.pool import open_pool

DREAMS = 256
LANES = 32  # games side by side
BLOCK = 100  # games after which their scores are kept


UNTRAINED = "untrained M"
MEAN = "mean of z"  # in the games; a dream's z is a sample, so that C is the whole one
ABLATIONS: dict[str, dict[str, Any]] = {  # name → what is changed of how C evolves
    "z and h": {"inputs": "zh"}, "z": {"inputs": "z"}, MEAN: {}, UNTRAINED: {},
}  # fmt: skip


def settings(logdir: Path, arm: str, temperature: float, seed: int, generations: int | None) -> TrainController:
    """How the run's C evolves, in a folder of its own that shares V and M; `arm` is one of `ABLATIONS`, or empty."""
    asked, _ = parse("run", ["--logdir", str(logdir)])
    name = f"{temperature:g}_{seed}"
    whole = arm in ("", MEAN)
    folder = logdir / "temperatures" / name if whole else logdir / "ablations" / f"{arm.replace(' ', '-')}_{name}"
    for stage in ("vae", "mdrnn"):
        RunDir(logdir).trained(stage)
    folder.mkdir(parents=True, exist_ok=True)
    own = ("mdrnn",) if arm == UNTRAINED else ()
    for stage in ("vae", "mdrnn"):
        if stage not in own and not (folder / stage).exists():
            (folder / stage).symlink_to((logdir / stage).resolve())
    if own and not (folder / "mdrnn" / "best.safetensors").exists():
        (folder / "mdrnn").mkdir(exist_ok=True)
        if not (folder / "mdrnn" / "latents").exists():
            (folder / "mdrnn" / "latents").symlink_to((logdir / "mdrnn" / "latents").resolve())
        train_mdrnn.main(replace(stages(asked).mdrnn, logdir=str(folder), epochs=0, nosamples=True, seed=seed))
    cfg = TrainController(**vars(asked.controller), logdir=str(folder), env=asked.env, seed=seed)
    return replace(cfg, temperature=temperature, epochs=generations or cfg.epochs, **ABLATIONS.get(arm, {}))


def dreamed(cfg: TrainController) -> np.ndarray:
    """Scores (`DREAMS`,) of the kept C in dreams of its temperature."""
    run = RunDir.of(cfg.logdir)
    shape, parameters, _ = controller.load(run)
    places = choose_places(train_controller.CPU, cfg.max_workers, batched=True)
    with open_pool(train_controller.dreamers(cfg, run, shape), places) as pool:
        seeds = range(DEVELOPMENT, DEVELOPMENT + DREAMS)
        return fitness(pool, parameters[None], seeds, Course(max_steps=cfg.horizon))[0][0]


def real(cfg: TrainController, games: int, resolution: str, mean: bool) -> np.ndarray:
    """Scores (games,) of the kept C in the game, on V's mean or a sample; in real_<resolution>.json every `BLOCK`."""
    run, world = RunDir.of(cfg.logdir), World(TAKECOVER, {"resolution": resolution})
    places = choose_places(choose_device(cfg.device), cfg.max_workers, describe(TAKECOVER).batched)
    models, parameters = best_of(run, envs.actions_in(world))
    models = replace(models, sample_z=models.sample_z and not mean).computing(cfg.precision, places[0])
    driver = run.driver()
    path = run.path / f"real_{resolution}{'_mean' if mean else ''}.json"
    found = read_json(path) if path.exists() else {}
    scores: list[float] = found["scores"] if found.get("driver") == driver else []
    with open_pool(Drivers(world, LANES, models), places) as pool:
        while len(scores) < games:
            first = DEVELOPMENT + len(scores)
            seeds = range(first, min(first + BLOCK, DEVELOPMENT + games))
            scores += fitness(pool, parameters[None], seeds, Course(), LANES)[0][0].tolist()
            write_json(path, {"driver": driver, "first seed": DEVELOPMENT, "scores": scores})
    return np.array(scores[:games])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path)
    parser.add_argument(
        "--ablations", nargs="*", choices=ABLATIONS, metavar="NAME",
        help=f"what C sees, and the M that dreams: of {', '.join(ABLATIONS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.1, 0.5, 1.0, 1.15, 1.3])
    parser.add_argument("--seeds", type=count, default=2)
    parser.add_argument("--games", type=count, default=500)
    parser.add_argument("--resolution", choices=RESOLUTIONS, default=RESOLUTIONS[0], help="of the real games")
    parser.add_argument("--generations", type=count, help="of C (the run's own number otherwise)")
    arguments = parser.parse_args()
    rows = ["| C | temperature | seed of C | dreamed | real | standard error |", "|---|---|---|---|---|---|"]
    arms = [""] if arguments.ablations is None else ["", *(arguments.ablations or ABLATIONS)]
    for arm, temperature, seed in product(arms, arguments.temperatures, range(arguments.seeds)):
        cfg = settings(arguments.logdir, arm, temperature, seed, arguments.generations)
        train_controller.main(cfg)
        imagined, played = dreamed(cfg), real(cfg, arguments.games, arguments.resolution, arm == MEAN)
        rows.append(
            f"| {arm or 'whole'} | {temperature:g} | {seed} | {imagined.mean():.0f} ± {imagined.std(ddof=1):.0f} "
            f"| {played.mean():.0f} ± {played.std(ddof=1):.0f} | {played.std(ddof=1) / len(played) ** 0.5:.0f} |"
        )
        print(rows[-1], flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    with as_a_command():
        main()
