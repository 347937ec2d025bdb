"""What a folder of frames and masks holds: its classes, its splits, and how a sequence is read off a frame's name."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ensemble_tune.errors import DataError, suggest

SPEC_FILE = "dataset.toml"
CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "signsymbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
CAMVID_SMALL = ("pole", "signsymbol", "pedestrian", "bicyclist")
CAMVID_IGNORED = 11
CAMVID_SEQUENCE = r"(?P<sequence>[^_]+)_f?(?P<index>\d+)"
"""Matches 0001TP_006690, 0006R0_f00930 and 0016E5_00390."""
CAMVID_SPLITS = {split: (split, f"{split}annot") for split in ("train", "val", "test")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """What a data set's labels and names mean; label i of a mask is class i."""

    name: str
    """For people; two data sets may share it."""
    classes: tuple[str, ...]
    """Class names in the order of their labels, from 0."""
    ignored: int | None = None
    """The label of unlabelled pixels; None where every pixel is labelled."""
    small: tuple[str, ...] = ()
    """The classes whose mean IoU is reported as small_miou."""
    splits: Mapping[str, tuple[str, str]] = field(default_factory=lambda: dict(CAMVID_SPLITS))
    """Folder of images and folder of masks of train and, where there are any, val and test, relative to the root."""
    sequence: str | None
    """Regular expression for a whole frame name, with a group called sequence; None where frames are independent."""

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.classes)) == len(self.classes) <= 255:
            raise DataError(f"classes must be 2 to 255 different names, but got {list(self.classes)}")
        if self.ignored is not None and not len(self.classes) <= self.ignored <= 255:
            last = len(self.classes) - 1
            raise DataError(
                f"ignored must be a label within {last + 1}..255, since 0..{last} are classes, but got {self.ignored}"
            )
        for name in self.small:
            if name not in self.classes:
                raise DataError(f"small names {name!r}, which is no class; {suggest(name, self.classes)}")
        for split in self.splits:
            if split not in CAMVID_SPLITS:
                raise DataError(f"no split is called {split!r}; {suggest(split, CAMVID_SPLITS)}")
        if "train" not in self.splits:
            raise DataError("splits has no train; name its folder of images and its folder of masks")
        if self.sequence is not None:
            try:
                groups = re.compile(self.sequence).groupindex
            except re.error as error:
                raise DataError(f"sequence {self.sequence!r} is no regular expression: {error}") from error
            if "sequence" not in groups:
                raise DataError(f"sequence must have a group (?P<sequence>...), but got {self.sequence!r}")

    @classmethod
    def load(cls, root: Path) -> Self:
        """The spec in `root`/dataset.toml, or CamVid's where there is no such file. Raises DataError.

        Keys: classes, and either sequence or groups = "none"; optionally name, ignored, small, and a table
        splits.train (splits.val, splits.test) with images and masks, which name folders.
        """
        file = root / SPEC_FILE
        if not file.exists():
            return cls(
                name=root.name,
                classes=CAMVID_CLASSES,
                ignored=CAMVID_IGNORED,
                small=CAMVID_SMALL,
                splits=_present(root),
                sequence=CAMVID_SEQUENCE,
            )
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"cannot read {file}: {error}") from error
        try:
            return cls(**_fields(root, table))
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def sequence_of(self, name: str) -> str | None:
        """The sequence of the frame `name`, itself where frames are independent; None where it fits no pattern."""
        if self.sequence is None:
            return name
        match = re.fullmatch(self.sequence, name)
        return match.group("sequence") if match else None

    def to_json(self) -> dict[str, Any]:
        """What gives the labels and names their meaning, as plain values: everything but the data set's own name."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}


def _present(root: Path) -> dict[str, tuple[str, str]]:
    """CamVid's splits, without val and test where neither of their folders is there."""
    return {
        split: folders
        for split, folders in CAMVID_SPLITS.items()
        if split == "train" or any((root / folder).exists() for folder in folders)
    }


def _fields(root: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec from a parsed dataset.toml. Raises DataError."""
    keys = ("name", "classes", "ignored", "small", "sequence", "groups", "splits")
    for key in table:
        if key not in keys:
            raise DataError(f"no key is called {key!r}; {suggest(key, keys)}")
    if "classes" not in table:
        raise DataError(
            'classes is missing; list the class names in the order of their labels: classes = ["road", ...]'
        )
    if ("sequence" in table) == ("groups" in table):
        raise DataError('set either sequence, a regular expression, or groups = "none" for independent frames')
    if table.get("groups", "none") != "none":
        raise DataError(f'groups must be "none", but got {table["groups"]!r}; for sequences set sequence instead')
    splits = _typed(table, "splits", dict, "a table", None)
    return {
        "name": _typed(table, "name", str, "text", root.name),
        "classes": _names(table, "classes"),
        "ignored": _typed(table, "ignored", int, "a label", None),
        "small": _names(table, "small"),
        "sequence": _typed(table, "sequence", str, "a regular expression", None),
        "splits": _present(root) if splits is None else {split: _folders(split, splits[split]) for split in splits},
    }


def _typed(table: Mapping[str, Any], key: str, kind: type, called: str, default: Any) -> Any:
    value = table.get(key, default)
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise DataError(f"{key} must be {called}, but got {value!r}")
    return value


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = _typed(table, key, list, "a list of class names", [])
    if not all(isinstance(name, str) and name for name in names):
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
