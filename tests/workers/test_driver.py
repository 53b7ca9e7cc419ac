"""Crews of one, two and three processes against this process, on a CPU."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.runs import H, Z, save_agent
from tests.helpers.toy import TOY
from worldmodels import pretrained, quantized
from worldmodels.commands import train_controller
from worldmodels.controller import Controller
from worldmodels.envs import World, actions_in
from worldmodels.evolution.fitness import fitness
from worldmodels.rollout import Episode
from worldmodels.runs import metrics
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import TrainController
from worldmodels.workers.driver import Course, Drivers, Job, Models, best_of
from worldmodels.workers.places import Place
from worldmodels.workers.pool import open_pool

CAR = "worldmodels/CarRacing-v3"
SEEDS = (3, 1)
SAMPLE = ((TOY, 1, 2), (CAR, 4, 2))  # environment, lanes, workers; the other ten are slow
CREWS = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]


def crew(count: int) -> tuple[Place, ...]:
    return (Place("cpu", 1),) * count


def scores(tmp_path, env: str, outputs: int, lanes: int, workers: int) -> tuple[np.ndarray, int]:
    """Three candidates, two episodes each; `workers` 0 is this process."""
    run = RunDir.of(save_agent(tmp_path / f"run{workers}", outputs, env=env))
    controller = Controller(Z, H, outputs)
    population = np.random.default_rng(0).normal(size=(3, controller.size)).astype(np.float32)
    drivers = Drivers(World(env), lanes, Models.of(run, controller, sample_z=True, seed=4))
    with open_pool(drivers, crew(workers or 1), "processes" if workers else "here") as pool:
        return fitness(pool, population, SEEDS, Course(max_steps=15), lanes)


@pytest.mark.parametrize(
    ("env", "lanes", "workers"),
    [
        pytest.param(env, lanes, workers, marks=[pytest.mark.slow] * ((env, lanes, workers) not in SAMPLE))
        for env in (TOY, CAR) for lanes in (1, 4) for workers in (1, 2, 3)
    ],
)  # fmt: skip
def test_a_crew_scores_as_this_process(tmp_path, env: str, lanes: int, workers: int) -> None:
    """To the last bit: however the episodes are shared, every product has as many rows."""
    alone, steps = scores(tmp_path, env, 3, lanes, 0)
    assert len(np.unique(alone)) > 1
    shared, shared_steps = scores(tmp_path, env, 3, lanes, workers)
    assert np.array_equal(shared, alone) and shared_steps == steps


@pytest.mark.parametrize("workers", CREWS)
def test_a_crew_of_random_drivers_leaves_the_same_episodes_to_the_last_bit(workers: int) -> None:
    jobs = [Job(tuple(Episode(seed, seed) for seed in part), record=True, course=Course(max_steps=9))
            for part in ((1, 2), (3,), (4, 5, 6))]  # fmt: skip
    with open_pool(Drivers(World(CAR), 2, policy="gas"), crew(1), "here") as pool:
        alone = dict(pool.run(jobs))
    with open_pool(Drivers(World(CAR), 1, policy="gas"), crew(workers), "processes") as pool:
        shared = dict(pool.run(jobs))
    for index, outcome in alone.items():
        assert outcome.rollouts == shared[index].rollouts and outcome.scores.tolist() == shared[index].scores.tolist()


VNNI = pytest.mark.skipif(not quantized.supported(), reason="a processor with VNNI")
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("int8", marks=VNNI)])


@pytest.mark.slow
@PRECISIONS
def test_whole_laps_are_the_same_to_the_last_bit_on_any_number_of_workers(precision: str) -> None:
    """The driver in the package, episodes of about 900 steps, each of which depends on all before it."""
    world = World(CAR)
    models, parameters = best_of(RunDir.of(pretrained.folder("carracing")), actions_in(world))
    drivers = Drivers(world, 16, replace(models, sample_z=True, precision=precision))
    population = np.stack([parameters, parameters * np.float32(1.01)])

    def laps(tracks: int, places: tuple[Place, ...], backend: str, ray: str | None = None) -> np.ndarray:
        with open_pool(drivers, places, backend, ray=ray, most=2) as pool:
            return fitness(pool, population, range(950_000, 950_000 + tracks), Course(), 16)[0]

    alone = laps(17, crew(1), "here")
    assert alone.mean() > 800
    assert np.array_equal(laps(17, (Place("cpu", 2),), "here"), alone)
    for workers in (1, 2, 3, 4):
        assert np.array_equal(laps(5, crew(workers), "processes"), alone[:, :5]), f"{workers} workers"
    if importlib.util.find_spec("ray"):
        assert np.array_equal(laps(5, crew(1), "auto", ray="local"), alone[:, :5])


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize("env", [TOY, CAR])
def test_three_generations_are_the_same_on_any_number_of_workers(tmp_path, env: str, precision: str) -> None:
    def evolved(count: int, ray: str | None = None) -> tuple[bytes, list[dict[str, object]]]:
        logdir = save_agent(tmp_path / f"run{count}{ray}", 3, env=env)
        cfg = TrainController(env=env, epochs=3, pop_size=5, n_samples=3, seed=2, select_every=1, select_tracks=3,
                              max_steps=60, batch_size=8, device="cpu", precision=precision)  # fmt: skip
        train_controller.main(replace(cfg, logdir=str(logdir), max_workers=count, ray=ray))
        rows = metrics.read(logdir / "ctrl" / "metrics.jsonl")
        timed = ("seconds", "steps_per_second")
        plain = [{name: value for name, value in row.items() if name not in timed} for row in rows]
        return (logdir / "ctrl" / "best.safetensors").read_bytes(), plain

    alone = evolved(1)
    assert len(alone[1]) == 3
    for workers in (2, 3, 4):
        assert evolved(workers) == alone, f"{workers} workers"
    if importlib.util.find_spec("ray"):
        for workers in (1, 2, 3):
            assert evolved(workers, "local") == alone, f"Ray with {workers} workers"
