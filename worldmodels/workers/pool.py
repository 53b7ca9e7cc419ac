"""Jobs on worker processes: none is lost, and none hangs the run.

A worker that dies (killed from outside, out of memory) is reported and its jobs are run again; a job that raises
brings its traceback to the parent. Every job must be a pure function of its argument, so that running it again
changes nothing.
"""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from worldmodels.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
ATTEMPTS = 3  # times that one job may lose its worker before the run gives up


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """A worker ends when its parent is killed, instead of waiting for jobs for ever; then its own initializer."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


class Workers:
    """`count` worker processes that live as long as the `with` block; a pool that broke is replaced."""

    def __init__(
        self, count: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self.make = lambda: ProcessPoolExecutor(
            count, multiprocessing.get_context("spawn"), initializer=begin, initargs=(initializer, initargs)
        )
        self.pool = self.make()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[[Job], Result], jobs: list[Job]) -> Iterator[tuple[int, Result]]:
        """Yield (index of the job, function(job)) as jobs finish.

        Raises:
            UserError: workers died three times; the sentence says what usually kills them. Or raised by a job.
            Exception: whatever a job raised, its worker's traceback printed to stderr.
        """
        waiting, lost = dict(enumerate(jobs)), 0
        while waiting:
            try:
                futures: dict[Future[Result], int] = {self.pool.submit(function, job): i for i, job in waiting.items()}
                for future in as_completed(futures):
                    result = future.result()
                    del waiting[futures[future]]
                    yield futures[future], result
            except BrokenProcessPool:
                lost += 1
                if lost == ATTEMPTS:
                    raise UserError(
                        f"Worker processes died {lost} times (out of memory, or killed from outside): "
                        "run the command again with fewer workers; it continues where it stopped."
                    ) from None
                print(f"A worker process died: its {len(waiting)} unfinished jobs are run again.", file=sys.stderr)
                self.pool = self.make()
            except UserError:
                raise
            except Exception:
                print(f"A worker failed:\n{traceback.format_exc()}", file=sys.stderr)
                raise


def run_jobs(
    function: Callable[[Job], Result],
    jobs: list[Job],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Result]]:
    """`Workers.run` on processes of its own: yields (index of the job, function(job)) as jobs finish."""
    with Workers(workers, initializer, initargs) as pool:
        yield from pool.run(function, jobs)
