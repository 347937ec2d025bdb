"""dataset.toml: what a person writes about a folder of frames and masks, read key by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.palette import Palette
from ensemble_tune.ensemble.pool import Pool
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.errors import DataError, suggest

_KEYS = (
    "name",
    "classes",
    "ignored",
    "small",
    "sequence",
    "groups",
    "splits",
    "palette",
    "mask_suffix",
    "images",
    "tiles",
)
_GROUPS = ("none", "blocks", "whole")
"""What becomes of frames of one group: there are no groups; a group may be cut into blocks; it is never cut."""


def read_fields(table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a DatasetSpec that a parsed dataset.toml sets. Raises DataError, which names all that is wrong."""
    faults = [f"no key is called {key!r}; {suggest(key, _KEYS)}" for key in table if key not in _KEYS]
    found: dict[str, Any] = {}
    for read in _READERS:
        try:
            found |= read(table)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("; ".join(faults))
    return found


def _read_name(table: Mapping[str, Any]) -> dict[str, Any]:
    return _typed(table, "name", str, "text") | _typed(table, "mask_suffix", str, "text such as _L")


def _read_classes(table: Mapping[str, Any]) -> dict[str, Any]:
    if "classes" not in table:
        raise DataError(
            'classes is missing; list the class names in the order of their labels: classes = ["road", ...]'
        )
    return {"classes": _names(table, "classes")}


def _read_small(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"small": _names(table, "small")}


def _read_labels(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the pixels of masks mean."""
    if "palette" not in table:
        return _typed(table, "ignored", int, "a label")
    try:
        classes = _names(table, "classes")
    except DataError:
        return {}  # which is told where classes are read
    return {"palette": Palette.read(table["palette"], table.get("ignored"), classes)}


def _read_groups(table: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs together, and whether it may be divided."""
    groups = table.get("groups")
    if groups is not None and groups not in _GROUPS:
        raise DataError(f"groups cannot be {groups!r}; {suggest(str(groups), _GROUPS)}")
    if ("sequence" in table) == (groups == "none"):
        raise DataError('set either sequence, a regular expression, or groups = "none" for independent frames')
    sequence = {"sequence": None} | _typed(table, "sequence", str, "a regular expression")
    whole = groups == "whole" or (groups is None and _is_pool(table.get("splits")))
    return sequence | ({"whole": True} if whole and groups != "none" else {})


def _read_splits(table: Mapping[str, Any]) -> dict[str, Any]:
    splits = _typed(table, "splits", dict, "a table").get("splits")
    if splits is None:
        return {}
    if not _is_pool(splits):
        return {"splits": {split: _folders(split, splits[split]) for split in splits}}
    pool = Pool.read(splits)
    if pool.by == "random" and table.get("groups") != "none":
        raise DataError(
            'by = "random" would divide the frames of a sequence, which look alike; draw lots by = "group", '
            'or set groups = "none" where frames are independent'
        )
    if pool.by == "group" and table.get("groups") == "none":
        raise DataError('by = "group" needs sequence, which reads a group off a frame\'s name; or set by = "random"')
    return {"splits": {}, "pool": pool}


def _read_images(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"images": ImageSpec.read(table["images"])} if "images" in table else {}


def _read_tiles(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"tiles": Tiles.read(table["tiles"])} if "tiles" in table else {}


def _is_pool(splits: Any) -> bool:
    """Whether the splits share a folder, rather than have folders of their own."""
    return isinstance(splits, dict) and not all(isinstance(value, dict) for value in splits.values())


_READERS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (
    _read_name,
    _read_classes,
    _read_small,
    _read_labels,
    _read_groups,
    _read_splits,
    _read_images,
    _read_tiles,
)


def _typed(table: Mapping[str, Any], key: str, kind: type, called: str) -> dict[str, Any]:
    """The key with its value, where it is there."""
    if key not in table:
        return {}
    if not isinstance(table[key], kind) or isinstance(table[key], bool):
        raise DataError(f"{key} must be {called}, but got {table[key]!r}")
    return {key: table[key]}


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = table.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{key} must be a list of class names, but got {names!r}")
    return tuple(names)


def _folders(split: str, value: Any) -> tuple[str, str]:
    if (
        not isinstance(value, dict)
        or set(value) != {"images", "masks"}
        or not all(isinstance(f, str) for f in value.values())
    ):
        raise DataError(f'splits.{split} must be {{ images = "folder", masks = "folder" }}, but got {value!r}')
    return value["images"], value["masks"]
