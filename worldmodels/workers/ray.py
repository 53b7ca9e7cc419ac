"""Jobs on a Ray cluster: a third kind of pool, for as many machines as there are.

A job is one task on one core (or one GPU) of any node. Ray runs it again when its worker or its node dies; a node that
joins takes the next jobs. When no job is left to hand out and one takes much longer than the others did, another node
gets it too, and whoever is first counts. The setup and each population travel once to every node; a worker keeps what
it has set up, by the hash of the setup. No file system is shared.
"""

import hashlib
import os
import pickle
import socket
import statistics
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from tqdm import tqdm

from worldmodels.errors import UserError
from worldmodels.runs.versions import versions
from worldmodels.workers.places import Place, cores, limited_threads
from worldmodels.workers.pool import ATTEMPTS, Setup, Worker, portable

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
os.environ.setdefault("RAY_task_oom_retries", str(ATTEMPTS))  # for ever otherwise
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU leave CUDA_VISIBLE_DEVICES alone

import ray

LOST = {  # what Ray knows of a worker that died: neither its exit code nor its signal
    ray.exceptions.OutOfMemoryError: "out of memory",
    ray.exceptions.NodeDiedError: "with their nodes",
    ray.exceptions.WorkerCrashedError: "out of memory, killed from outside, or ended by what it drives",
}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
LOOK = 2.0  # seconds between two looks at the cluster
SAY = 60.0  # seconds of silence after which a line says why
HEAD_LOST = 45.0  # seconds without the head: Ray itself ends the program after 60
SLOW = 3.0  # times a job's usual seconds, after which another worker gets it too


@dataclass
class Task:
    """A job that was handed out."""

    index: int
    began: float
    twin: bool = False
    """Whether it was handed out twice."""


class Answer(NamedTuple):
    """What comes back from a task: the outcome of its job, or why there is none."""

    outcome: Any = None
    steps: int = 0
    seconds: float = 0.0
    failure: Exception | None = None
    trace: str = ""
    """The traceback, as text."""


class Ray(AbstractContextManager["Ray"]):
    """As many workers as the cluster has cores (GPUs, where the place is one), at most `most` (0: all)."""

    def __init__(self, setup: Setup, place: Place, address: str, most: int = 0):
        """
        Args:
            setup: of the workers.
            place: of each of them: its device and threads.
            address: auto, local or HOST:PORT of the head.
            most: workers at a time.

        Raises:
            UserError: there is no such cluster, it has another token or version, or this machine is no part of it.
        """
        self.place, self.most = place, most
        self.gpu = place.device != "cpu"
        self.owner = connect(address, most)
        blob = ray.cloudpickle.dumps(setup)  # a script's own classes too
        self.key, self.blob = hashlib.sha256(blob).hexdigest(), ray.put(blob)
        self.task = ray.remote(num_cpus=1, num_gpus=int(self.gpu), max_retries=ATTEMPTS)(_work)
        self.seconds: deque[float] = deque(maxlen=100)  # that jobs took
        self.head = HeadNode(ray.get_runtime_context().gcs_address)
        self.nodes, self.cores, self.seen = 0, 0, 0.0
        self.look()

    def __exit__(self, *error: object) -> None:
        if self.owner:
            ray.shutdown()

    @property
    def workers(self) -> int:
        self.look()
        return max(1, min(self.cores, self.most or self.cores))

    @property
    def room(self) -> int:
        """Jobs that are handed out at a time: a second one for each worker, if that makes no more of them."""
        workers = self.workers
        return workers if workers < self.cores else 2 * workers

    def look(self) -> None:
        """Count nodes and cores, not more often than every `LOOK` seconds, and say when a node is lost."""
        if time.monotonic() - self.seen < LOOK or not self.head.answers():
            return
        alive = [node for node in ray.nodes() if node["Alive"]]
        if len(alive) < self.nodes:
            say(f"The cluster has lost a node ({len(alive)} left): its jobs are run again.")
        self.nodes = len(alive)
        self.cores = int(sum(node["Resources"].get("GPU" if self.gpu else "CPU", 0) for node in alive))
        self.seen = time.monotonic()

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        running: dict[Any, Task] = {}
        waiting, done = deque(range(len(jobs))), set[int]()
        stored: dict[int, Any] = {}  # populations, by their identity: once for all jobs
        heard, silence = time.monotonic(), SAY
        while len(done) < len(jobs):
            while waiting and len(running) < self.room:
                index = waiting.popleft()
                running[self.submit(jobs[index], stored)] = Task(index, time.monotonic())
            for slow in [] if waiting else self.slow(running):
                slow.twin = True
                running[self.submit(jobs[slow.index], stored)] = replace(slow, began=time.monotonic())
            ready, _ = ray.wait(list(running), timeout=LOOK)
            for reference in ready:
                task = running.pop(reference, None)
                if task is None:
                    continue
                answer = self.answer(reference)
                done.add(task.index)
                # A twin goes on, for nothing: who stops a worker that is still setting up stops it every time.
                running = {other: twin for other, twin in running.items() if twin.index != task.index}
                if on_step is not None:
                    on_step(answer.steps)
                heard, silence = time.monotonic(), SAY
                yield task.index, answer.outcome
            self.look()
            if time.monotonic() - heard > silence:
                silence *= 2
                where = f"{self.nodes} nodes with {self.cores} {'GPUs' if self.gpu else 'cores'}"
                say(f"{len(jobs) - len(done)} jobs wait or run on {where}; none has ended for {silence / 2:.0f} s.")

    def submit(self, job: Any, stored: dict[int, Any]) -> Any:
        """Hand a job out; its population lies in the object store."""
        population, reference = getattr(job, "population", None), None
        if population is not None:
            if id(population) not in stored:
                stored[id(population)] = ray.put(population)
            job, reference = replace(job, population=None), stored[id(population)]
        return self.task.remote(required(), self.key, [self.blob], self.place, job, reference)

    def slow(self, running: dict[Any, Task]) -> list[Task]:
        """Jobs to hand out again, for workers that have nothing to do."""
        if not self.seconds or not running:
            return []
        patience = SLOW * statistics.median(self.seconds) + LOOK
        late = [task for task in running.values() if not task.twin and time.monotonic() - task.began > patience]
        return late[: max(0, self.workers - len(running))]

    def answer(self, reference: Any) -> Answer:
        """Of a task that has ended; raises what its job did, and UserError where it lost its worker too often or a node
        does not fit."""
        try:
            answer: Answer = ray.get(reference)
        except tuple(LOST) as error:
            how = next(how for kind, how in LOST.items() if isinstance(error, kind))
            raise UserError(
                f"A job lost its worker {ATTEMPTS + 1} times ({how}): run the command again with fewer "
                "--max-workers; it continues where it stopped."
            ) from error
        except ray.exceptions.RayTaskError as error:
            raise UserError(
                "A node of the cluster cannot import worldmodels.workers.ray: install there what this machine has, "
                f"worldmodels-pytorch {versions()['worldmodels']} with its extras."
            ) from error
        if answer.failure is not None:
            if not isinstance(answer.failure, UserError):
                print(f"A worker failed:\n{answer.trace}", file=sys.stderr)
            raise answer.failure
        self.seconds.append(answer.seconds)
        return answer


