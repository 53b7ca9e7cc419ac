"""Tests work on tiny batches: one thread each, so that processes side by side do not wait for each other's.

What compares with Gymnasium's own CarRacing is skipped where Box2D is not installed: it has no wheel for Python 3.14.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import gymnasium
import hypothesis
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the commands that tests start

from tests.helpers import compiled

hypothesis.settings.register_profile("tests", deadline=None)  # speed is never asserted
hypothesis.settings.load_profile("tests")

if find_spec("Box2D") is None:
    collect_ignore = [f"envs/test_{name}.py" for name in ("conformance", "options", "physics", "render", "track")]


def pytest_configure(config: pytest.Config) -> None:
    """Before processes that run tests side by side are started, of which each would compile the simulator."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        compiled.fill_cache()


@contextmanager
def box2d_or_skip() -> Iterator[None]:
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        if find_spec("Box2D") is not None or "box2d" not in str(error).lower():
            raise
        pytest.skip("Gymnasium's own CarRacing needs Box2D")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, Any, Any]:
    with box2d_or_skip():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    with box2d_or_skip():
        return (yield)
