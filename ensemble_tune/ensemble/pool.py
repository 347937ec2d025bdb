"""A pool: one folder of frames, divided into train, val and test by lists of names, or by lot."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, get_args

from ensemble_tune.ensemble.pixels import FILE_SUFFIXES
from ensemble_tune.errors import DataError, suggest

LIST_SUFFIX = ".txt"
SPLITS = ("train", "val", "test")
Lot = Literal["group", "random"]
"""What lots are drawn for: whole groups, which `sequence` reads off the names, or frames that stand alone."""
_VAL = 0.2
_KEYS = ("images", "masks", "by", "seed", *SPLITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where the frames of all splits are, and which of them are in which."""

    images: str
    """The folder of images, relative to the data set's."""
    masks: str
    lists: Mapping[str, str] = field(default_factory=dict)
    """For each split a text file with a frame's name in each line; empty where lots are drawn."""
    by: Lot | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    """The shares of val and test in the frames, in (0, 1); train takes the rest."""
    seed: int = 0
    """Another one draws other lots."""

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self:
        """A pool as dataset.toml has it under splits. Raises DataError."""
        for key in table:
            if key not in _KEYS:
                raise DataError(f"splits has no key {key!r}; {suggest(key, _KEYS)}")
        for key in ("images", "masks"):
            if not isinstance(table.get(key), str):
                raise DataError(f"splits.{key} must name the folder of all {key}, but got {table.get(key)!r}")
        folders = {"images": table["images"], "masks": table["masks"]}
        given = {split: table[split] for split in SPLITS if split in table}
        if "by" not in table:
            return cls(**folders, lists=_lists(given, table))
        if table["by"] not in get_args(Lot):
            raise DataError(f"splits.by cannot be {table['by']!r}; {suggest(str(table['by']), get_args(Lot))}")
        seed = table.get("seed", 0)
        if type(seed) is not int or seed < 0:
            raise DataError(f"splits.seed must be a whole number of at least 0, but got {seed!r}")
        return cls(**folders, by=table["by"], shares=_shares(given), seed=seed)


def read_list(path: Path) -> list[str]:
    """The names of frames in a text file, one a line: of a frame, or of its file, a folder before it left out.

    Empty lines, and those that start with #, say nothing. Raises DataError where the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"a list of frames must be text in UTF-8, but {path} is not: {error}") from error
    names = [PurePosixPath(line.strip().replace("\\", "/")).name for line in lines if not line.startswith("#")]
    endings = [PurePosixPath(name).suffix for name in names]
    pairs = zip(names, endings, strict=True)
    return [name.removesuffix(end) if end.lower() in FILE_SUFFIXES else name for name, end in pairs if name]


def draw(groups: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Draws lots: rows of frames by split, train among them.

    groups: each frame's own; a group is never divided. Lots depend on the groups' names, sizes and `seed` alone, and
    test stays what it is under another share of val. A split takes groups for as long as that brings it nearer to its
    share, at least one. Raises DataError where there are too few groups.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    if len(rows) <= len(shares):
        raise DataError(
            f"lots need a group for each of {' and '.join(('train', *shares))}, but there are {len(rows)} of "
            f"{len(groups)} frames; add some, or write lists of frames"
        )
    left = sorted(rows, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    drawn = {}
    for number, split in enumerate(sorted(shares, key=SPLITS.index, reverse=True)):
        wanted, size = shares[split] * len(groups), 0
        taken: list[str] = []
        kept = len(shares) - number  # a group for each split that is still to come
        for group in left:
            nearer = abs(size + len(rows[group]) - wanted) < abs(size - wanted)
            if nearer and len(left) - len(taken) > kept:
                taken.append(group)
                size += len(rows[group])
        taken = taken or [min(left, key=lambda group: len(rows[group]))]
        gone = set(taken)
        left = [group for group in left if group not in gone]
        drawn[split] = sorted(row for group in taken for row in rows[group])
    drawn["train"] = sorted(row for group in left for row in rows[group])
    return {split: drawn[split] for split in SPLITS if split in drawn}


def _lists(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, str]:
    if "seed" in table:
        raise DataError('splits.seed is for lots; add by = "group" or by = "random", or leave it out')
    if "train" not in given:
        raise DataError(
            'splits needs train = "train.txt", a list of frames, or by = "group" or by = "random", which draws lots'
        )
    for split, name in given.items():
        if not isinstance(name, str) or not name.endswith(LIST_SUFFIX):
            raise DataError(f"splits.{split} must name a list of frames, a {LIST_SUFFIX} file, but got {name!r}")
    return dict(given)


def _shares(given: Mapping[str, Any]) -> dict[str, float]:
    if "train" in given:
        raise DataError("splits.train is what val and test leave where lots are drawn; leave it out")
    shares = {"val": _VAL, **given}
    for split, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise DataError(f"splits.{split} must be a share of the frames above 0 and below 1, but got {share!r}")
    if sum(shares.values()) >= 1:
        raise DataError(f"shares of val and test must leave some frames for train, but sum to {sum(shares.values()):g}")
    return {split: float(share) for split, share in shares.items()}
