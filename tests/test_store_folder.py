"""Folders that are whole or not there, on a disk and in a store."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from s3_server import Proxy

from ensemble_tune import object_path, store_folder
from ensemble_tune.errors import StorageError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.scratch import scratch_root
from ensemble_tune.storage import (
    Location,
    atomic_folder,
    claim_folder,
    fetched,
    is_whole,
    remove_folder,
    remove_partial,
    whole_folders,
)
from ensemble_tune.store_folder import COMPLETE, download_all, parse_contents, put_folder

LEADING_OUT = ["../x", "a/../../x", "..", "/x", "a\0", ""]
"""Names that someone else may have given a file in a store."""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_path, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(store_folder, "_REPLACED_SECONDS", 0.0)


def write(folder: Location, text: str) -> None:
    with atomic_folder(folder) as aside:
        (aside / text).write_text(text)
        (aside / "deep").mkdir()
        (aside / "deep" / "both").write_text(text)


def read(folder: Location) -> dict[str, str]:
    with fetched(folder) as here:
        return {str(file.relative_to(here)): file.read_text() for file in here.rglob("*") if file.is_file()}


def test_a_folder_replaces_an_older_one(place: Location) -> None:
    folder = place / "folder"
    assert not is_whole(folder) and whole_folders(place) == []
    for text in ("old", "new"):
        write(folder, text)
        assert read(folder) == {text: text, "deep/both": text}
        assert is_whole(folder) and whole_folders(place) == ["folder"]


def test_a_folder_that_fails_leaves_the_older_one(place: Location) -> None:
    write(place / "folder", "old")
    with pytest.raises(ZeroDivisionError), atomic_folder(place / "folder") as aside:
        (aside / "new").write_text("new")
        _ = 1 / 0
    assert set(read(place / "folder")) == {"old", "deep/both"}


def test_a_folder_that_is_removed_is_gone(place: Location) -> None:
    remove_folder(place / "nothing")
    write(place / "folder", "a")
    remove_folder(place / "folder")
    assert not is_whole(place / "folder") and not (place / "folder").exists() and whole_folders(place) == []


def test_a_local_copy_is_gone_after_its_use(bucket: ObjectPath) -> None:
    write(bucket / "folder", "a")
    with fetched(bucket / "folder") as here:
        assert here.name == "folder" and (here / "a").is_file() and here.is_relative_to(scratch_root())
    assert not here.exists()


def test_a_folder_whose_last_object_is_not_there_is_not_whole(bucket: ObjectPath) -> None:
    folder = bucket / "folder"
    write(folder, "a")
    (folder / COMPLETE).unlink()
    assert whole_folders(bucket) == [] and not is_whole(folder)
    with pytest.raises(FileNotFoundError), fetched(folder):
        pass


@pytest.mark.parametrize("fault", ["gone", "short"])
def test_a_folder_that_lacks_what_it_names_is_not_whole(bucket: ObjectPath, fault: str, hurried: None) -> None:
    folder = bucket / "folder"
    write(folder, "a")
    if fault == "gone":
        (folder / "a").unlink()
    else:
        (folder / "a").write_bytes(b"")
    assert not is_whole(folder)
    with pytest.raises(StorageError, match=r"folder must be read, but that failed 4 times"), fetched(folder):
        pass


def test_what_dead_processes_left_is_cleared_and_nothing_else(bucket: ObjectPath) -> None:
    write(bucket / "whole", "a")
    (bucket / "claim").touch()
    (bucket / "half" / "a").touch()
    remove_partial(bucket)
    assert (bucket / "half").is_dir(), "other folders than those of `atomic_folder` have no last object"
    remove_partial(bucket, folders=True)
    assert set(bucket.objects()) == {"whole/a", "whole/deep/both", "whole/complete.json", "claim"}


def test_a_folder_that_is_replaced_while_it_is_fetched_comes_whole(
    bucket: ObjectPath, tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writer replaces it as fast as it can; no reader ever sees two writings mixed, or half of one."""
    monkeypatch.setattr(store_folder, "_REPLACED_TIMES", 10_000)
    folder, over = bucket / "folder", threading.Event()
    for text in ("0", "1"):
        (tmp_path / text).mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / text / name).write_text(text)
    put_folder(tmp_path / "0", folder)

    turns = [0]

    def replace_it() -> None:
        while not over.is_set():
            turns[0] += 1
            put_folder(tmp_path / str(turns[0] % 2), folder)
            over.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace_it)
        try:
            while turns[0] < 6 and not writer.done():
                with suppress(FileNotFoundError):  # between two writings there is none
                    found = read(folder)
                    assert set(found) == {"a", "b", "c"} and len(set(found.values())) == 1, found
        finally:
            over.set()
        writer.result()


