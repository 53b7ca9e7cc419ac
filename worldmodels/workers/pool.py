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
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol

from worldmodels.errors import UserError, said
from worldmodels.runs.progress import say_once
from worldmodels.workers.places import Place, limited_threads

ATTEMPTS = 3  # times that one job may lose its worker before the run gives up
PATIENCE = 1.0  # seconds that a worker has to leave its job, or to end


Worker = Callable[[Any, Callable[[int], None] | None], Any]
"""What a setup makes: (job, on_step) → its outcome; `on_step` is called with numbers of steps as they are done."""
Setup = Callable[[Place], Worker]
"""Picklable; called once in every worker."""


class Pool(Protocol):
    """Workers that live as long as the `with` block."""

    nodes: int
    """Machines."""

    @property
    def workers(self) -> int:
        """Jobs that run at a time."""

    def __enter__(self) -> "Pool": ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index of the job, its outcome) as jobs finish; `on_step` hears of steps where they can be heard.

        Raises:
            UserError: workers died three times, or could not start; or raised by a job.
            Exception: whatever a job raised, its worker's traceback printed to stderr.
        """


def open_pool(
    setup: Setup,
    places: Sequence[Place],
    backend: Literal["auto", "here", "processes"] = "auto",
    ray: str | None = None,
    most: int = 0,
) -> Pool:
    """A pool of one worker a place; `auto`: a single worker on the CPU is this process itself.

    With `ray`, the address of a cluster (`worldmodels.workers.ray`), its workers are like the first place but for the
    threads: one each, and at most `most` of them (0: as many as there are).
    """
    if ray is not None:
        from worldmodels.workers.ray import Ray  # an extra

        return Ray(setup, Place(places[0].device, 1), ray, most)
    if backend == "auto":
        backend = "here" if len(places) == 1 and places[0].device == "cpu" else "processes"
    if backend == "processes":
        try:
            return Processes(setup, places)
        except (OSError, ImportError) as error:
            say_once(f"No worker processes, which need room in /dev/shm ({error}): this one does their work.")
    return Here(setup, places[0])


def try_cluster(address: str | None) -> None:
    """UserError where there is no such Ray cluster; one of this machine alone is started when it is needed."""
    if address not in (None, "local"):
        from worldmodels.workers.ray import connect, ray  # an extra

        if connect(address, 0):
            ray.shutdown()


_ahead = False  # whether workers are copies of a process that has imported what they need


def import_ahead() -> None:
    """Let another process import what workers that drive with V and M need, while this one goes on: from now on it
    becomes each of them in a moment (on Linux), in this process's environment of now. PyTorch's import takes 1.4 s.
    """
    global _ahead
    if sys.platform == "linux":
        _ahead = True
        multiprocessing.forkserver.set_forkserver_preload(["worldmodels.agent", "worldmodels.workers.driver"])
        with deaf():
            multiprocessing.forkserver.ensure_running()


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that begin meanwhile do not hear Ctrl-C before `_begin` says what it means to them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Here(AbstractContextManager["Here"]):
    """The one worker is this process."""

    def __init__(self, setup: Setup, place: Place):
        self.setup, self.place, self.workers, self.nodes = setup, place, 1, 1
        self.worker: Worker | None = None

    def __exit__(self, *error: object) -> None:
        getattr(self.worker, "close", lambda: None)()

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        for index, job in enumerate(jobs):
            with limited_threads(self.place.threads):
                self.worker = self.worker or self.setup(self.place)
                outcome = self.worker(job, on_step)
            yield index, outcome


class Processes(AbstractContextManager["Processes"]):
    """A process per place; when one dies, all are replaced."""

    def __init__(self, setup: Setup, places: Sequence[Place]):
        self.setup, self.places, self.workers, self.nodes = setup, places, len(places), 1
        self.context = multiprocessing.get_context("forkserver" if _ahead else "spawn")
        self.start()

    def __exit__(self, *error: object) -> None:
        if any(error):  # Ctrl-C, or a job that failed: nobody waits for the others
            self.interrupt()
        self.executor.shutdown(cancel_futures=True)

    def interrupt(self) -> None:
        """Let every worker leave its job; one that does not is killed."""
        for process in self.crew:
            if process.pid is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
        killing = threading.Timer(PATIENCE, self.kill)
        killing.daemon = True
        killing.start()

    def kill(self) -> None:
        """End the workers that are there, whatever they do."""
        for process in self.crew:
            process.kill()

    def start(self) -> None:
        """Make an executor of worker processes, and an event that says that one of them has come up."""
        self.crew: list[BaseProcess] = []
        queue, self.ready = self.context.SimpleQueue(), self.context.Event()
        for place in self.places:
            queue.put(place)
        self.executor = ProcessPoolExecutor(
            len(self.places), self.context, initializer=_begin, initargs=(self.setup, queue, self.ready)
        )

    def run(self, jobs: Sequence[Any], on_step: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
        waiting, lost = dict(enumerate(jobs)), 0
        while waiting:
            try:
                futures = self.hand_out(waiting)
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

    def hand_out(self, jobs: dict[int, Any]) -> dict[Future[Any], int]:
        """Submit the jobs; whatever processes come up for them are the crew."""
        others = set(multiprocessing.active_children())
        try:
            with deaf():
                return {self.executor.submit(_work, job): index for index, job in jobs.items()}
        finally:
            self.crew += set(multiprocessing.active_children()) - others

    def replace(self, lost: int, jobs: int) -> None:
        """New processes for those that died; UserError when that will not help."""
        codes = exit_codes(self.crew)
        how, remedy = fate(codes)
        if not self.ready.is_set() and all(code >= 0 for code in codes):
            raise UserError(
                "The worker processes could not start. A script that trains or collects needs the line "
                'if __name__ == "__main__": around what it runs, and has to be a file; otherwise see the error above.'
            )
        if lost == ATTEMPTS:
            raise UserError(f"A worker process {how}, {lost} times: {remedy}; it continues where it stopped.")
        print(f"A worker process {how}: its {jobs} unfinished jobs are run again.", file=sys.stderr)
        self.start()


def exit_codes(crew: Sequence[BaseProcess]) -> list[int]:
    """Of processes one of which has died, whereupon the executor ends the others (SIGTERM): the codes of those that it
    did not, as far as they are known; -N for signal N."""
    until = time.monotonic() + PATIENCE
    while any(process.exitcode is None for process in crew) and time.monotonic() < until:
        time.sleep(0.01)
    codes = [process.exitcode for process in crew if process.exitcode is not None]
    return [code for code in codes if code != -signal.SIGTERM] or codes


def fate(codes: list[int]) -> tuple[str, str]:
    """(how a worker ended that had one of these exit codes, what to do about it)."""
    correct = "correct the environment (or the policy) that does so, and run the command again"
    fewer = "run the command again with fewer workers"
    if not codes:
        return "died (out of memory, or killed from outside)", fewer
    if codes[0] >= 0:
        return f"ended itself with exit code {codes[0]}", correct
    name = signal.Signals(-codes[0]).name
    if name == "SIGKILL":
        return "was killed (out of memory, or from outside)", fewer
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return f"was stopped from outside ({name})", "run the command again"
    return f"crashed ({name})", correct


# ---------------------------------------------------------------------------------------- in a worker process

_worker: Worker | None = None
_failure: BaseException | None = None
_limits = ExitStack()  # open for as long as the process lives
_working = False  # whether a job, or the setup, can be left


def _begin(setup: Setup, queue: Any, ready: Any) -> None:
    """Take a place and set up. What goes wrong is kept for the first job to raise: it reaches the parent so."""
    global _worker, _failure, _working
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as where a script began the parent with `&`
        signal.signal(signal.SIGINT, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.util.Finalize(None, _end_at_once, exitpriority=-1)  # after all the others
    place: Place = queue.get()
    ready.set()
    os.environ["OMP_NUM_THREADS"] = str(place.threads)  # for a PyTorch that is imported later
    _limits.enter_context(limited_threads(place.threads))
    try:
        _working = True
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _worker = setup(place)
    except KeyboardInterrupt:
        pass  # `_leave` has noted it
    except (Exception, SystemExit) as error:
        _failure = _failure or portable(error)
    finally:
        _working = False


def _leave(*signal_and_frame: object) -> None:
    """Ctrl-C, or the parent's wish: no job is done from now on, but what a job has brought still goes to the parent
    whole, since half a message would be waited for for ever."""
    global _failure, _working
    _failure = KeyboardInterrupt()
    if _working:
        _working = False
        raise _failure


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
    global _working
    steps: list[int] = []
    try:
        _working = True
        if _failure is not None:
            raise _failure
        assert _worker is not None
        return _worker(job, steps.append), sum(steps)
    except (Exception, SystemExit) as error:
        raise portable(error) from error
    finally:
        _working = False


def portable(error: Exception | SystemExit) -> Exception:
    """The error as it can travel to the parent: one that cannot be rebuilt there would pass for a worker that died, and
    one that ends a program is not to end the parent."""
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        if not isinstance(error, SystemExit):
            return error
    return RuntimeError(said(error))
