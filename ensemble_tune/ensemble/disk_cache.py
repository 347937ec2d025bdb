"""Folders on the local disk that can be made again: built once by whoever comes first, and kept within a limit."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ensemble_tune.documents import parse_json
from ensemble_tune.errors import ConfigError
from ensemble_tune.storage import PARTIAL, atomic_folder, is_partial, remove_folder, write_bytes

T = TypeVar("T")

GIB = 2**30
DEFAULT_LIMIT = 100 * GIB
"""Bytes: some 200 times CamVid at its own size."""

_STAMP = "stamp.json"
_SUMMED = "*.npy"
"""Files whose checksums are kept: arrays are mapped as they are, where a damaged picture is noticed as it is read."""

_INTACT = "intact.json"
"""The state of the arrays when they were last summed, by any process: summing reads every byte, so once is enough."""
_intact: dict[Path, object] = {}
"""The same as this process knows it: in a cache that another user owns nothing can be told."""


def default_cache() -> Path:
    """The folder for decoded frames where none is given: ensemble_tune in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensemble_tune"


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Folders in `root`, safe to share between processes; those unused for longest go when `limit` or disk are full."""

    root: Path
    limit: int = DEFAULT_LIMIT
    of: str = "decoded frames"
    """What is in it, for errors."""

    def get(
        self,
        name: str,
        stamp: object,
        *,
        need: int,
        beside: Collection[str],
        build: Callable[[Path], None],
        read: Callable[[Path], T],
    ) -> T:
        """What `read` makes of the folder `name`, which is built anew, by one process at a time, where it is unfit.

        stamp: what the folder must be of, as JSON; beside it stand the arrays' checksums, which are looked at once, and
        again when an array was written to or the machine started anew. need: its size in bytes. beside: names that are
        needed together with it, and never make room for it. read: raises OSError or ValueError for a folder that is
        damaged. Raises ConfigError where the cache or its disk is too small.
        """
        folder = self.root / name
        found = self._attempt(folder, stamp, read)
        if found is None:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f"{name}.lock"):
                found = self._attempt(folder, stamp, read)
                if found is None:
                    with FileLock(self.root / "room.lock"):
                        remove_folder(folder)
                        self._make_room(name, need, beside)
                    with atomic_folder(folder) as aside:
                        build(aside)
                        stamped = {"of": stamp, "crc32": _sums(aside)}
                        (aside / _STAMP).write_text(json.dumps(stamped), encoding="utf-8")
                    _tell_intact(folder)
                    found = read(folder)
        return found

    def check(self, need: int) -> None:
        """Raises ConfigError where folders of `need` bytes that are needed together can never fit the limit."""
        if need > self.limit:
            raise ConfigError(
                f"{self.of} must fit the cache, but they take {_gib(need)} GiB and --cache-limit is "
                f"{_gib(self.limit)}; raise it, or lower --size"
            )

    def _attempt(self, folder: Path, stamp: object, read: Callable[[Path], T]) -> T | None:
        try:
            kept = parse_json((folder / _STAMP).read_text(encoding="utf-8"))
            if not isinstance(kept, dict) or kept.get("of") != stamp:
                return None
            found = read(folder)
            if not _is_intact(folder):
                if kept.get("crc32") != _sums(folder):
                    return None
                _tell_intact(folder)
        except (OSError, ValueError):
            return None
        with suppress(OSError):  # a cache that another user owns
            os.utime(folder / _STAMP)  # the time of its last use
        return found

    def _make_room(self, name: str, need: int, kept: Collection[str]) -> None:
        """Removes what was not used for longest until `name` fits. Raises ConfigError where it cannot."""
        self._clear_partial(name)
        entries = [path for path in self.root.iterdir() if path.is_dir()]
        sizes = {path: _size(path) for path in entries}
        self.check(need + sum(size for path, size in sizes.items() if path.name in kept))
        total = sum(sizes.values())
        removable = [path for path in entries if path.name not in kept and not is_partial(path)]
        for path in sorted(removable, key=_last_use):
            if total + need <= self.limit and need <= shutil.disk_usage(self.root).free:
                break
            remove_folder(path)  # whoever has mapped it keeps what it mapped
            total -= sizes[path]
        free = shutil.disk_usage(self.root).free
        if need > free:
            raise ConfigError(
                f"{self.of} must fit the disk, but they take {_gib(need)} GiB and {self.root} has {_gib(free)} "
                "free; choose another --cache, or lower --size"
            )

    def _clear_partial(self, ours: str) -> None:
        """Removes what builders that died have left; what others are building now is left alone.

        ours: the name whose lock is held here.
        """
        for path in self.root.glob(f"{PARTIAL}*"):
            name = path.name.removeprefix(PARTIAL).partition("-")[2]
            if name == ours:
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(Timeout), FileLock(self.root / f"{name}.lock").acquire(timeout=0):
                    shutil.rmtree(path, ignore_errors=True)


def _sums(folder: Path) -> dict[str, int]:
    """The checksum of each array under a folder. Raises OSError, and ValueError where one is empty."""
    return {path.relative_to(folder).as_posix(): _sum(path) for path in folder.rglob(_SUMMED)}


def _sum(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return zlib.crc32(mapped)


def _size(folder: Path) -> int:
    """Bytes of a folder's files; what others rename or remove meanwhile counts as nothing."""
    size = 0
    with suppress(OSError):
        for file in folder.rglob("*"):
            with suppress(OSError):
                size += file.stat().st_size
    return size


def _is_intact(folder: Path) -> bool:
    """Whether the arrays are as they were when they were last summed."""
    state = _state(folder)
    if _intact.get(folder) != state:
        try:
            _intact[folder] = parse_json((folder / _INTACT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
    return _intact[folder] == state


def _tell_intact(folder: Path) -> None:
    state = _intact[folder] = _state(folder)
    with suppress(OSError):
        write_bytes(folder / _INTACT, json.dumps(state).encode())


def _state(folder: Path) -> dict[str, object]:
    """What changes when an array is written to, or may have decayed: files that are not read lie on the disk alone."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob(_SUMMED)}
    arrays = {name: [own.st_ino, own.st_size, own.st_mtime_ns] for name, own in found.items()}
    return {"machine": _started(), "arrays": arrays}


@cache
def _started() -> str:
    """Another one for each start of the machine; where that is not known, for each process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


def _last_use(folder: Path) -> float:
    try:
        return (folder / _STAMP).stat().st_mtime
    except OSError:
        return 0.0


def _gib(size: int) -> str:
    return f"{size / GIB:.3g}"