def test_a_folder_is_claimed_by_one_caller_alone(place: Location) -> None:
    assert claim_folder(place / "attempt-0001") and not claim_folder(place / "attempt-0001")

    def claim(_: int) -> list[int]:
        return [number for number in range(10) if claim_folder(place / f"attempt-1{number:03d}")]

    with ThreadPoolExecutor(4) as pool:
        won = [number for numbers in pool.map(claim, range(4)) for number in numbers]
    assert len(won) == len(set(won)), "two have the same"


def test_uploads_and_downloads_outlive_a_faulty_store(bucket: ObjectPath, proxy: Proxy, hurried: None) -> None:
    write(bucket / "warm", "a")
    proxy.faults, proxy.share = ("refuse", "unavailable", "drop", "lose"), 0.2
    for text in ("one", "two", "three"):
        write(bucket / "folder", text)
        assert read(bucket / "folder") == {text: text, "deep/both": text}
    assert proxy.injected > 5
    contents = json.loads((bucket / "folder" / COMPLETE).read_text())
    assert contents["files"] == {"three": 5, "deep/both": 5}


def test_a_store_that_fails_for_long_is_told_in_one_line(bucket: ObjectPath, proxy: Proxy, hurried: None) -> None:
    write(bucket / "folder", "a")
    proxy.faults, proxy.share = ("denied",), 1.0  # which the client does not try again by itself
    with pytest.raises(StorageError, match=r"folder must be written, but that failed 4 times \(.*mend the storage"):
        write(bucket / "folder", "b")
    with pytest.raises(StorageError, match=r"folder must be read, but that failed 4 times"):
        read(bucket / "folder")
    proxy.mend()
    assert read(bucket / "folder") == {"a": "a", "deep/both": "a"}, "what was there is there"


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_folder_that_names_a_file_outside_of_itself_is_not_fetched(
    bucket: ObjectPath, hurried: None, name: str
) -> None:
    folder = bucket / "folder"
    write(folder, "a")
    contents = json.loads((folder / COMPLETE).read_text())
    contents["files"][name] = 1
    with pytest.raises(ValueError, match=r" is no file in a folder$"):
        parse_contents(json.dumps(contents))
    (folder / COMPLETE).write_bytes(json.dumps(contents).encode())
    with pytest.raises(StorageError, match=r"complete\.json is damaged: .* is no file in a folder\); mend the storage"):
        read(folder)


@pytest.mark.parametrize("name", LEADING_OUT)
def test_no_object_is_copied_out_of_the_folder_it_is_fetched_to(bucket: ObjectPath, tmp_path: Path, name: str) -> None:
    """What a store lists may have any name; refused before the first byte is copied."""
    (bucket / "folder" / "a").write_bytes(b"1")
    (bucket / "x").write_bytes(b"1")
    with pytest.raises(OSError, match=r"folder holds .*, which is no name of a file$"):
        download_all(bucket / "folder", {"a": 1, name: 1}, tmp_path / "to" / "here")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "it must be a table, but is"),
        ("{}", "files is missing"),
        ('{"files": ["a"]}', "files must be a table, but is"),
        ('{"files": {"a": -1}}', "files.a must be a whole number of at least 0, but is -1"),
        ('{"files": {"a": true}}', "files.a must be a whole number of at least 0, but is True"),
        ('{"files": {"a": 1e3}}', "files.a must be a whole number of at least 0, but is 1000.0"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_contents_that_are_no_list_of_files_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_contents(text)
    assert said in str(error.value)
