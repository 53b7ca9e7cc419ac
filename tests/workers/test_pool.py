"""Workers: a killed one's jobs are run again, a failing job brings its traceback, nothing hangs."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from worldmodels.errors import UserError
from worldmodels.runs.progress import say_once
from worldmodels.workers.places import Place, choose_places
from worldmodels.workers.pool import Here, Processes, fate, open_pool


@dataclass(frozen=True)
class Does:
    """A setup whose workers do the same with every job."""

    function: Callable

    def __call__(self, place: Place) -> Callable:
        return self.function


def pool(function: Callable, workers: int) -> Processes:
    return Processes(Does(function), [Place("cpu", 1)] * workers)


def square_but_die_once(job: tuple[int, str], on_step=None) -> int:
    number, folder = job
    marker = Path(folder) / f"died-{number}"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def square(job: int, on_step=None) -> int:
    return job * job


def always_die(job: int, on_step=None) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def fail(job: int, on_step=None) -> int:
    raise ZeroDivisionError(f"job {job} divides by zero")


def test_a_killed_worker_s_jobs_are_run_again(tmp_path, capfd) -> None:
    with pool(square_but_die_once, 2) as workers:
        results = dict(workers.run([(i, str(tmp_path)) for i in range(8)]))
        assert results == {i: i * i for i in range(8)}
        assert "run again" in capfd.readouterr().err
        assert dict(workers.run([(5, str(tmp_path))])) == {0: 25}  # the pool still serves


def test_workers_that_keep_dying_end_in_one_sentence() -> None:
    with pytest.raises(UserError, match="fewer workers"):
        list(pool(always_die, 1).run([1]))


def end_itself(job: int, on_step=None) -> int:
    os._exit(3)


def crash(job: int, on_step=None) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return job


@pytest.mark.parametrize(
    ("job", "how"), [(end_itself, "ended itself with exit code 3"), (crash, r"crashed \(SIGSEGV\)")]
)
def test_how_a_worker_ended_is_said_and_memory_is_not_blamed(job: Callable, how: str, capfd) -> None:
    with pytest.raises(UserError, match=f"A worker process {how}, 3 times: correct the environment") as refused:
        list(pool(job, 1).run([1]))
    assert "memory" not in str(refused.value) + capfd.readouterr().err


def test_what_is_not_known_of_a_worker_is_not_said() -> None:
    assert fate([]) == ("died (out of memory, or killed from outside)", "run the command again with fewer workers")
    assert fate([-signal.SIGKILL])[0] == "was killed (out of memory, or from outside)"
    assert fate([-signal.SIGTERM])[0] == "was stopped from outside (SIGTERM)"


def leave(job: int, on_step=None) -> int:
    sys.exit("that is all")


def test_a_job_that_ends_the_program_ends_no_program_of_ours(capfd) -> None:
    with pytest.raises(RuntimeError, match="SystemExit: that is all"):
        list(pool(leave, 1).run([7]))


ENDLESS = """
import os
import sys
import time
from pathlib import Path
from worldmodels.workers.places import Place
from worldmodels.workers.pool import Processes


def work(job, on_step=None):
    Path(f"working-{os.getpid()}").touch()
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            if sys.argv[1] == "obeys":
                raise


def setup(place):
    return work


