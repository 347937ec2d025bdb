"""Which frames a fold model does not see: contiguous blocks of each sequence."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble_tune.errors import ConfigError


def natural_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key under which frame_9 comes before frame_10, as in the video that they are from."""
    # The name itself comes last: 7 and 007 are different frames, and their order must not depend on a file system.
    parts = [part for part in re.split(r"(\d{1,4000})", name) if part]  # Python reads no longer number
    return (
        *((not p.isdecimal(), int(p) if p.isdecimal() else 0, p if not p.isdecimal() else "") for p in parts),
        (True, 0, name),
    )


def assign_folds(
    names: Sequence[str], sequences: Sequence[str], folds: int, *, whole: bool = False
) -> npt.NDArray[np.int64]:
    """The fold of each frame: (N,) integers in 1..folds, which depend on the set of frames, not on their order.

    names, sequences: a frame's own name and its sequence's, N each. Neighbouring frames of a video are near-duplicates,
    so each sequence is cut into `folds` contiguous blocks, and block k is held out by fold k. Fold sizes differ by one
    frame at most, and frames that are a sequence each are dealt out evenly. whole: whether a sequence is never cut;
    then the largest one left always goes to the smallest fold. Raises ConfigError where a fold would be empty.
    """
    if not 2 <= folds <= len(names):
        raise ConfigError(f"folds must be at least 2 and at most the {len(names)} training frames, but got {folds}")
    members: dict[str, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        members[sequence].append(row)
    assigned = np.zeros(len(names), np.int64)
    sizes = dict.fromkeys(range(1, folds + 1), 0)
    if whole:
        if folds > len(members):
            raise ConfigError(
                f"folds must be at most the {len(members)} groups of the training frames, which are never cut, but got "
                f'{folds}; lower --folds, or set groups = "blocks" in dataset.toml'
            )
        for rows in sorted(members.values(), key=lambda rows: (-len(rows), natural_order(sequences[rows[0]]))):
            fold = min(sizes, key=lambda fold: (sizes[fold], fold))
            assigned[rows] = fold
            sizes[fold] += len(rows)
        return assigned
    for sequence in sorted(members, key=natural_order):
        rows = sorted(members[sequence], key=lambda row: natural_order(names[row]))
        share, rest = divmod(len(rows), folds)
        larger = sorted(sizes, key=lambda fold: (sizes[fold], fold))[:rest]
        start = 0
        for fold in sizes:
            stop = start + share + (fold in larger)
            assigned[rows[start:stop]] = fold
            sizes[fold] += stop - start
            start = stop
    return assigned
