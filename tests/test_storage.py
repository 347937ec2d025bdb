import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_disk import fill, small_disk

from ensemble_tune.errors import ConfigError, RunError, StorageFullError
from ensemble_tune.storage import (
    atomic_file,
    atomic_folder,
    is_full,
    is_partial,
    make_folder,
    remove_folder,
    remove_partial,
    retried,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old ä")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as aside:
        aside.write_text("new")
        _ = 1 / 0
    assert path.read_text(encoding="utf-8") == "old ä"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for text in ("old", "new"):
        with atomic_folder(path) as aside:
            (aside / text).write_text(text)
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as aside:
        (aside / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as aside:
        (aside / "new").write_text("new")
        _ = 1 / 0
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_removing_a_folder_that_is_not_there_is_fine(tmp_path: Path) -> None:
    remove_folder(tmp_path / "nothing")
    (tmp_path / "there" / "deeper").mkdir(parents=True)
    remove_folder(tmp_path / "there")
    assert names(tmp_path) == []


def test_what_dead_processes_left_is_told_apart_and_cleared(tmp_path: Path) -> None:
    write_text(tmp_path / "kept.txt", "kept")
    with atomic_file(tmp_path / "a") as file, atomic_folder(tmp_path / "b") as folder:
        file.write_text("half")
        (folder / "c").write_text("half")
        assert is_partial(file) and is_partial(folder) and not is_partial(tmp_path / "kept.txt")
        remove_partial(tmp_path)
        assert names(tmp_path) == ["kept.txt"]
        file.touch()
        folder.mkdir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "deep")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a folder that can be written to"):
        make_folder(tmp_path / "file" / "deep")


def test_a_full_disk_leaves_the_older_file_and_nothing_of_the_new(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        write_bytes(disk / "a", b"old")
        fill(disk, leave=100_000)
        with pytest.raises(OSError) as error:
            write_bytes(disk / "a", bytes(200_000))
        assert is_full(error.value)
        assert (disk / "a").read_bytes() == b"old" and names(disk) == ["a", "filler"]
        with pytest.raises(
            StorageFullError, match=rf"{disk}/a must be written, .* 0\.1 MB are free in {disk} without it"
        ):
            retried(lambda: write_bytes(disk / "a", bytes(200_000)), disk / "a")


def test_a_full_disk_or_quota_is_told_from_other_failures() -> None:
    assert is_full(OSError(errno.ENOSPC, "x")) and is_full(OSError(errno.EDQUOT, "x"))
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EIO, "No space left on device")) and not is_full(RuntimeError("x"))


def test_why_a_write_failed_is_not_lost_where_tidying_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, **options: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(OSError, match="first"), atomic_file(tmp_path / "a"):
        raise OSError(errno.EIO, "first")


def test_a_write_that_fails_is_tried_four_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    left = [5]

    def write() -> str:
        left[0] -= 1
        if left[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "written"

    with pytest.raises(RunError, match=r"a must be written, but that failed 4 times \(Input/output error\)") as error:
        retried(write, tmp_path / "a")
    assert naps == [0.1, 0.2, 0.4] and not isinstance(error.value, StorageFullError)
    assert retried(write, tmp_path / "a") == "written"
    with pytest.raises(ZeroDivisionError):
        retried(lambda: 1 // 0, tmp_path / "a")
    assert len(naps) == 3


_WRITER = """
import sys
from pathlib import Path
from ensemble_tune.storage import atomic_folder, write_text
here = Path(sys.argv[1])
for i in range(10**9):
    write_text(here / "file", f"{i % 10}" * 200_000)
    with atomic_folder(here / f"folder-{i}") as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
"""


def test_a_writer_killed_at_any_moment_leaves_nothing_half_written(tmp_path: Path) -> None:
    for wait in (0.0, 0.013, 0.031, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path])
        while not list(tmp_path.glob("folder-*")):
            time.sleep(0.001)
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        text = (tmp_path / "file").read_text()
        assert len(text) == 200_000 and len(set(text)) == 1
        for folder in tmp_path.glob("folder-*"):
            assert names(folder) == ["a", "b"]
            remove_folder(folder)
