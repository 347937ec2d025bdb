"""A folder in an object store: whole once its last object is there, `complete.json`, which names every file's size.

A store renames nothing, so a reader looks at that object before and after: what it fetched between is of one writing.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ensemble_tune.documents import Document, parse_json
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.waits import tracked

COMPLETE = "complete.json"
"""The last object of a folder in a store."""

_TRANSFERS = 8
"""Objects under way at the same time."""
_REPLACED_TIMES, _REPLACED_SECONDS = 5, 0.2
"""How often a folder may be replaced while it is fetched, and how long to wait until the next look."""


def put_folder(filled: Path, folder: ObjectPath) -> None:
    """Copies a local folder into a store, in place of an older one."""
    if folder.exists():
        remove_store_folder(folder)
    sizes = {str(file.relative_to(filled)): file.stat().st_size for file in filled.rglob("*") if file.is_file()}
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        for _ in pool.map(lambda name: (folder / name).upload(filled / name), sizes):
            pass
    (folder / COMPLETE).write_bytes(json.dumps({"writing": uuid.uuid4().hex, "files": sizes}).encode())


def remove_store_folder(folder: ObjectPath) -> None:
    """Removes a folder; it is whole no more from the first moment on."""
    (folder / COMPLETE).unlink(missing_ok=True)
    folder.remove_below()


def fetch_folder(folder: ObjectPath, to: Path) -> None:
    """Copies a whole folder to this machine, all of it of one writing. Raises as `folder_contents` does."""
    for _ in range(_REPLACED_TIMES):
        contents = folder_contents(folder)
        shutil.rmtree(to, ignore_errors=True)
        try:
            download_all(folder, contents["files"], to)
        except FileNotFoundError:  # removed, or being replaced by another
            time.sleep(_REPLACED_SECONDS)
            continue
        if folder_contents(folder) == contents:
            return
    raise OSError(f"it was replaced {_REPLACED_TIMES} times while it was read")


def folder_contents(folder: ObjectPath) -> dict[str, Any]:
    """What a whole folder in a store says of itself: `files`, sizes by path, and the `writing` that it is of.

    Raises FileNotFoundError where it is not there whole, OSError where the store fails.
    """
    try:
        return parse_contents((folder / COMPLETE).read_text())
    except ValueError as error:
        raise OSError(f"{folder / COMPLETE} is damaged: {error}") from None


def parse_contents(text: str) -> dict[str, Any]:
    """What `complete.json` says. Raises ValueError where that is no list of files within a folder."""
    found = parse_json(text)
    files = Document(found).table("files")
    for name in files:
        files.whole(name)
        if _leads_out(name):
            raise ValueError(f"{name!r} is no file in a folder")
    return dict(found)


def download_all(folder: ObjectPath, sizes: Mapping[str, int], to: Path) -> None:
    """Copies objects to a local folder; sizes: by path from `folder`.

    Raises OSError where one has another size, or a name that leads out of the folder.
    """
    for name in sizes:
        if _leads_out(name):
            raise OSError(f"{folder} holds {name!r}, which is no name of a file")

    def download(name: str) -> None:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).download(target)
        if target.stat().st_size != sizes[name]:
            raise OSError(f"{folder / name} has {target.stat().st_size} bytes, not {sizes[name]}")

    to.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        for _ in tracked(pool.map(download, sizes), f"fetching {to.name}", len(sizes)):
            pass


def is_whole_in_store(folder: ObjectPath) -> bool:
    """Whether every file of a folder is there. Raises OSError where the store fails."""
    there = folder.objects()
    return COMPLETE in there and all(
        name in there and there[name].size == size for name, size in folder_contents(folder)["files"].items()
    )


def whole_in_store(folder: ObjectPath) -> list[str]:
    """The names of the whole folders in a folder."""
    names = (key.partition("/") for key in folder.objects())
    return [name for name, _, rest in names if rest == COMPLETE]


def remove_unfinished(folder: ObjectPath) -> None:
    """Removes the folders in a folder that are not whole: call it only while nobody writes one."""
    there = folder.objects()
    for name in {key.partition("/")[0] for key in there if "/" in key}:
        if f"{name}/{COMPLETE}" not in there:
            (folder / name).remove_below()


def claim_in_store(folder: ObjectPath) -> bool:
    """Makes a folder; whether it is the caller's alone.

    Each caller leaves an object of its own there, and only then looks for others: of two who come at once both may be
    turned away, but never both be told yes.
    """
    if folder.exists():
        return False
    claim = f"claim-{uuid.uuid4().hex}"
    (folder / claim).touch()
    return list(folder.objects()) == [claim]


def _leads_out(name: str) -> bool:
    """Whether a name would lead out of the folder that it is copied to, or is none."""
    return not name or name.startswith("/") or ".." in name.split("/") or "\0" in name
