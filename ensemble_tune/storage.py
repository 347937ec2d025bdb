"""Writing files so that a reader, or a later run, never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble_tune.errors import ConfigError

PARTIAL = ".partial-"
"""What the name of a file or folder begins with that is being written or removed."""


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
        aside.unlink(missing_ok=True)


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


def _flush(path: Path) -> None:
    """Puts a file's bytes on the disk, so that the rename after it never outlives them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
