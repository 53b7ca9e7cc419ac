"""C evolved in the dream: the pool of dreamers gives what `Dreams` gives, and the run says what was real."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.runs import H, Z, save_agent
from tests.helpers.toy import TOY
from worldmodels import envs, memory
from worldmodels.commands import report, train_controller
from worldmodels.controller import Controller
from worldmodels.dream import Starts
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.evolution.fitness import fitness
from worldmodels.fast_dream import Dreams, Population
from worldmodels.runs import checkpoint, metrics
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import Report, TrainController
from worldmodels.workers.dreamer import Dreamer, Dreamers
from worldmodels.workers.driver import Course, Job, Outcome
from worldmodels.workers.places import Place, cores
from worldmodels.workers.pool import open_pool

CFG = TrainController(
    env=TOY, dream=True, horizon=12, pop_size=4, n_samples=3, epochs=4, select_every=2, select_tracks=2, max_workers=1,
    device="cpu", batch_size=4,
)  # fmt: skip


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    """A run with an M that predicts rewards and ends, hides some of h, and has starts."""
    run = save_agent(tmp_path / "run", actions=3, env=TOY)
    settings = {"z_size": Z, "action_size": 3, "hidden_size": H, "include_reward": True, "include_terminal": True}
    settings |= {"dropout": 0.2, "action_kind": "discrete"}
    torch.manual_seed(0)
    mdrnn = memory.MDRNN(**settings)
    with torch.no_grad():
        mdrnn.head.weight.mul_(10)
    tensors = checkpoint.pack("mdrnn", mdrnn.state_dict())
    checkpoint.save(run / "mdrnn" / "best.safetensors", tensors, {"mdrnn": settings})
    Starts(torch.randn(5, Z), torch.randn(5, H), torch.randn(5, H), torch.zeros(5)).save(
        run / "mdrnn" / "starts.safetensors"
    )
    (run / "ctrl" / "best.safetensors").unlink()
    return run


def test_workers_dream_what_dreams_are_alone(logdir: Path) -> None:
    """Every candidate in every dream, one lane at a time, against the pools of one and two workers."""
    mdrnn, actions, shape = memory.load(logdir), envs.actions_in(World(TOY)), Controller(Z, H, 3)
    starts = Starts.load(logdir / "mdrnn" / "starts.safetensors", mdrnn)
    weights = (logdir / "mdrnn" / "best.safetensors").read_bytes()
    setup = Dreamers(weights, starts, shape, actions, temperature=1.0, horizon=9)
    population = np.random.default_rng(0).standard_normal((3, shape.size)).astype(np.float32)
    seeds = [11, 7, 11_000]
    alone = np.zeros((3, 3))
    for p, s in np.ndindex(3, 3):
        start = int(np.random.default_rng(seeds[s]).integers(5))
        dreams = Dreams(mdrnn, 1, temperature=1.0)
        mask = mdrnn.dropout_mask(1, torch.Generator().manual_seed(seeds[s]))
        z, h, c, restart = (x[start : start + 1].numpy() for x in vars(starts).values())
        dreams.begin(np.arange(1), np.array([seeds[s]]), z, h, c, restart, mask.numpy())
        act = Population(dreams, shape, population, actions)
        for _ in range(9):
            alone[p, s] += dreams.step(act(np.arange(1), np.array([p])))[0][0]
    assert len(np.unique(alone)) >= 7
    for places in ([Place("cpu", 2)], [Place("cpu", 1), Place("cpu", 1)]):
        with open_pool(setup, places) as pool:
            scores, steps = fitness(pool, population, seeds, Course())
        np.testing.assert_array_equal(scores, alone)
        assert 9 <= steps <= 81


@pytest.mark.parametrize(("death", "length"), [(-90.0, 1), (90.0, 12)])
def test_a_dream_ends_above_the_logit_that_was_said(logdir: Path, death: float, length: int) -> None:
    """Every dream, those of selection too, ends with its first step, or none does before the horizon."""
    train_controller.main(replace(CFG, logdir=str(logdir), death=death))
    rows = metrics.read(logdir / "ctrl" / "metrics.jsonl")
    dreams = CFG.epochs * CFG.pop_size * CFG.n_samples + CFG.select_tracks * sum("dreamed" in row for row in rows)
    assert rows[-1]["dream_steps"] == length * dreams
    with pytest.raises(UserError, match="other settings .death"):
        train_controller.main(replace(CFG, logdir=str(logdir), death=0.0, epochs=9))


def test_the_run_says_what_was_dreamed_and_what_was_real(logdir: Path, capsys) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir)))
    rows = metrics.read(logdir / "ctrl" / "metrics.jsonl")
    assert [row["selected"] is not None for row in rows] == [True, True, False, True]
    assert all({"dreamed", "real", "dream_steps"} <= row.keys() for row in rows if row["selected"] is not None)
    last = rows[-1]
    assert last["dream_steps"] > 4 * 12 and last["env_steps"] <= 3 * (2 * 18 + 2 * 12), "selection and gate alone"
    assert "in the dream in 4 generations" in capsys.readouterr().out
    assert (logdir / "ctrl" / "best.safetensors").exists()
    assert (logdir / "ctrl" / "dream.mp4").stat().st_size > 1000
    with Image.open(logdir / "ctrl" / "samples" / "dream_0004.png") as strip:
        assert strip.size == (640, 128)
    report.main(Report(logdir=str(logdir)))
    page = (logdir / "report.html").read_text(encoding="utf-8")
    assert "dreamed and real" in page and "what it then drives" in page and "steps in the dream" in page


def test_where_dreams_are_whole_episodes_selection_is_the_gate(logdir: Path) -> None:
    """The toy's episodes end after at most 18 steps: its selection tracks are not driven twice."""
    train_controller.main(replace(CFG, logdir=str(logdir), horizon=18))
    rows = [row for row in metrics.read(logdir / "ctrl" / "metrics.jsonl") if row["selected"] is not None]
    assert len(rows) == 3 and all(row["real"] == row["selected"] for row in rows)
    assert rows[-1]["env_steps"] <= 3 * 2 * 18