@cache
def required() -> dict[str, str]:
    """The versions that a node must have for the same results."""
    return {name: found.partition("+")[0] for name, found in versions().items() if name not in ("commit", "python")}


# ------------------------------------------------------------------------------------------------- the cluster


def say(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def connect(address: str, most: int) -> bool:
    """Join a cluster, or start one here; whether this call did, and not one before it."""
    if ray.is_initialized():
        return False
    if address == "local":
        start_here(most or cores())
        return True
    if address != "auto":
        HeadNode(address).require()
    try:
        ray.init(address, **QUIET)
    except ConnectionError as error:
        if address == "auto":
            raise UserError(
                "This machine belongs to no Ray cluster: `ray start --head` starts one, "
                "`ray start --address HOST:PORT` joins one, and --ray local needs none."
            ) from error
        raise UserError(
            f"{address} answers, but does not know this machine, which must be part of the cluster (`ray start "
            f"--address {address}`) and have its token (RAY_AUTH_MODE=token and the RAY_AUTH_TOKEN of its head)."
        ) from error
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(
            f"--ray {address} cannot be used; a machine becomes part of a cluster by `ray start --address HOST:PORT`. "
            f"Ray says: {' '.join(str(error).split())}"
        ) from error
    return True


def start_here(count: int) -> None:
    """A cluster of this machine alone. Its parts give one another 15 s to come up: on a busy machine, try again."""
    for left in (2, 1, 0):
        try:
            ray.init("local", num_cpus=count, include_dashboard=False, **QUIET)
            return
        except Exception as error:  # Ray has no narrower one for this
            ray.shutdown()
            if not left:
                raise UserError(
                    "Ray did not come up on this machine (busy, or short of memory): run the command again, or without "
                    f"--ray. Ray says: {' '.join(str(error).split())}"
                ) from error


class HeadNode:
    """The cluster's head, as the network shows it."""

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        self.address, self.place = address, (host.strip("[]"), int(port))
        self.lost_since = 0.0

    def reachable(self) -> bool:
        with suppress(OSError):
            socket.create_connection(self.place, timeout=5).close()
            return True
        return False

    def require(self) -> None:
        if not self.reachable():
            raise UserError(f"There is no Ray cluster at {self.address}, or the network does not lead there.")

    def answers(self) -> bool:
        """Whether it is there; UserError when it has been missing for too long."""
        now = time.monotonic()
        if self.reachable():
            self.lost_since = 0.0
            return True
        if not self.lost_since:
            self.lost_since = now
            say(f"The head of the Ray cluster at {self.address} does not answer.")
        if now - self.lost_since > HEAD_LOST:
            raise UserError(
                f"The head of the Ray cluster at {self.address} has not answered for {HEAD_LOST:.0f} s: start it "
                "again, and the same command continues."
            )
        return False


# ----------------------------------------------------------------------------------------------- on a node

_workers: dict[str, Worker] = {}


def _work(wanted: dict[str, str], key: str, blob: list[Any], place: Place, job: Any, population: Any) -> Answer:
    """Do a job, whose `population` comes apart from it, with the setup that has the hash `key` and lies in the object
    store (`blob`, in a list, which Ray does not fetch), on a node of the versions `wanted`."""
    began, steps = time.monotonic(), list[int]()
    try:
        with limited_threads(place.threads):
            if key not in _workers:
                _workers[key] = _set_up(wanted, blob[0], place)
            if population is not None:
                job = replace(job, population=population.copy())  # the store's memory cannot be written to
            outcome = _workers[key](job, steps.append)
        return Answer(outcome, sum(steps), time.monotonic() - began)
    except Exception as error:
        return Answer(failure=portable(error), trace=traceback.format_exc())


def _set_up(wanted: dict[str, str], blob: Any, place: Place) -> Worker:
    """The worker of this process; UserError names the node on which it cannot be."""
    try:
        for name, version in wanted.items():
            if (found := required().get(name)) != version:
                raise UserError(f"{name} is {found} there and {version} here: install the same versions")
        setup: Setup = pickle.loads(ray.get(blob))
        return setup(place)
    except (UserError, ImportError) as error:  # an extra that is missing there
        node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        raise UserError(f"Node {node} cannot help: {error}") from error