if __name__ == "__main__":
    with Processes(setup, [Place("cpu", 1), Place("cpu", 1)]) as workers:
        try:
            list(workers.run(range(8)))
        finally:
            print("left", file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("heard_by", ["all", "the parent"])
@pytest.mark.parametrize("job", ["obeys", "does not"])
def test_ctrl_c_ends_what_workers_do(tmp_path, job: str, heard_by: str) -> None:
    (tmp_path / "script.py").write_text(ENDLESS)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [sys.executable, "script.py", job], stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest itself may run where it is ignored
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    while len(working := list(tmp_path.glob("working-*"))) < 2:
        assert running.poll() is None
        time.sleep(0.05)
    (os.killpg if heard_by == "all" else os.kill)(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == -signal.SIGINT and said.count("Traceback") == 1, said  # the script's own
    assert not any(Path(f"/proc/{worker.name.removeprefix('working-')}/exe").exists() for worker in working)


def test_a_failing_job_shows_its_traceback(capfd) -> None:
    with pytest.raises(ZeroDivisionError):
        list(pool(fail, 1).run([7]))
    assert "job 7 divides by zero" in capfd.readouterr().err


def cannot_be(place: Place) -> None:
    raise UserError("There is no trained V.")


def test_a_setup_that_fails_is_not_taken_for_a_crash() -> None:
    with pytest.raises(UserError, match="There is no trained V"), Processes(cannot_be, [Place("cpu", 1)]) as workers:
        list(workers.run([1]))


@dataclass
class Where:
    place: Place

    def __call__(self, job: int, on_step=None) -> tuple[str, int]:
        time.sleep(0.2)
        return self.place.device, torch.get_num_threads()


def test_every_worker_has_a_place_of_its_own_and_its_threads() -> None:
    places = [Place(f"cuda:{i}", 1 + i) for i in range(2)]
    with Processes(Where, places) as workers:
        answers = {answer for _, answer in workers.run(range(12))}
    assert answers == {("cuda:0", 1), ("cuda:1", 2)}


def test_each_worker_has_a_gpu_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    places = choose_places(torch.device("cuda"), 5, batched=True)
    assert [place.device for place in places] == [f"cuda:{i % 3}" for i in range(5)]
    assert len(choose_places(torch.device("cuda"), 0, batched=False)) == 3


@pytest.mark.parametrize("how", ["script", "stdin"])
def test_a_script_without_a_main_guard_is_told_so_at_once(tmp_path, how: str) -> None:
    job = (
        "from worldmodels.commands.collect import main\nfrom worldmodels.runs.settings import Collect\n"
        f"main(Collect(rollouts=2, max_steps=2, threads=2, rootdir={str(tmp_path / 'data')!r}))\n"
    )
    (tmp_path / "job.py").write_text(job)
    command = [sys.executable, str(tmp_path / "job.py") if how == "script" else "-"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, input=job, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode and 'if __name__ == "__main__":' in done.stderr.strip().splitlines()[-1]
    assert "out of memory" not in done.stderr


class Unportable(Exception):
    """Pickle calls its constructor with one argument, and it takes two."""

    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")


def fail_oddly(job: int, on_step=None) -> int:
    raise Unportable("a fault", "the environment")


def test_an_error_that_cannot_travel_is_not_taken_for_a_crash(capfd) -> None:
    with pytest.raises(RuntimeError, match="Unportable: a fault in the environment"):
        list(pool(fail_oddly, 1).run([7]))
    assert "died" not in capfd.readouterr().err


AHEAD = """
import sys
from worldmodels.workers.places import Place
from worldmodels.workers.pool import Processes, import_ahead


def setup(place):
    found = "torch" in sys.modules
    return lambda job, on_step=None: found


if __name__ == "__main__":
    import_ahead()
    with Processes(setup, [Place("cpu", 1), Place("cpu", 1)]) as workers:
        print("in the workers", dict(workers.run([0, 1])), "here", "torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker imports for itself")
def test_workers_begin_with_what_was_imported_ahead(tmp_path) -> None:
    (tmp_path / "script.py").write_text(AHEAD)
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    said = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert said.stdout.strip() == "in the workers {0: True, 1: True} here False", said.stderr


def test_where_processes_cannot_work_together_this_one_does_all(monkeypatch, capsys) -> None:
    """As in a container whose /dev/shm is missing or read-only: no semaphore can be made."""

    def refuse(self) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Processes, "start", refuse)
    say_once.cache_clear()
    with open_pool(Does(square), [Place("cpu", 1)] * 2) as workers:
        assert dict(workers.run([2, 3])) == {0: 4, 1: 9}
    assert isinstance(workers, Here) and "No worker processes, which need room in /dev/shm" in capsys.readouterr().err
