"""The regular expression that reads a sequence off a frame's name: a user's, so it is held to what ends in time."""

from __future__ import annotations

import math
import re
import warnings

import regex

from ensemble_tune.errors import DataError

_MOST_COUNTED = 10_000
_SECONDS = 1.0
"""Of a core, for one name."""


def why_not(pattern: str) -> str | None:
    """Why a pattern cannot be used; None where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what later versions of Python may read otherwise
            groups = re.compile(pattern).groupindex
    except (re.error, OverflowError, RecursionError) as error:
        return f"sequence {pattern!r} is no regular expression: {error}"
    if "sequence" not in groups:
        return f"sequence must have a group (?P<sequence>...), but got {pattern!r}"
    # regex takes memory for each repetition that must be, nested ones multiplied.
    counted = math.prod(max(1, int(count)) for count in re.findall(r"\{([0-9]{1,9})", pattern))
    if counted > _MOST_COUNTED:
        return f"the counts {{n}} of sequence must multiply to {_MOST_COUNTED} at most, but got {pattern!r}"
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        return f"sequence {pattern!r} is no regular expression: {error}"
    return None


def sequence_in(name: str, pattern: str) -> str | None:
    """What the group called sequence holds where the pattern matches the whole name; else None.

    Raises DataError where a repeat inside a repeat has it try more ways than there is time for: `re` would not end.
    """
    try:
        match = regex.fullmatch(pattern, name, timeout=_SECONDS)
    except TimeoutError:
        raise DataError(
            f"sequence must be matched within a second, but {pattern!r} takes longer on {name!r}; "
            f"write it without a repeat inside a repeat"
        ) from None
    return match.group("sequence") if match else None
