"""On a GPU: the same numbers as on the CPU, and every stage from end to end. Skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import save_agent
from tests.training.test_ranks import left, torchrun
from worldmodels.commands import collect, run, train_vae
from worldmodels.controller import Controller
from worldmodels.envs import World
from worldmodels.evolution.fitness import fitness
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs import stages as plan
from worldmodels.runs.directory import RunDir
from worldmodels.runs.presets.carracing import SMOKE
from worldmodels.vision import VAE
from worldmodels.workers.driver import Course, Drivers, Models
from worldmodels.workers.places import Place
from worldmodels.workers.pool import open_pool

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-3), (True, 2e-2)])
def test_v_sees_the_same(bfloat16: bool, tolerance: float) -> None:
    torch.manual_seed(0)
    vae = VAE()
    frames = np.random.default_rng(0).integers(256, size=(100, 64, 64, 3), dtype=np.uint8)
    expected, _ = vae.encode(frames)
    on_gpu = vae.to("cuda")
    on_gpu.use_bfloat16 = bfloat16
    mean, _ = on_gpu.encode(frames)
    assert mean.device.type == "cuda" and mean.dtype == torch.float32
    torch.testing.assert_close(mean.cpu(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_m_remembers_the_same() -> None:
    torch.manual_seed(0)
    mdrnn = MDRNN()
    z, action, state = torch.randn(5, 32), torch.rand(5, 3), (torch.randn(5, 256), torch.randn(5, 256))
    expected, _ = mdrnn.step(z, action, state)
    h, _ = mdrnn.to("cuda").step(z.cuda(), action.cuda(), (state[0].cuda(), state[1].cuda()))
    torch.testing.assert_close(h.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_score_on_the_gpu_as_on_the_cpu(tmp_path: Path, workers: int) -> None:
    logdir = save_agent(tmp_path / "run", actions=3)
    population = np.random.default_rng(0).standard_normal((2, 39)).astype(np.float32)
    models = Models.of(RunDir(logdir), Controller(4, 8), sample_z=False, seed=0)

    def scores(*devices: str) -> np.ndarray:
        places = [Place(device, 1) for device in devices]
        with open_pool(Drivers(World(config.CARRACING), 4, models), places) as pool:
            return fitness(pool, population, (7, 8), Course(max_steps=30), 4)[0]

    np.testing.assert_allclose(scores(*["cuda:0"] * workers), scores("cpu"), atol=4)  # a tile is worth 3


def test_the_whole_pipeline(tmp_path: Path) -> None:
    smoke = SMOKE
    cfg = replace(
        smoke,
        logdir=str(tmp_path / "run"),
        device="cuda",
        iterations=2,
        early_generations=1,
        again=config.Collection(rollouts=2, max_steps=40, threads=1),
    )
    run.main(cfg)
    logdir = tmp_path / "run"
    assert [len(logs.read(logdir / stage / "metrics.jsonl")) for stage in ("vae", "mdrnn", "ctrl")] == [2, 2, 2]
    _, meta = checkpoint.load(logdir / "vae" / "last.safetensors")
    assert meta["loop"]["epoch"] == 2
    train_vae.main(replace(plan.stages(cfg).vae, epochs=3))  # V goes on, its moments back on the GPU
    assert len(logs.read(logdir / "vae" / "metrics.jsonl")) == 3
    assert (logdir / "evaluation.json").exists() and (logdir / "report.html").exists()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_v_as_one_does(tmp_path: Path) -> None:
    """NCCL: a process per GPU; the sums are added in the same order in one process with as many micro-batches."""
    stages = plan.stages(replace(SMOKE, logdir=str(tmp_path / "run"), device="cuda"))
    collect.main(stages.collect)
    one = replace(stages.vae, logdir=str(tmp_path / "one"), micro_batches=2)
    train_vae.main(one)
    assert torchrun(2, "train-vae", replace(one, logdir=str(tmp_path / "two"))) == ""
    assert left(tmp_path / "one", "vae") == left(tmp_path / "two", "vae")


def test_a_cluster_scores_on_the_gpu(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray`")
    logdir = save_agent(tmp_path / "run", actions=3)
    drivers = Drivers(World(config.CARRACING), 4, Models.of(RunDir(logdir), Controller(4, 8), sample_z=False, seed=0))
    population = np.random.default_rng(0).standard_normal((2, 39)).astype(np.float32)
    scores = []
    for ray in (None, "local"):
        with open_pool(drivers, [Place("cuda:0", 1)], ray=ray, most=1) as pool:
            scores.append(fitness(pool, population, (7, 8), Course(max_steps=30), 4)[0])
    np.testing.assert_array_equal(*scores)
