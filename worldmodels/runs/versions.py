"""What produced a result: the versions that matter and the commit of this package, where one is known."""

import json
import os
import platform
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

DISTRIBUTION = "worldmodels-pytorch"
PACKAGES = ("torch", "numpy", "numba", "gymnasium", "cma")


def versions() -> dict[str, str]:
    """Name → version of Python, this package and the packages a result depends on; `commit` where it is known."""
    import worldmodels

    found = {"worldmodels": worldmodels.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    known = commit(Path(worldmodels.__file__).parent.parent)
    return {**found, "commit": known} if known else found


def commit(folder: Path) -> str | None:
    """The commit of the package in `folder`: of a checkout of this project (`-dirty` where tracked files were changed),
    or the one pip installed from a repository (PEP 610). A repository around an installed package is not it.
    """
    if (folder / ".git").exists() and project_name(folder / "pyproject.toml") == DISTRIBUTION:
        elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a hook
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            asked = subprocess.run(command, cwd=folder, env=elsewhere, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return asked.stdout.strip() if asked.returncode == 0 else None
    try:
        origin = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return json.loads(origin).get("vcs_info", {}).get("commit_id") if origin else None


def project_name(path: Path) -> str | None:
    """The project that a pyproject.toml belongs to; None where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("name")
    except (OSError, ValueError):
        return None
