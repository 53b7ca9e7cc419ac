"""Workers: a killed one's jobs are run again, a failing job brings its traceback, nothing hangs."""

import os
import signal
from pathlib import Path

import pytest

from worldmodels.errors import UserError
from worldmodels.workers.pool import Workers, run_jobs


def square_but_die_once(job: tuple[int, str]) -> int:
    number, folder = job
    marker = Path(folder) / f"died-{number}"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def always_die(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def fail(job: int) -> int:
    raise ZeroDivisionError(f"job {job} divides by zero")


def test_a_killed_worker_s_jobs_are_run_again(tmp_path, capfd) -> None:
    with Workers(2) as workers:
        results = dict(workers.run(square_but_die_once, [(i, str(tmp_path)) for i in range(8)]))
        assert results == {i: i * i for i in range(8)}
        assert "run again" in capfd.readouterr().err
        assert dict(workers.run(square_but_die_once, [(5, str(tmp_path))])) == {0: 25}  # the pool still serves


def test_workers_that_keep_dying_end_in_one_sentence() -> None:
    with pytest.raises(UserError, match="fewer workers"):
        list(run_jobs(always_die, [1], 1))


def test_a_failing_job_shows_its_traceback(capfd) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(fail, [7], 1))
    assert "job 7 divides by zero" in capfd.readouterr().err
