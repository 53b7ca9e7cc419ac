"""What can happen to a cluster of several machines: no generation is lost or different, and nothing hangs silently.

    make test-cluster

Each machine is a network namespace with a Ray node of one core. The command runs on the head's; what it leaves is
compared with what it leaves in one process. Some minutes.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import network
from tests.helpers.network import Machine, Network
from tests.helpers.runs import save_agent
from tests.helpers.toy import TOY
from worldmodels.commands import train_controller
from worldmodels.runs import metrics
from worldmodels.runs.settings import TrainController

pytest.importorskip("ray", reason="the extra `ray`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not network.allowed(), reason="network namespaces are not allowed here"),
]
GENERATIONS = 10
TIMED = ("seconds", "steps_per_second", "time")
EVOLUTION = {"env": TOY, "epochs": GENERATIONS, "pop_size": 6, "n_samples": 2, "seed": 3, "select_every": 3,
             "select_tracks": 2, "batch_size": 2, "device": "cpu"}  # fmt: skip


class Cluster:
    """A head and a node, and the command on the head."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, 0
        self.network = Network(folder)
        self.head, self.node = self.network.machine(), self.network.machine()
        self.start(self.head)
        self.start(self.node)

    def start(self, machine: Machine, **environment: str) -> None:
        machine.join(self.head, **{"TOY_SLEEP": "0.03", **environment})

    def add(self, **environment: str) -> Machine:
        machine = self.network.machine()
        self.start(machine, **environment)
        return machine

    def evolve(self, epochs: int = GENERATIONS) -> "Evolution":
        self.runs += 1
        return Evolution(self, self.folder / f"run{self.runs}", epochs)


class Evolution:
    """train-controller --ray, under way."""

    def __init__(self, cluster: Cluster, logdir: Path, epochs: int = GENERATIONS):
        self.cluster, self.logdir, self.log = cluster, logdir, logdir.with_suffix(".log")
        if not logdir.exists():
            save_agent(logdir, 3, env=TOY)
        wanted = {**EVOLUTION, "epochs": epochs}
        flags = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "worldmodels", "train-controller", "--logdir", str(logdir), *flags,
                   "--ray", f"{cluster.head.address}:{network.PORT}"]  # fmt: skip
        self.process = cluster.head.start(command, self.log)

    def reach(self, generation: int, seconds: float = 180) -> None:
        """Wait until a generation is done."""
        until = time.monotonic() + seconds
        while len(rows(self.logdir)) < generation:
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)

    def finish(self, seconds: float = 240) -> str:
        """What it said, when it ended well."""
        assert self.process.wait(seconds) == 0, self.log.read_text()
        return self.log.read_text()


def rows(logdir: Path) -> list[dict]:
    found = metrics.read(logdir / "ctrl" / "metrics.jsonl") if (logdir / "ctrl" / "metrics.jsonl").exists() else []
    return [{name: value for name, value in row.items() if name not in TIMED} for row in found]


def left(logdir: Path) -> tuple[list[dict], bytes]:
    return rows(logdir), (logdir / "ctrl" / "best.safetensors").read_bytes()


def alone(folder: Path, epochs: int = GENERATIONS) -> tuple[list[dict], bytes]:
    """What one process leaves."""
    logdir = save_agent(folder / "run", 3, env=TOY)
    train_controller.main(TrainController(**{**EVOLUTION, "epochs": epochs}, logdir=str(logdir), max_workers=1))
    return left(logdir)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], bytes]:
    return alone(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="wm", dir="/tmp"))  # sockets' names must be short
    made = Cluster(folder)
    yield made
    made.network.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_is_killed(cluster: Cluster, expected) -> None:
    evolution = cluster.evolve()
    evolution.reach(2)
    while not cluster.node.kill("ray::"):
        time.sleep(0.1)
    said = evolution.finish()
    assert left(evolution.logdir) == expected
    assert "on 2 nodes" in said and "Traceback" not in said


