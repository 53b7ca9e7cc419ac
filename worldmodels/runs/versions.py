"""What produced a result: the versions that matter and, in a checkout, its commit."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "numba", "gymnasium", "cma")


def versions() -> dict[str, str]:
    """Name → version of Python, this package and the packages a result depends on; `commit` where git knows it."""
    import worldmodels

    found = {"worldmodels": worldmodels.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    here = Path(__file__).parent
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return found
    return {**found, "commit": asked.stdout.strip()} if asked.returncode == 0 else found
