"""numba's cache: where it goes when nothing beside the package is writable, and when a line says that it is filled."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from worldmodels.envs.carracing import kernels

TRY = """
import numba
import numba.core.caching as caching

def read_only(self):
    raise OSError("a package or home that cannot be written to")

for locator in caching.CompileResultCacheImpl._locator_classes:
    if "UserProvided" not in locator.__name__:
        locator.ensure_cache_path = read_only
from worldmodels.envs.carracing import physics, state
assert numba.config.CACHE_DIR == "", "what others cache goes where it went"
tracks, cars = state.allocate(1)
assert not physics.off_playfield(1.0, 2.0)
print(physics.off_playfield.stats.cache_path)
print(sum(physics.off_playfield.stats.cache_hits.values()))
"""


def in_a_fresh_process(temporary: Path) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"TMPDIR": str(temporary)}
    answer = subprocess.run([sys.executable, "-c", TRY], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split("\n")


def test_a_read_only_installation_caches_in_a_private_temporary_folder(tmp_path):
    folder, hits, _ = in_a_fresh_process(tmp_path)
    private = next(tmp_path.iterdir())
    assert Path(folder).is_relative_to(private) and hits == "0"
    assert os.name == "nt" or private.stat().st_mode & 0o77 == 0
    assert in_a_fresh_process(tmp_path)[:2] == [folder, "1"]  # the next process finds it


def test_a_folder_of_anybody_elses_is_not_used(tmp_path, monkeypatch):
    """Loading a cache runs what is in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = kernels.private_folder()
    assert kernels.private_folder() == mine
    mine.chmod(0o777)
    assert kernels.private_folder() != mine
    mine.rmdir()
    mine.symlink_to(tmp_path / "elsewhere")
    assert kernels.private_folder() != mine


def test_kernels_of_other_sources_are_dropped_and_clocks_have_no_say(tmp_path, monkeypatch):
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir(), cache.mkdir()
    source, plain, index = package / "physics.py", package / "env.py", cache / "physics.step-1.py311.nbi"
    source.write_text("a = 1"), plain.write_text("b = 1")
    monkeypatch.setattr(kernels, "__file__", str(package / "kernels.py"))

    def stays() -> bool:
        index.touch()
        kernels.forget_stale(str(cache))
        return index.exists()

    assert not stays(), "compiled by nobody knows which version"
    assert stays()
    for clock in (0, 2**33):
        os.utime(source, (clock, clock))
        assert stays()
    plain.write_text("b = 2")
    assert stays(), "no kernel reads it"
    source.write_text("a = 2")  # an older version, say: its time is not that of the change
    os.utime(source, (0, 0))
    assert not stays() and stays()


def compile_event(module: str) -> SimpleNamespace:
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module))})


@pytest.fixture
def impatient(monkeypatch) -> kernels.CompileNotice:
    monkeypatch.setattr(kernels, "PATIENCE", 0.01)
    return kernels.CompileNotice()


def test_compiling_is_said_once(impatient, capsys):
    ours = compile_event(kernels.PACKAGE + ".physics")
    for _ in range(2):
        impatient.on_start(ours), impatient.on_start(ours)  # one kernel compiles for another
        threading.Event().wait(0.2)
        impatient.on_end(ours), impatient.on_end(ours)
    assert capsys.readouterr().err == "compiling the simulator, once, ~1 min\n"


def test_compiling_something_else_or_quickly_is_not_said(impatient, capsys, monkeypatch):
    impatient.on_start(compile_event("somebody.else"))
    threading.Event().wait(0.1)
    impatient.on_end(compile_event("somebody.else"))
    monkeypatch.setattr(kernels, "PATIENCE", 5.0)
    impatient.on_start(compile_event(kernels.PACKAGE)), impatient.on_end(compile_event(kernels.PACKAGE))
    assert impatient.timer is not None and impatient.timer.finished.is_set()
    assert capsys.readouterr().err == ""
