"""The commit a result is recorded with: this project's, or none."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest

from worldmodels.runs import versions as module
from worldmodels.runs.versions import commit


@pytest.fixture(autouse=True)
def not_installed(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)


def git(folder, *arguments):
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder, name):
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def test_a_checkout_of_this_project_is_named_by_its_commit_and_whether_it_was_changed(tmp_path):
    head = repository(tmp_path / "ours", "worldmodels-pytorch")
    git(tmp_path / "ours", "tag", "v1")  # describe prefers tags
    assert commit(tmp_path / "ours") == head
    with (tmp_path / "ours" / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert commit(tmp_path / "ours") == head + "-dirty"


def test_a_repository_around_the_installed_package_is_not_its_commit(tmp_path):
    repository(tmp_path / "theirs", "another-project")
    site = tmp_path / "theirs" / ".venv" / "site-packages"
    site.mkdir(parents=True)
    assert commit(site) is None
    assert commit(tmp_path / "theirs") is None


def test_the_commit_survives_gits_own_variables(tmp_path, monkeypatch):
    head = repository(tmp_path / "ours", "worldmodels-pytorch")
    repository(tmp_path / "theirs", "another-project")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    assert commit(tmp_path / "ours") == head


@pytest.mark.parametrize(
    "origin, known", [('{"vcs_info": {"commit_id": "abc"}}', "abc"), ('{"dir_info": {}}', None), (None, None)]
)
def test_an_installation_from_a_repository_knows_its_commit(tmp_path, monkeypatch, origin, known):
    class Installed:
        def read_text(self, name):
            return origin if name == "direct_url.json" else None

    monkeypatch.setattr(module, "distribution", lambda name: Installed())
    assert commit(tmp_path) == known