def test_where_each_step_pays_the_dream_begins_with_an_episode(logdir: Path) -> None:
    """As in Take Cover: M without a reward head, with a restart input; of the five starts two are first states."""
    settings = checkpoint.load(logdir / "mdrnn" / "best.safetensors")[1]["mdrnn"]
    settings |= {"include_reward": False, "include_restart": True, "step_reward": 1.0}
    torch.manual_seed(0)
    tensors = checkpoint.pack("mdrnn", memory.MDRNN(**settings).state_dict())
    checkpoint.save(logdir / "mdrnn" / "best.safetensors", tensors, {"mdrnn": settings})
    starts = Starts(torch.randn(5, Z), torch.randn(5, H), torch.randn(5, H), torch.tensor([0.0, 1, 0, 0, 1]))
    starts.save(logdir / "mdrnn" / "starts.safetensors")
    cfg = replace(CFG, logdir=str(logdir))
    shape = train_controller.shape_of_c(cfg, RunDir.of(logdir))
    setup = train_controller.dreamers(cfg, RunDir.of(logdir), shape)
    assert torch.equal(setup.starts.z, starts.z[[1, 4]])
    train_controller.main(cfg)
    last = metrics.read(logdir / "ctrl" / "metrics.jsonl")[-1]
    assert 1 <= last["mean"] <= 12 and last["best"] <= 12, "steps survived, no more than there are"


def test_dreams_take_all_cores_and_a_worker_its_whole_share(logdir: Path, monkeypatch) -> None:
    """Whatever the environment's own workers are; none waits for another at the end of a small job."""
    jobs: list[tuple[int, int]] = []
    dream = Dreamer.__call__

    def seen(dreamer: Dreamer, job: Job, *rest) -> Outcome:
        jobs.append((dreamer.dreams.threads, len(job.episodes)))
        return dream(dreamer, job, *rest)

    monkeypatch.setattr(Dreamer, "__call__", seen)
    train_controller.main(replace(CFG, logdir=str(logdir), max_workers=0, epochs=1, batch_size=1))
    assert jobs == [(cores(), 12), (cores(), 2)]


