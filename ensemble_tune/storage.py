"""Where a run lies, and writing there so that a reader, or a later run, never sees half of a file or a folder.

A place is a local (or shared) path, or one in an object store. On a disk a file or a folder is written aside and
renamed. A store renames nothing: there a file is one request, and a folder is whole once its last object is there.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ensemble_tune.documents import parse_json
from ensemble_tune.errors import ConfigError, EnsembleTuneError, StorageError, StorageFullError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.scratch import scratch_folder, scratch_root
from ensemble_tune.store_folder import (
    claim_in_store,
    fetch_folder,
    is_whole_in_store,
    put_folder,
    remove_store_folder,
    remove_unfinished,
    whole_in_store,
)

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

Location: TypeAlias = Path | ObjectPath
"""Where something of a run lies."""

PARTIAL = ".partial-"
"""What the name of a file or folder begins with that is being written or removed."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RETRY_SECONDS = (0.1, 0.2, 0.4)
"""How long a write that failed waits before it is tried again."""


def location(place: str | Location) -> Location:
    """A place by its name: s3://bucket/folder, gs://bucket/folder, or a path. Raises ConfigError for other schemes."""
    if isinstance(place, ObjectPath):
        return place
    return ObjectPath.parse(str(place)) if ObjectPath.is_address(str(place)) else Path(place)


