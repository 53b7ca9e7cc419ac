"""A Ray cluster on this machine: the same results as this process, and every fault in a sentence.

Clusters of several machines, and what happens when they fail, are in tests/cluster.
"""

import os
import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import H, Z, save_agent
from tests.helpers.toy import TOY
from tests.test_resume import assert_same, files_that_count
from tests.workers.test_pool import Does, always_die, fail, fail_oddly, square_but_die_once
from worldmodels.cli import main
from worldmodels.commands import collect, evaluate, train_controller
from worldmodels.controller import Controller
from worldmodels.dream import Starts
from worldmodels.envs import World, actions_in
from worldmodels.errors import UserError
from worldmodels.evolution.fitness import fitness
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint, metrics
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json
from worldmodels.runs.settings import Collect, Evaluate, TrainController
from worldmodels.workers.dreamer import Dreamers
from worldmodels.workers.driver import Course, Drivers, Models
from worldmodels.workers.places import Place
from worldmodels.workers.pool import Pool, open_pool

ray = pytest.importorskip("ray", reason="the extra `ray`")
from worldmodels.workers import ray as cluster  # noqa: E402

CAR, DOOM = "worldmodels/CarRacing-v3", "worldmodels/TakeCover-v0"
NO_DOOM = pytest.mark.skipif(not find_spec("vizdoom"), reason="the extra `doom`")
HERE = (Place("cpu", 1),)


@pytest.fixture(scope="module", autouse=True)
def one_cluster():
    """Pools join the cluster that is there already: it is started once."""
    cluster.connect("local", 2)
    yield
    ray.shutdown()


def on_ray(setup) -> Pool:
    return open_pool(setup, HERE, ray="local", most=2)


def dreamers(folder: Path) -> Dreamers:
    torch.manual_seed(0)
    mdrnn, z = MDRNN(Z, 3, H, include_reward=True), torch.randn(5, Z)
    tensors = checkpoint.pack("mdrnn", mdrnn.state_dict())
    settings = {"z_size": Z, "action_size": 3, "hidden_size": H, "include_reward": True}
    checkpoint.save(folder / "m.safetensors", tensors, {"mdrnn": settings})
    starts = Starts(z, torch.randn(5, H), torch.randn(5, H), torch.ones(5))
    weights = (folder / "m.safetensors").read_bytes()
    return Dreamers(weights, starts, Controller(Z, H, 3), actions_in(World(CAR)), 1.0, 20)


@pytest.mark.parametrize(
    "where",
    [
        "dream",
        pytest.param(TOY, marks=pytest.mark.slow),  # the commands below drive there too
        pytest.param(CAR, marks=pytest.mark.slow),
        pytest.param(
            DOOM, marks=[pytest.mark.slow, pytest.mark.skipif(not find_spec("vizdoom"), reason="extra `doom`")]
        ),
    ],
)
def test_a_cluster_scores_as_this_process(tmp_path: Path, where: str) -> None:
    """To the last bit: anyone's environment, the dream, our simulator, and Doom."""
    controller = Controller(Z, H, 1 if where == DOOM else 3)
    population = np.random.default_rng(0).normal(size=(3, controller.size)).astype(np.float32)
    if where == "dream":
        setup = dreamers(tmp_path)
    else:
        run = RunDir.of(save_agent(tmp_path / "run", controller.outputs, env=where))
        setup = Drivers(World(where), 4, Models.of(run, controller, sample_z=True, seed=4))
    with open_pool(setup, HERE) as pool:
        alone, steps = fitness(pool, population, (3, 1), Course(max_steps=15), 4)
    counted: list[int] = []
    with on_ray(setup) as pool:
        assert pool.workers == 2 and pool.nodes == 1
        shared, shared_steps = fitness(pool, population, (3, 1), Course(max_steps=15), 4, counted.append)
    assert len(np.unique(alone)) > 1 or where == DOOM  # where nobody has died yet
    assert np.array_equal(shared, alone) and shared_steps == steps == sum(counted)


def test_the_commands_leave_the_same_files(tmp_path: Path) -> None:
    logdir = save_agent(tmp_path / "run", 3, env=TOY)
    for address, workers in ((None, 1), ("local", 2)):
        folder = tmp_path / str(address)
        where = {"logdir": str(logdir), "env": TOY, "device": "cpu", "ray": address}
        collect.main(Collect(**where, rollouts=5, policy="agent", rootdir=str(folder), threads=workers))
        train_controller.main(
            TrainController(**where, max_workers=workers, epochs=3, pop_size=4, n_samples=2, seed=2, select_every=1,
                            select_tracks=2, batch_size=3, noreload=True)
        )  # fmt: skip
        shutil.copytree(logdir / "ctrl", folder / "ctrl")
        save_agent(logdir, 3, env=TOY)  # the driver that collects
    here, there = tmp_path / "None", tmp_path / "local"
    for i in range(5):
        name = f"rollout_{i:06d}.npz"
        assert (here / name).read_bytes() == (there / name).read_bytes()
    rows = [metrics.read(folder / "ctrl" / "metrics.jsonl") for folder in (here, there)]
    timed = ("seconds", "steps_per_second", "time")
    plain = [[{name: value for name, value in row.items() if name not in timed} for row in found] for found in rows]
    assert plain[0] == plain[1] and len(plain[0]) == 3
    assert (here / "ctrl" / "best.safetensors").read_bytes() == (there / "ctrl" / "best.safetensors").read_bytes()