def test_a_node_joins_and_dies(cluster: Cluster, expected) -> None:
    evolution = cluster.evolve()
    evolution.reach(1)
    third = cluster.add()
    evolution.reach(len(rows(evolution.logdir)) + 2)
    worked = bool(third.processes("ray::"))
    third.kill()
    said = evolution.finish()
    assert worked and "has lost a node" in said, said
    assert left(evolution.logdir) == expected


def test_the_network_is_cut_for_half_a_minute(cluster: Cluster, expected) -> None:
    evolution = cluster.evolve()
    evolution.reach(2)
    cluster.node.connect(False)
    time.sleep(30)
    cluster.node.connect(True)
    evolution.finish()
    assert left(evolution.logdir) == expected
    cluster.node.kill()
    cluster.start(cluster.node)


def test_a_slow_node_s_jobs_are_taken_over(cluster: Cluster, expected) -> None:
    slow = cluster.add(TOY_SLEEP="30")
    began = time.monotonic()
    evolution = cluster.evolve()
    evolution.finish(300)
    assert left(evolution.logdir) == expected
    assert time.monotonic() - began < 300, "an episode of 20 steps takes it ten minutes"
    slow.kill()


def test_a_node_of_another_version_is_refused(cluster: Cluster) -> None:
    elsewhere = cluster.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text("import worldmodels\nworldmodels.__version__ = '0.0.1'\n")
    other = cluster.add(PYTHONPATH=str(elsewhere))
    evolution = cluster.evolve()
    assert evolution.process.wait(180) == 2, evolution.log.read_text()
    last = evolution.log.read_text().strip().splitlines()[-1]
    assert f"({other.address}) cannot help: worldmodels is 0.0.1 there" in last
    other.kill()


def test_a_wrong_token_is_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldmodels", "collect", "--rollouts", "1", "--env", TOY, "--rootdir",
               str(tmp_path / "data"), "--ray", f"{cluster.head.address}:{network.PORT}"]  # fmt: skip
    log = tmp_path / "log"
    process = cluster.head.start(command, log, RAY_AUTH_TOKEN="another token of forty characters, and so on")
    assert process.wait(120) == 2, log.read_text()
    assert "RAY_AUTH_TOKEN" in log.read_text() and "Traceback" not in log.read_text()


def test_a_machine_that_is_no_part_of_the_cluster_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    outside = cluster.network.machine()
    command = [sys.executable, "-m", "worldmodels", "collect", "--rollouts", "1", "--env", TOY, "--rootdir",
               str(tmp_path / "data"), "--ray", f"{cluster.head.address}:{network.PORT}"]  # fmt: skip
    log = tmp_path / "log"
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]  # without our sockets, processes
    alone += ['mount -t tmpfs none /tmp && exec "$@"', "sh"]
    process = outside.start([*alone, *command], log)
    assert process.wait(120) == 2, log.read_text()
    assert "ray start --address" in log.read_text() and "Traceback" not in log.read_text()


def test_the_head_dies_and_the_same_command_continues(cluster: Cluster, tmp_path: Path) -> None:
    """Workers that live go on for a while without it: the evolution must be longer than that."""
    evolution = cluster.evolve(epochs=200)
    evolution.reach(3)
    assert cluster.head.kill("gcs_server") == 1
    began = time.monotonic()
    assert evolution.process.wait(120) == 2, evolution.log.read_text()
    assert time.monotonic() - began < 90
    assert "the same command continues" in evolution.log.read_text()
    machines = (cluster.head, cluster.node)
    for machine in machines:  # Ray starts no head while a process of any of them knows one
        machine.kill()
    for machine in machines:
        cluster.start(machine)
    again = Evolution(cluster, evolution.logdir, epochs=len(rows(evolution.logdir)) + 2)
    again.finish()
    assert left(again.logdir) == alone(tmp_path, len(rows(again.logdir)))
