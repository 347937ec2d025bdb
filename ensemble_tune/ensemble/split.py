"""Which frames are val where a data set's own folders do not decide it: a block of every sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ensemble_tune.ensemble.folds import natural_order

Split = Literal["official", "blocks"]
"""What is held out as val: what the data set's folders say, or a block of every sequence of train and val together."""

HELD_OUT = 5
"""One frame in this many is val; of a sequence, one block of this many."""
_GAP = 20
"""On either side of the block one frame in this many is dropped: a share, since at twice the frame rate twice as many
neighbours look alike."""
_LAST = HELD_OUT - 1


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows of frames by what they are for; each row is in one of the three."""

    train: list[int]
    val: list[int]
    gap: list[int]
    """Too near to val to be trained on while val is held out, and no part of it."""


def hold_out(names: Sequence[str], sequences: Sequence[str], split: Split) -> HeldOut:
    """Holds out a fifth of the frames; which frames depends on the set of them, not on their order.

    names, sequences: a frame's own name and its sequence's, N each. Neighbouring frames of a video are near-duplicates,
    so a random fifth would leak; each sequence gives one contiguous block, at least one frame.

    official, which comes here where no folder holds val: the last block of each sequence, and no gap. Independent
    frames, a sequence each, are dealt out, every fifth, where there are no sequences.

    blocks: the last block of the first sequence, the middle one of the second, the first of the third, then the two
    between, and again, so that val is not all ends of drives. On either side one frame in 20 of the sequence is
    dropped, at least one where it has five. Independent frames are dealt out always, without a gap.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row in sorted(range(len(names)), key=lambda row: natural_order(names[row])):
        members[sequences[row]].append(row)
    videos = [members[name] for name in sorted(members, key=natural_order) if len(members[name]) > 1]
    alone = [rows[0] for rows in members.values() if len(rows) == 1]
    val: set[int] = set()
    gap: set[int] = set()
    for place, rows in enumerate(videos):
        length = max(1, len(rows) // HELD_OUT)
        block = (_LAST - 2 * place) % HELD_OUT if split == "blocks" else _LAST
        width = max(1, len(rows) // _GAP) if split == "blocks" and len(rows) >= HELD_OUT else 0
        start = (len(rows) - length) * block // _LAST
        stop = start + length
        val.update(rows[start:stop])
        gap.update(rows[max(0, start - width) : start], rows[stop : stop + width])
    if split == "blocks" or not val:
        val.update(alone[_LAST::HELD_OUT])
    if not val:
        val.update(alone[-1:])
    everyone = range(len(names))
    return HeldOut(
        train=[row for row in everyone if row not in val and row not in gap],
        val=[row for row in everyone if row in val],
        gap=[row for row in everyone if row in gap],
    )