def test_an_evaluation_is_the_same(tmp_path: Path) -> None:
    logdir = save_agent(tmp_path / "run", 3, env=TOY)
    found = []
    for address in (None, "local"):
        evaluate.main(Evaluate(logdir=str(logdir), env=TOY, episodes=5, max_workers=2, device="cpu", ray=address,
                               output=str(tmp_path / str(address))))  # fmt: skip
        result = read_json(tmp_path / str(address) / "evaluation.json")
        found.append([result[name] for name in ("seeds", "scores", "lengths", "mean", "std")])
    assert found[0] == found[1] and len(set(found[0][1])) > 1


@pytest.mark.slow
def test_a_run_is_the_same_from_the_first_episode_to_the_report(tmp_path: Path) -> None:
    """Its data, V, M, C and evaluation."""
    sizes = ["--collect.rollouts", "6", "--collect.policy", "white", "--vae.epochs", "1", "--mdrnn.epochs", "2",
             "--controller.epochs", "3", "--controller.pop-size", "4", "--controller.n-samples", "2",
             "--evaluate.episodes", "3"]  # fmt: skip
    for name, words in (("here", []), ("ray", ["--ray", "local"])):
        main(["run", "--preset", "smoke", "--env", TOY, "--logdir", str(tmp_path / name), *sizes, *words])
    here, there = (files_that_count(tmp_path / name) for name in ("here", "ray"))
    assert_same(here, there)
    assert (tmp_path / "ray" / "report.html").is_file()


def test_a_killed_worker_s_jobs_are_run_again(tmp_path: Path) -> None:
    with on_ray(Does(square_but_die_once)) as pool:
        assert dict(pool.run([(i, str(tmp_path)) for i in range(5)])) == {i: i * i for i in range(5)}


@pytest.mark.slow
def test_workers_that_keep_dying_end_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ATTEMPTS", 1)
    with on_ray(Does(always_die)) as pool, pytest.raises(UserError, match="lost its worker 2 times"):
        list(pool.run([1]))


def test_a_failing_job_shows_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with on_ray(Does(fail)) as pool, pytest.raises(ZeroDivisionError):
        list(pool.run([7]))
    assert "job 7 divides by zero" in capfd.readouterr().err
    with on_ray(Does(fail_oddly)) as pool, pytest.raises(RuntimeError, match="Unportable: a fault"):
        list(pool.run([7]))


def cannot_be(place: Place) -> None:
    raise UserError("VizDoom is missing: pip install 'worldmodels-pytorch[doom]'.")


def test_a_node_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_ray(cannot_be) as pool, pytest.raises(UserError, match=r"Node \S+ \(.*\) cannot help: VizDoom is missing"):
        list(pool.run([1]))
    monkeypatch.setattr(cluster, "required", lambda: {"worldmodels": "9.9"})
    with on_ray(Does(repr)) as pool, pytest.raises(UserError, match="there and 9.9 here"):  # a setup no worker has yet
        list(pool.run([1]))


def test_a_head_that_is_gone_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(cluster, "HEAD_LOST", 0.0)
    head = cluster.HeadNode("127.0.0.1:9")
    assert not head.answers() and "does not answer" in capfd.readouterr().err
    with pytest.raises(UserError, match="start it again, and the same command continues"):
        head.answers()


@pytest.mark.parametrize(
    ("address", "says"), [("nowhere", "auto, local, or HOST:PORT"), ("127.0.0.1:9", "no Ray cluster")]
)
def test_addresses_that_lead_nowhere(address: str, says: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["collect", "--rollouts", "1", "--env", TOY, "--rootdir", str(tmp_path / "data"), "--ray", address])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"worldmodels-pytorch\[ray\]"):
        check(Collect(ray="auto"))


def test_telemetry_is_off() -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)  # Ctrl-C stays ours


def stall_once(job: tuple[int, str], on_step=None) -> int:
    number, folder = job
    marker = Path(folder) / "stalled"
    if number == 2 and not marker.exists():
        marker.touch()
        time.sleep(60)
        (Path(folder) / "woke").touch()
    return number


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.2)
    with on_ray(Does(stall_once)) as pool:
        assert dict(pool.run([(i, str(tmp_path)) for i in range(4)])) == {i: i for i in range(4)}
        assert not (tmp_path / "woke").exists()
