"""What a folder of frames and masks holds: its classes, its splits, and how a sequence is read off a frame's name."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ensemble_tune.documents import parse_toml
from ensemble_tune.ensemble.dataset_toml import read_fields
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.palette import Palette
from ensemble_tune.ensemble.pool import Pool
from ensemble_tune.ensemble.tiles import Tiles
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
_YOUNGER: Mapping[str, Any] = {
    "palette": None,
    "mask_suffix": "",
    "whole": False,
    "pool": None,
    "images": None,
    "tiles": None,
}


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
    """Folder of images and folder of masks of train and, where there are any, val and test, relative to the root; empty
    where there is a pool."""
    sequence: str | None
    """Regular expression for a whole frame name, with a group called sequence; None where frames are independent."""
    palette: Palette | None = None
    """What the colours of masks mean; None where their values are the labels."""
    mask_suffix: str = ""
    """What the name of a mask has behind the name of its frame, such as _L."""
    whole: bool = False
    """Whether the frames of a sequence (a patient, a site) stay together, in one split and one fold; else blocks of a
    sequence (a video) may be held out."""
    pool: Pool | None = None
    """Where all splits share a folder, how it is divided."""
    images: ImageSpec = RGB
    """What the pixels of images are."""
    tiles: Tiles | None = None
    """How images are cut that are too large to be seen at once; None takes all of them whole."""

    def __post_init__(self) -> None:
        broken = list(self._broken())
        if broken:
            raise DataError("; ".join(broken))

    def _broken(self) -> Iterator[str]:
        """The rules that it breaks, with values and remedies."""
        if not 2 <= len(set(self.classes)) == len(self.classes) <= 255:
            yield f"classes must be 2 to 255 different names, but got {list(self.classes)}"
        if self.ignored is not None and not len(self.classes) <= self.ignored <= 255:
            last = len(self.classes) - 1
            yield f"ignored must be a label within {last + 1}..255, since 0..{last} are classes, but got {self.ignored}"
        for name in self.small:
            if name not in self.classes:
                yield f"small names {name!r}, which is no class; {suggest(name, self.classes)}"
        for split in self.splits:
            if split not in CAMVID_SPLITS:
                yield f"no split is called {split!r}; {suggest(split, CAMVID_SPLITS)}"
        if self.pool is None and "train" not in self.splits:
            yield "splits has no train; name its folder of images and its folder of masks"
        if self.sequence is not None:
            try:
                with warnings.catch_warnings():
                    # Of what later versions of Python may read otherwise.
                    warnings.simplefilter("ignore", FutureWarning)
                    groups = re.compile(self.sequence).groupindex
            except (re.error, OverflowError, RecursionError) as error:
                yield f"sequence {self.sequence!r} is no regular expression: {error}"
            else:
                if "sequence" not in groups:
                    yield f"sequence must have a group (?P<sequence>...), but got {self.sequence!r}"

    @classmethod
    def load(cls, root: Path) -> Self:
        """The spec in `root`/dataset.toml, or CamVid's where there is no such file. Raises DataError.

        Keys: classes, and sequence or groups = "none"; optionally name, ignored, small, palette, mask_suffix, groups,
        images (what an ImageSpec has), tiles (what Tiles have), and splits: tables train, val and test with the folders
        images and masks, or what a Pool has.
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
            table = parse_toml(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {file}: {error}") from error
        try:
            return cls(**{"name": root.name, "splits": _present(root), **read_fields(table)})
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def sequence_of(self, name: str) -> str | None:
        """The sequence of the frame `name`, itself where frames are independent; None where it fits no pattern."""
        if self.sequence is None:
            return name
        match = re.fullmatch(self.sequence, name)
        return match.group("sequence") if match else None

    def to_json(self) -> dict[str, Any]:
        """What gives the labels and names their meaning, as plain values: everything but the data set's own name.

        What is younger than the first data sets is left out where it says nothing, so that their digests stay.
        """
        values = {**dataclasses.asdict(self), "images": None if self.images == RGB else dataclasses.asdict(self.images)}
        silent = [key for key, nothing in _YOUNGER.items() if values[key] == nothing]
        return {key: value for key, value in values.items() if key not in ("name", *silent)}


def _present(root: Path) -> dict[str, tuple[str, str]]:
    """CamVid's splits, without val and test where neither of their folders is there."""
    return {
        split: folders
        for split, folders in CAMVID_SPLITS.items()
        if split == "train" or any((root / folder).exists() for folder in folders)
    }
