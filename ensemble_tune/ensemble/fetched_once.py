"""What lies in an object store, on this machine's disk: fetched once, shared by all its trials, kept within a limit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ensemble_tune.ensemble.dataset_spec import SPEC_FILE
from ensemble_tune.ensemble.disk_cache import DiskCache
from ensemble_tune.ensemble.pixels import FILE_SUFFIXES
from ensemble_tune.ensemble.pool import LIST_SUFFIX
from ensemble_tune.errors import DataError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import retried
from ensemble_tune.store_folder import download_all, fetch_folder, folder_contents


def fetched_predictions(folder: ObjectPath, cache: Path, limit: int) -> Path:
    """A folder that `write_predictions` made. cache: a local folder; limit: bytes that all such folders may take.

    Raises FileNotFoundError where it is not there whole, StorageError where the store fails, ConfigError where it does
    not fit.
    """
    contents = retried(lambda: folder_contents(folder), folder, "read")
    sizes: Mapping[str, int] = contents["files"]
    return _kept(
        DiskCache(cache / "predictions", limit, "predictions"),
        _named(str(folder)),
        contents,
        sizes,
        folder.name,
        lambda to: retried(lambda: fetch_folder(folder, to), folder, "read"),
    )


def fetched_data(folder: ObjectPath, cache: Path, limit: int) -> Path:
    """A data set: its dataset.toml, its lists, images and masks, as they are now. cache, limit: as above.

    An object counts as another one where its path, its size or its time is another. Raises DataError where there is no
    data set, StorageError where the store fails, ConfigError where it does not fit.
    """
    found = retried(folder.objects, folder, "read")
    wanted = {
        name: list(each)
        for name, each in sorted(found.items())
        if name == SPEC_FILE or name.lower().endswith((*FILE_SUFFIXES, LIST_SUFFIX))
    }
    if not any(name.lower().endswith(FILE_SUFFIXES) for name in wanted):
        raise DataError(f"no data set is at {folder}: it holds no {', '.join(FILE_SUFFIXES)} files; check the address")
    sizes = {name: size for name, (size, _) in wanted.items()}
    return _kept(
        DiskCache(cache / "data", limit, "the frames' files"),
        _named(str(folder), wanted),
        _named(wanted),
        sizes,
        folder.name,
        lambda to: retried(lambda: download_all(folder, sizes, to), folder, "read"),
    )


def _kept(
    cache: DiskCache, entry: str, stamp: object, sizes: Mapping[str, int], name: str, fetch: Callable[[Path], None]
) -> Path:
    """The copy in a cache, which `fetch` makes where it is not there whole."""

    def check(folder: Path) -> Path:
        for file, size in sizes.items():
            if (folder / name / file).stat().st_size != size:
                raise ValueError(f"{folder / name / file} is truncated")
        return folder / name

    def build(aside: Path) -> None:
        fetch(aside / name)

    return cache.get(entry, stamp, need=sum(sizes.values()), beside=(), build=build, read=check)


def _named(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
