"""numba's cache of this package: a place for it, no stale entries, and a word when the first call takes a while."""

import hashlib
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numba
from numba.core import event

from worldmodels.runs.files import write_atomically

PACKAGE = "worldmodels.envs.carracing"
PATIENCE = 2.0  # s of compiling before a line on stderr says so
NO_KERNELS = ("__init__", "env", "kernels", "vector_env", "video")  # files without kernels or their constants


def _probe() -> None:
    """What numba is asked to cache, to learn whether it can."""


@contextmanager
def writable_cache() -> Iterator[None]:
    """While our kernels are decorated, give numba a folder where neither the package's nor its own can be written to.

    numba refuses to decorate a function with `cache=True` there. Our folder lies in the system's temporary one, belongs
    to this user alone, since loading a cache runs what is in it, and serves the next process as well.
    """
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        numba.njit(cache=True)(_probe)
    except RuntimeError:
        numba.config.CACHE_DIR = str(private_folder())  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]


def private_folder() -> Path:
    """A temporary folder of this user's; a new one where that name is taken by anybody else."""
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    folder = Path(tempfile.gettempdir(), f"worldmodels-numba-{user}")
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and (os.name == "nt" or (status.st_uid, status.st_mode & 0o77) == (user, 0)):
            return folder
    return Path(tempfile.mkdtemp(prefix="worldmodels-numba-"))


def forget_stale(index_folder: str) -> None:
    """Drop compiled kernels of other sources than these, which `kernels.sources` beside them names by their content.

    numba's cache (`cache=True`) notices a change of a kernel's own file, but not of the files whose functions it calls:
    after an update, or back to a version before, it would go on driving with the old ones. Clocks have no say.
    """
    sources = sorted(source for source in Path(__file__).parent.glob("*.py") if source.stem not in NO_KERNELS)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = Path(index_folder, "kernels.sources")
    if stamp.exists() and stamp.read_text() == digest:
        return
    for index in Path(index_folder).glob("*.nbi"):
        index.unlink(missing_ok=True)  # another process was quicker
    write_atomically(stamp, digest.encode())


class CompileNotice(event.Listener):
    """Says once per process what is being waited for when a kernel of ours compiles, not when the cache is read."""

    def __init__(self) -> None:
        self.said = False
        self.depth = 0
        self.timer: threading.Timer | None = None

    def on_start(self, event: event.Event) -> None:
        """A kernel begins to compile, maybe for another one."""
        if not event.data["dispatcher"].py_func.__module__.startswith(PACKAGE):
            return
        self.depth += 1
        if self.depth == 1 and not self.said:
            self.timer = threading.Timer(PATIENCE, self.say)
            self.timer.daemon = True
            self.timer.start()

    def on_end(self, event: event.Event) -> None:
        """It has compiled."""
        if not event.data["dispatcher"].py_func.__module__.startswith(PACKAGE):
            return
        self.depth -= 1
        if self.depth == 0 and self.timer is not None:
            self.timer.cancel()

    def say(self) -> None:
        """The one line."""
        if not self.said:
            self.said = True
            print("compiling the simulator, once, ~1 min", file=sys.stderr, flush=True)


event.register("numba:compile", CompileNotice())