def test_it_resumes_to_the_last_bit(logdir: Path) -> None:
    train_controller.main(replace(CFG, logdir=str(logdir)))
    whole = checkpoint.load(logdir / "ctrl" / "last.safetensors")[0]["history"]
    train_controller.main(replace(CFG, logdir=str(logdir), epochs=2, noreload=True))
    train_controller.main(replace(CFG, logdir=str(logdir)))
    assert torch.equal(checkpoint.load(logdir / "ctrl" / "last.safetensors")[0]["history"], whole)


@pytest.mark.parametrize(
    ("meta", "changes", "sentence"),
    [
        ({"include_reward": False}, {}, "predicts no reward.*--include-reward"),
        (
            {"include_reward": False, "include_terminal": False, "step_reward": 1.0},
            {},
            "predicts no terminal.*--include-terminal",
        ),
        ({"action_kind": "car"}, {}, "learned actions of the kind car, and .* takes discrete"),
        ({}, {"hidden": 4, "inputs": "z"}, "leave --hidden out"),
        ({}, {"temperature": float("nan")}, "--temperature is nan"),
        ({}, {"horizon": 0}, "--horizon is 0"),
        ({}, {"starts": None}, "There are no starts for dreams"),
    ],
)
def test_mistakes_are_one_sentence(logdir: Path, meta: dict, changes: dict, sentence: str) -> None:
    path = logdir / "mdrnn" / "best.safetensors"
    if meta:
        _, kept = checkpoint.load(path)
        settings = kept["mdrnn"] | meta
        tensors = checkpoint.pack("mdrnn", memory.MDRNN(**settings).state_dict())
        checkpoint.save(path, tensors, {"mdrnn": settings})
    if "starts" in changes:
        (logdir / "mdrnn" / "starts.safetensors").unlink()
        changes = {}
    with pytest.raises(UserError, match=sentence):
        train_controller.main(replace(CFG, logdir=str(logdir), **changes))
    assert not (logdir / "ctrl" / "last.safetensors").exists()


def plainly(dreamer: Dreamer, job: Job, on_step: object = None) -> Outcome:
    """A `Dreamer`'s outcome from dreams one after the other, step by step, in a lane and a product of their own."""
    setup, scores, lengths = dreamer.setup, [], []
    dreams = Dreams(dreamer.mdrnn, 1, temperature=setup.temperature, death=setup.death, dtype=dreamer.dreams.dtype)
    for episode in job.episodes:
        start = setup.starts.arrays(np.random.default_rng(episode.seed).integers(len(setup.starts.z), size=1))
        mask = dreamer.mdrnn.dropout_mask(1, torch.Generator().manual_seed(episode.seed))
        dreams.begin(np.arange(1), np.array([episode.seed]), *start, mask.numpy())
        act, score = Population(dreams, setup.controller, job.population, setup.actions), 0.0
        while dreams.active[0] and dreams.steps[0] < job.course.max_steps:
            score += float(dreams.step(act(np.arange(1), np.array([episode.candidate])))[0][0])
        scores.append(score)
        lengths.append(int(dreams.steps[0]))
    return Outcome(np.array(scores), np.array(lengths))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "precision"), [(1, "float32"), (2, "bfloat16")])
def test_an_evolution_is_the_plain_one(logdir: Path, workers: int, precision: str, monkeypatch) -> None:
    """Every score of five generations, to the last bit; dreams end at any step up to the horizon."""
    cfg = replace(CFG, logdir=str(logdir), horizon=150, epochs=3, pop_size=16, n_samples=16, death=2.0)
    cfg = replace(cfg, precision=precision)
    train_controller.main(replace(cfg, max_workers=workers))
    fast = checkpoint.load(logdir / "ctrl" / "last.safetensors")[0]["history"]
    lengths: list[int] = []
    monkeypatch.setattr(
        Dreamer, "__call__", lambda *args: lengths.extend((outcome := plainly(*args)).lengths) or outcome
    )
    train_controller.main(replace(cfg, max_workers=1, noreload=True))
    assert torch.equal(checkpoint.load(logdir / "ctrl" / "last.safetensors")[0]["history"], fast)
    assert fast.shape == (3, 16) and min(lengths) < 10 < 140 < max(lengths) and len(np.unique(lengths)) > 40
