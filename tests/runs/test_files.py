"""Files: one process at a time in a folder, where its file system can say so."""

import errno
from pathlib import Path

import pytest

from worldmodels.errors import UserError
from worldmodels.runs import files


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with (
        files.alone(tmp_path / "new", "training"),
        pytest.raises(UserError, match="Another process is collecting in"),
        files.alone(tmp_path / "new", "collecting"),
    ):
        pass
    with files.alone(tmp_path / "new", "collecting"):
        pass


@pytest.mark.parametrize(
    "says", [OSError(errno.ENOLCK, "no locks"), OSError(errno.EOPNOTSUPP, ""), NotImplementedError()]
)
def test_a_file_system_without_locks_is_worked_on_all_the_same(says: Exception, tmp_path: Path, monkeypatch) -> None:
    done = []
    monkeypatch.setattr(files.FileLock, "acquire", failing(says))
    with files.alone(tmp_path, "training"):
        done.append(True)
    assert done


def test_a_folder_that_cannot_be_written_to_is_no_folder_without_locks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files.FileLock, "acquire", failing(PermissionError(errno.EACCES, "no")))
    with pytest.raises(PermissionError), files.alone(tmp_path, "training"):
        pass


def failing(error: Exception):
    def acquire(*_: object, **__: object) -> None:
        raise error

    return acquire


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError) as full:
        files.write_json(tmp_path / "config.json", {})
    assert full.value.filename == str(tmp_path / "config.json")
