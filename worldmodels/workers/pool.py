"""Jobs on workers: this process, several, or a Ray cluster; none is lost, and none hangs the run.

A worker is set up once, for its place, and then answers jobs. One that dies (killed from outside, out of memory) is
reported and its jobs are run again; a job that raises brings its traceback to the parent. Every job must be a pure
function of its argument, so that running it again changes nothing.
"""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any, Literal, Protocol, TypeVar

from worldmodels.errors import UserError
from worldmodels.workers.places import Place, limited_threads

Job = TypeVar("Job", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)
ATTEMPTS = 3  # times that one job may lose its worker before the run gives up


class Worker(Protocol[Job, Outcome]):
    """What a setup makes: it answers jobs."""

    def __call__(self, job: Job, on_step: Callable[[int], None] | None = None) -> Outcome:
        """Do the job; `on_step` is called with numbers of steps as they are done."""


class Setup(Protocol[Job, Outcome]):
    """Picklable; called once in every worker."""

    def __call__(self, place: Place) -> Worker[Job, Outcome]: ...


class Pool(Protocol[Job, Outcome]):
    """Workers that live as long as the `with` block."""

    nodes: int
    """Machines."""

    @property
    def workers(self) -> int:
        """Jobs that run at a time."""

    def __enter__(self) -> "Pool[Job, Outcome]": ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index of the job, its outcome) as jobs finish; `on_step` hears of steps where they can be heard.

        Raises:
            UserError: workers died three times, or could not start; or raised by a job.
            Exception: whatever a job raised, its worker's traceback printed to stderr.
        """


def open_pool(
    setup: Setup[Any, Any],
    places: Sequence[Place],
    backend: Literal["auto", "here", "processes"] = "auto",
    ray: str | None = None,
    most: int = 0,
) -> Pool[Any, Any]:
    """A pool of one worker a place; `auto`: a single worker on the CPU is this process itself.

    With `ray`, the address of a cluster (`worldmodels.workers.ray`), its workers are like the first place but for the
    threads: one each, and at most `most` of them (0: as many as there are).
    """
    if ray is not None:
        from worldmodels.workers.ray import Ray  # an extra

        return Ray(setup, Place(0, places[0].device, 1), ray, most)
    if backend == "auto":
        backend = "here" if len(places) == 1 and places[0].device == "cpu" else "processes"
    return Here(setup, places[0]) if backend == "here" else Processes(setup, places)


_ahead = False  # whether workers are copies of a process that has imported what they need


def import_ahead() -> None:
    """Let another process import what workers that drive with V and M need, while this one goes on: from now on it
    becomes each of them in a moment (on Linux), in this process's environment of now. PyTorch's import takes 1.4 s.
    """
    global _ahead
    if sys.platform == "linux":
        _ahead = True
        multiprocessing.forkserver.set_forkserver_preload(["worldmodels.agent", "worldmodels.workers.driver"])
        multiprocessing.forkserver.ensure_running()


class Here:
    """The one worker is this process."""

    def __init__(self, setup: Setup[Any, Any], place: Place):
        self.setup, self.place, self.workers, self.nodes = setup, place, 1, 1
        self.worker: Worker[Any, Any] | None = None

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        if self.worker is not None:
            getattr(self.worker, "close", lambda: None)()

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        if self.worker is None:
            with limited_threads(self.place.threads):
                self.worker = self.setup(self.place)
        for index, job in enumerate(jobs):
            with limited_threads(self.place.threads):
                outcome = self.worker(job, on_step)
            yield index, outcome


class Processes:
    """A process per place; when one dies, all are replaced."""

    def __init__(self, setup: Setup[Any, Any], places: Sequence[Place]):
        self.setup, self.places, self.workers, self.nodes = setup, places, len(places), 1
        self.context = multiprocessing.get_context("forkserver" if _ahead else "spawn")
        self.executor, self.ready = self.start()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        self.executor.shutdown(cancel_futures=True)

    def start(self) -> tuple[ProcessPoolExecutor, Any]:
        """Worker processes, and an event that says that one of them has come up."""
        queue, ready = self.context.SimpleQueue(), self.context.Event()
        for place in self.places:
            queue.put(place)
        executor = ProcessPoolExecutor(
            len(self.places), self.context, initializer=_begin, initargs=(self.setup, queue, ready)
        )
        return executor, ready

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        waiting, lost = dict(enumerate(jobs)), 0
        while waiting:
            try:
                futures: dict[Future[Any], int] = {self.executor.submit(_work, job): i for i, job in waiting.items()}
                for future in as_completed(futures):
                    outcome, steps = future.result()
                    del waiting[futures[future]]
                    if on_step is not None:
                        on_step(steps)
                    yield futures[future], outcome
            except BrokenProcessPool:
                lost += 1
                self.replace(lost, len(waiting))
            except UserError:
                raise
            except Exception:
                print(f"A worker failed:\n{traceback.format_exc()}", file=sys.stderr)
                raise

    def replace(self, lost: int, jobs: int) -> None:
        """New processes for those that died; UserError when that will not help."""
        if not self.ready.is_set():
            raise UserError(
                "The worker processes could not start. A script that trains or collects needs the line "
                'if __name__ == "__main__": around what it runs, and has to be a file; otherwise see the error above.'
            )
        if lost == ATTEMPTS:
            raise UserError(
                f"Worker processes died {lost} times (out of memory, or killed from outside): "
                "run the command again with fewer workers; it continues where it stopped."
            )
        print(f"A worker process died: its {jobs} unfinished jobs are run again.", file=sys.stderr)
        self.executor, self.ready = self.start()


# ---------------------------------------------------------------------------------------- in a worker process

_worker: Worker[Any, Any] | None = None
_failure: BaseException | None = None
_limits = ExitStack()  # open for as long as the process lives


def _begin(setup: Setup[Any, Any], queue: Any, ready: Any) -> None:
    """Take a place and set up. What goes wrong is kept for the first job to raise: it reaches the parent so."""
    global _worker, _failure
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.util.Finalize(None, _end_at_once, exitpriority=-1)  # after all the others
    place: Place = queue.get()
    ready.set()
    os.environ["OMP_NUM_THREADS"] = str(place.threads)  # for a PyTorch that is imported later
    _limits.enter_context(limited_threads(place.threads))
    try:
        _worker = setup(place)
    except Exception as error:
        _failure = portable(error)


def _end_with_parent() -> None:
    """A worker ends when its parent is killed, instead of waiting for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _end_at_once() -> None:
    """Python takes half a second to take PyTorch apart before it ends; the system needs no time for that."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _work(job: Any) -> tuple[Any, int]:
    """(outcome of the job, steps done for it)."""
    if _failure is not None:
        raise _failure
    assert _worker is not None
    steps = 0

    def count(done: int) -> None:
        nonlocal steps
        steps += done

    try:
        return _worker(job, count), steps
    except Exception as error:
        raise portable(error) from error


def portable(error: Exception) -> Exception:
    """The error as it can travel to the parent: one that cannot be rebuilt there would pass for a worker that died."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
