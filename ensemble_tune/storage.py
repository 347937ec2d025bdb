"""Writing files so that a reader, or a later run, never sees half of one."""

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
from typing import TypeVar

from ensemble_tune.errors import ConfigError, StorageError, StorageFullError

T = TypeVar("T")

PARTIAL = ".partial-"
"""What the name of a file or folder begins with that is being written or removed."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RETRY_SECONDS = (0.1, 0.2, 0.4)
"""How long a write that failed waits before it is tried again."""


@contextmanager
def atomic_file(path: Path, *, within: Path | None = None) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `path` in one step, on failure it goes.

    within: the folder to write in, on the same file system; None is the folder of `path`.
    """
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


def write_bytes(path: Path, data: bytes | memoryview, *, within: Path | None = None) -> None:
    """Writes a file atomically; within as in `atomic_file`."""
    with atomic_file(path, within=within) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes `path` in place of an older one, on failure it goes."""
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


def make_folder(path: Path) -> None:
    """Makes a folder where there is none. Raises ConfigError where it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(
            f"{path} must be a folder that can be written to, but is not ({error.strerror}); choose another"
        ) from None


def remove_folder(path: Path) -> None:
    """Removes a folder so that it is there whole or not at all; a folder that is not there is fine."""
    if not path.exists():
        return
    aside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{path.name}")
    path.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def is_partial(path: Path) -> bool:
    """Whether `path` was being written or removed when its process died."""
    return path.name.startswith(PARTIAL)


def remove_partial(folder: Path) -> None:
    """Clears what dead processes left half-written directly in `folder`; call it only as the folder's one writer."""
    for path in folder.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def retried(write: Callable[[], T], path: Path) -> T:
    """What `write` returns; where it raises an OSError, it is called again up to three times, after 0.1, 0.2 and 0.4 s.

    path: what is written. Raises StorageFullError at once where a disk is full, StorageError when the last try failed.
    """
    for wait in (*_RETRY_SECONDS, None):
        try:
            return write()
        except Exception as error:
            if is_full(error):
                raise full_error(path, error) from error
            if not isinstance(error, OSError):
                raise
            if wait is None:
                raise StorageError(
                    f"{path} must be written, but that failed {len(_RETRY_SECONDS) + 1} times ({reason_of(error)}); "
                    "mend the storage, then run the same command again: it goes on where it stopped"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def is_full(error: BaseException) -> bool:
    """Whether a write failed because a disk or a quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # What writes its files outside Python (safetensors, torch) gives the system's reason in the text alone.
    return any(os.strerror(code) in str(error) for code in _FULL)


def full_error(path: Path, error: BaseException) -> StorageFullError:
    """What to raise where `path` could not be written because a disk or a quota is full."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
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
