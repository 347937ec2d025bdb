import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ensemble_tune.errors import ConfigError
from ensemble_tune.storage import (
    atomic_file,
    atomic_folder,
    is_partial,
    make_folder,
    remove_folder,
    remove_partial,
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