@contextmanager
def atomic_file(path: Location, *, within: Path | None = None) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `path` in one step, on failure it goes.

    within: the folder to write in, on the same file system; None is the folder of `path`.
    """
    if isinstance(path, ObjectPath):
        with scratch_folder() as scratch:
            yield scratch / path.name
            retried(lambda: path.upload(scratch / path.name), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = (within or path.parent) / f"{PARTIAL}{uuid.uuid4().hex}-{path.name}"
    try:
        yield aside
        _flush(aside)
        aside.replace(path)
    finally:
        # Where the storage fails, so may this: why the write failed must not be lost to it.
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_bytes(path: Location, data: bytes | memoryview, *, within: Location | None = None) -> None:
    """Writes a file atomically; within as in `atomic_file`."""
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    with atomic_file(path, within=within if isinstance(within, Path) else None) as aside:
        aside.write_bytes(data)


def arrow_file(path: Location) -> pa.NativeFile:
    """A file for Arrow to read, all of it of one writing. Raises OSError."""
    import pyarrow as pa

    return pa.OSFile(str(path), "rb") if isinstance(path, Path) else pa.BufferReader(path.read_buffer())


def write_text(path: Location, text: str) -> None:
    """Writes UTF-8 text atomically. Raises StorageError."""
    retried(lambda: write_bytes(path, text.encode()), path)


@contextmanager
def atomic_folder(path: Location) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes `path` in place of an older one, on failure it goes.

    In a store an older one goes first, so that for a moment there is none.
    """
    if isinstance(path, ObjectPath):
        with scratch_folder() as scratch:
            yield scratch
            retried(lambda: put_folder(scratch, path), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{path.name}")
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        remove_folder(path)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def make_folder(path: Location) -> None:
    """Makes a folder where there is none. Raises ConfigError where it cannot be made or written to."""
    try:
        if isinstance(path, ObjectPath):
            probe = path / f"{PARTIAL}{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
            return
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(
            f"{path} must be a folder that can be written to, but is not ({reason_of(error)}); choose another"
        ) from None


def remove_folder(path: Location) -> None:
    """Removes a folder so that it is there whole or not at all; a folder that is not there is fine."""
    if isinstance(path, ObjectPath):
        remove_store_folder(path)
        return
    if not path.exists():
        return
    aside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{path.name}")
    path.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def read_json(path: Location) -> Any:
    """What a JSON file holds. Raises FileNotFoundError, StorageError, and ValueError where it is no JSON."""
    return parse_json(retried(lambda: path.read_text(encoding="utf-8"), path, "read"))


def names_in(folder: Location) -> list[str]:
    """The names of what is in a folder, in order; empty where there is none. Raises StorageError."""

    def read() -> list[str]:
        try:
            return sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    return retried(read, folder, "read")


def whole_folders(folder: Location) -> list[str]:
    """The names of the folders in `folder` that are there whole; empty where there is none. Raises StorageError."""
    if isinstance(folder, ObjectPath):
        return retried(lambda: whole_in_store(folder), folder, "read")
    return [name for name in names_in(folder) if not name.startswith(PARTIAL)]


def is_whole(folder: Location) -> bool:
    """Whether all of a folder that `atomic_folder` wrote is there. Raises StorageError."""
    if isinstance(folder, Path):
        return folder.is_dir()
    return retried(lambda: is_whole_in_store(folder), folder, "read")


@contextmanager
def fetched(folder: Location) -> Iterator[Path]:
    """A folder that `atomic_folder` wrote on this machine's disk, for as long as the `with` lasts; a path is itself.

    Raises FileNotFoundError where it is not there whole, StorageError where the store fails.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with scratch_folder() as scratch:
        here = scratch / folder.name
        retried(lambda: fetch_folder(folder, here), folder, "read")
        yield here


def copy_file(file: Location, to: Path) -> None:
    """Copies a file to a local one. Raises FileNotFoundError or StorageError."""
    if isinstance(file, Path):
        shutil.copyfile(file, to)
    else:
        retried(lambda: file.download(to), file, "read")


@contextmanager
def named_as(place: Location, local: Path) -> Iterator[None]:
    """Lets errors about a local copy name what it is a copy of."""
    try:
        yield
    except EnsembleTuneError as error:
        if place == local:
            raise
        raise type(error)(str(error).replace(str(local), str(place))) from error


def claim_folder(folder: Location) -> bool:
    """Makes a folder that is not there; whether it is the caller's alone: no two callers are told so."""
    if isinstance(folder, ObjectPath):
        return claim_in_store(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def is_partial(path: Location) -> bool:
    """Whether `path` was being written or removed when its process died."""
    return path.name.startswith(PARTIAL)


def remove_partial(folder: Location, *, folders: bool = False) -> None:
    """Clears what dead processes left half-written directly in `folder`; call it only as the folder's one writer.

    folders: whether all the folders in it are `atomic_folder`'s: in a store no name tells those that are half there.
    """
    if isinstance(folder, ObjectPath):
        if folders:
            remove_unfinished(folder)
        return
    for path in folder.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def retried(write: Callable[[], T], path: Location, done: str = "written") -> T:
    """What `write` returns; where it raises an OSError, it is called again up to three times, after 0.1, 0.2 and 0.4 s.

    path: what is written; or read if `done` says so: then FileNotFoundError is raised at once. Raises StorageFullError
    at once where a disk is full, StorageError when the last try failed.
    """
    for wait in (*_RETRY_SECONDS, None):
        try:
            return write()
        except Exception as error:
            if is_full(error):
                raise full_error(path, error) from error
            if not isinstance(error, OSError) or (done == "read" and isinstance(error, FileNotFoundError)):
                raise
            if wait is None:
                raise StorageError(
                    f"{path} must be {done}, but that failed {len(_RETRY_SECONDS) + 1} times ({reason_of(error)}); "
                    "mend the storage, then run the same command again: it goes on where it stopped"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def take_space(path: Path) -> None:
    """Gives a file that was only made as long as it shall be its room on the disk. Raises StorageFullError.

    Whoever maps such a file and writes where there is no room is killed by the system without a word. Where a file
    system has no such thing, nothing is done.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if is_full(error):
                raise full_error(path, error) from error


def is_full(error: BaseException) -> bool:
    """Whether a write failed because a disk or a quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # What writes its files outside Python (safetensors, torch) gives the system's reason in the text alone.
    return any(os.strerror(code) in str(error) for code in _FULL)


def full_error(path: Location, error: BaseException) -> StorageFullError:
    """What to raise where `path` could not be written because a disk or a quota is full: in a store's case our own."""
    local = path if isinstance(path, Path) else scratch_root() / path.name
    there = next(folder for folder in local.absolute().parents if folder.exists())
    try:
        free = f"{shutil.disk_usage(there).free / 1e6:,.1f} MB are free in {there} without it"
    except OSError:
        free = f"nothing can be told of {there}"
    return StorageFullError(
        f"{path} must be written, but its disk or quota is full ({reason_of(error)}; {free}); "
        "make space, then run the same command again: it goes on where it stopped, and no file was damaged"
    )


def reason_of(error: BaseException) -> str:
    """Why a write or a read failed, in a few words."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip().splitlines() or [type(error).__name__])[0]


def _flush(path: Path) -> None:
    """Puts a file's bytes on the disk, so that the rename after it never outlives them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
