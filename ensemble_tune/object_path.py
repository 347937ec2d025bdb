"""A path in an object store, which reads like one of pathlib's."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ensemble_tune.bucket import open_bucket
from ensemble_tune.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

T = TypeVar("T")

_SCHEMES = ("s3", "gs")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?.*)")
"""pathlib makes one slash of two: what a caller has made a Path of is still known."""
_WAITS = (0.3, 1.0, 3.0)
"""How long a request that still failed waits before it is tried again."""
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What our own disk raises while an object is copied to it."""
_REPLACED_TIMES = 10
"""How often an object may be replaced while it is read."""
_PIECE = 8 * 2**20
"""Bytes of a large object that are in memory at once."""


class Found(NamedTuple):
    """An object as a listing tells it."""

    size: int
    changed: int
    """Nanoseconds since 1970, by the store's clock."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """A file or a folder in a bucket: what it can do `pathlib.Path` can too, and it raises the same OSErrors.

    A folder is there as long as an object is in it. What is written appears whole, or not at all. Each request that
    fails is tried again for some seconds. It travels to other machines, with the server it is on; credentials never.
    """

    scheme: str
    key: str
    """Bucket, folders and name, with slashes between."""
    endpoint: str = ""
    """The server, where it is not the scheme's own, as http://host:port."""
    region: str = ""

    @classmethod
    def parse(cls, address: str) -> ObjectPath:
        """From s3://bucket/folder or gs://bucket/folder. Raises ConfigError.

        Server and region are those of this process's environment: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION
        or AWS_DEFAULT_REGION; of gs:// STORAGE_EMULATOR_HOST, as for Google's own clients.
        """
        match = _ADDRESS.fullmatch(address)
        scheme = match[1].lower() if match else ""
        if match is None or scheme not in _SCHEMES:
            raise ConfigError(f"an address begins with s3:// or gs://, but got {address!r}; or give a folder")
        key = "/".join(part for part in match[2].split("/") if part)
        if not key or ".." in key.split("/"):
            raise ConfigError(
                f"an address names a bucket and a folder in it, but got {address!r}; try {scheme}://b/run"
            )
        if scheme == "gs":
            return cls(scheme, key, _variable("STORAGE_EMULATOR_HOST"))
        return cls(
            scheme,
            key,
            _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            _variable("AWS_REGION", "AWS_DEFAULT_REGION"),
        )

    @staticmethod
    def is_address(text: str) -> bool:
        """Whether a text is meant as an address rather than as a path."""
        match = _ADDRESS.fullmatch(text)
        return match is not None and (match[1].lower() in _SCHEMES or match[2].startswith("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return replace(self, key=f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The name's ending."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that it is in."""
        return replace(self, key=self.key.rpartition("/")[0])

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def exists(self) -> bool:
        """Whether an object is there, or below."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        """Whether an object is there."""
        return self._kind() == "File"

    def is_dir(self) -> bool:
        """Whether objects are below."""
        return self._kind() == "Directory"

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder comes with its first object."""

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is in the folder; nothing where there is none."""
        from pyarrow.fs import FileSelector

        if self.scheme == "gs":  # where Arrow's client tells no folder that holds nothing but objects
            yield from (self / name for name in sorted({path.partition("/")[0] for path in self.objects()}))
            return
        found = self._steadily(lambda store: store.get_file_info(FileSelector(self.key, allow_not_found=True)))
        yield from (self / info.base_name for info in found)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What is in the folder, not below, and has such a name."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def objects(self) -> dict[str, Found]:
        """Every object below, by its path from here; empty where there is none."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.key, recursive=True, allow_not_found=True)
        found = self._steadily(lambda store: store.get_file_info(selector))
        return {
            info.path.removeprefix(f"{self.key}/"): Found(info.size, info.mtime_ns or 0)
            for info in found
            if info.type == FileType.File
        }

    def read_buffer(self) -> pa.Buffer:
        """An object's bytes in Arrow's memory."""

        def read(store: FileSystem) -> pa.Buffer:
            # The client asks for the size first, and then for so many bytes, which may be another writing's.
            for _ in range(_REPLACED_TIMES):
                with store.open_input_stream(self.key) as stream:
                    before, data = stream.metadata(), stream.read_buffer()
                with store.open_input_stream(self.key) as stream:
                    if stream.metadata() == before:
                        return data
            raise OSError(f"it was replaced {_REPLACED_TIMES} times while it was read")

        return self._steadily(read)

    def read_bytes(self) -> bytes:
        """An object's bytes."""
        return bytes(self.read_buffer())

    def read_text(self, encoding: str = "utf-8") -> str:
        """An object's text."""
        return self.read_bytes().decode(encoding)

    def download(self, path: Path) -> None:
        """Copies an object to a local file, a piece at a time."""

        def copy(store: FileSystem) -> None:
            with store.open_input_stream(self.key) as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, _PIECE)

        self._steadily(copy)

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Makes or replaces an object by a single request."""

        def write(store: FileSystem) -> None:
            stream = store.open_output_stream(self.key)
            stream.write(data)
            stream.close()

        self._steadily(write)

    def upload(self, path: Path) -> None:
        """Makes or replaces an object from a local file, a piece at a time."""

        def copy(store: FileSystem) -> None:
            with path.open("rb") as file:
                stream = store.open_output_stream(self.key)
                shutil.copyfileobj(file, stream, _PIECE)
                stream.close()

        self._steadily(copy)

    def touch(self) -> None:
        """Makes an empty object."""
        self.write_bytes(b"")

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Removes an object."""
        try:
            self._steadily(lambda store: store.delete_file(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self) -> None:
        """Removes every object below, and the folder with them."""

        def remove(store: FileSystem) -> None:
            # Of a folder that is not there gs:// says so in an error of no kind, which might be any.
            if self.scheme == "gs" and store.get_file_info(self.key).type.name == "NotFound":
                return
            try:
                store.delete_dir(self.key)
            except FileNotFoundError:
                return

        self._steadily(remove)

    def _kind(self) -> str:
        return str(self._steadily(lambda store: store.get_file_info(self.key)).type.name)

    def _steadily(self, call: Callable[[FileSystem], T]) -> T:
        """What a request gives, tried again for some seconds where it fails in a way that may pass."""
        from pyarrow import ArrowException

        store = self._store()
        for wait in (*_WAITS, None):
            try:
                return call(store)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise
            except (OSError, ArrowException) as error:  # the second: of an upload that cannot be resumed, for one
                if isinstance(error, OSError) and error.errno is not None and error.errno in _OURS:
                    raise
                if wait is None:
                    raise OSError(errno.EIO, " ".join(str(error).split()), str(self)) from error
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _store(self) -> FileSystem:
        """The connection to the bucket. Raises NoStoreError where the first contact fails."""
        return open_bucket(self.scheme, self.key.partition("/")[0], self.endpoint, self.region)


def _variable(*names: str) -> str:
    """The first of some environment variables that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
