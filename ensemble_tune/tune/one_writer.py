"""One search at a time writes to a run folder: a lock on a disk, a lease in an object store."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, write_text
from ensemble_tune.tune.lease import Lease


class OneWriter(Protocol):
    """Who may write to a ledger."""

    def acquire(self) -> None:
        """Becomes the writer. Raises RunError, naming the owner, where another process is; OSError."""

    def check(self) -> None:
        """Raises RunError where another process has become the writer, OSError where that cannot be known."""

    def release(self) -> None:
        """Lets others write."""


def one_writer(folder: Location) -> OneWriter:
    """Of a ledger's folder."""
    return DiskLock(folder) if isinstance(folder, Path) else Lease(folder)


class DiskLock:
    """A lock that the system lets go of when its process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Made when it is wanted: most ledgers are read only, and a lock's destructor does more than nothing.
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Raises RunError, naming the owner, where another process is the writer; OSError."""
        owner = self._folder / "writer.txt"
        self._lock = self._lock or FileLock(self._folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            who = owner.read_text(encoding="utf-8", errors="replace") if owner.exists() else "another process"
            raise RunError(
                f"one search writes to a run folder at a time, but {who} writes to {self._folder.parent}; "
                "wait for it, stop it, or use another --out"
            ) from None
        try:
            write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        except BaseException:
            self._lock.release()
            raise

    def check(self) -> None:
        """Nothing: nobody takes a lock away."""

    def release(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            self._lock.release()
