"""Folders on this machine's own disk that nobody needs once their process has ended, however it ended."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SETTLED_SECONDS = 60.0
"""A folder younger than that may be one whose process has not marked it as its own yet."""


def scratch_root() -> Path:
    """Where they are: in the system's folder for temporary files, which TMPDIR moves."""
    return Path(tempfile.gettempdir()) / f"ensemble-tune-{os.getuid()}"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields an empty folder that is removed afterwards; where its process is killed, by whoever needs one next."""
    root = scratch_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(root)
    folder = Path(tempfile.mkdtemp(dir=root))
    # The system lets go of the lock when the process ends, by a signal too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _sweep(root: Path) -> None:
    """Removes what processes that were killed have left."""
    for folder in root.iterdir():
        with suppress(OSError):  # another process sweeps too
            if time.time() - folder.stat().st_mtime < _SETTLED_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
