"""A palette: which colours of a mask stand for which class, and which for no class at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.errors import DataError, suggest

BINARY = "binary"
"""The palette of masks of two classes: black is the first one, white the second."""
_BLACK, _WHITE, _ONE = "#000000", "#ffffff", "#010101"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a data set's masks, each as text such as "#804080": red, green, blue in hexadecimal digits."""

    colours: Mapping[str, tuple[str, ...]]
    """Each class with its colours, in the order of their labels; several where classes are merged into one."""
    ignored: tuple[str, ...] = ()
    """The colours of unlabelled pixels."""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name, own in (*self.colours.items(), ("ignored", self.ignored)):
            for colour in own:
                if colour in seen:
                    raise DataError(f"a colour stands for one class, but {colour} for {seen[colour]!r} and {name!r}")
                seen[colour] = name

    @classmethod
    def read(cls, value: Any, ignored: Any, classes: tuple[str, ...]) -> Self:
        """A palette as dataset.toml has it: a table of colours for each class, or the word binary. Raises DataError."""
        unlabelled = () if ignored is None else _colours("ignored", ignored)
        if value == BINARY:
            if len(classes) != 2:
                raise DataError(f'palette = "binary" needs two classes, but there are {len(classes)}')
            # Some write 1 for the second class, where others write the brightest value.
            return cls({classes[0]: (_BLACK,), classes[1]: (_WHITE, _ONE)}, unlabelled)
        if not isinstance(value, dict):
            raise DataError(f'palette must be a table of colours for each class, or "binary", but got {value!r}')
        for name in value:
            if name not in classes:
                raise DataError(f"palette names {name!r}, which is no class; {suggest(name, classes)}")
        missing = [name for name in classes if name not in value]
        if missing:
            raise DataError(f"palette must give every class a colour, but has none for {', '.join(missing)}")
        return cls({name: _colours(f"palette.{name}", value[name]) for name in classes}, unlabelled)

    def labels(self, mask: Pixels) -> tuple[Pixels, tuple[str, ...]]:
        """Colours (H, W, 3) RGB to labels (H, W): class indices, or IGNORED.

        Beside them the colours that the palette does not have, whose pixels are IGNORED.
        """
        pairs = [(_code(colour), label) for label, own in enumerate(self.colours.values()) for colour in own]
        pairs += [(_code(colour), IGNORED) for colour in self.ignored]
        codes, labels = (np.array(values) for values in zip(*sorted(pairs), strict=True))
        seen = (mask.astype(np.int64) << np.array([16, 8, 0])).sum(2)
        places = np.minimum(np.searchsorted(codes, seen), len(codes) - 1)
        known = codes[places] == seen
        found = np.where(known, labels[places], IGNORED).astype(np.uint8)
        return found, tuple(f"#{code:06x}" for code in _distinct(seen[~known]))


def _distinct(codes: npt.NDArray[np.int64]) -> list[int]:
    return [int(code) for code in np.unique(codes)]


def _code(colour: str) -> int:
    return int(colour[1:], 16)


def _colours(name: str, value: Any) -> tuple[str, ...]:
    """One colour, or a list of them, each as "#804080" or as [128, 64, 128]. Raises DataError."""
    alone = isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, int) for part in value))
    colours = [value] if alone else value
    if not isinstance(colours, list) or not colours:
        raise DataError(f"{name} must be a colour or a list of colours, but got {value!r}")
    return tuple(_colour(name, each) for each in colours)


def _colour(name: str, value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return value.lower()
    # Comparing types keeps true and false out.
    if isinstance(value, list) and [type(part) for part in value] == [int] * 3 and all(0 <= p <= 255 for p in value):
        return "#{:02x}{:02x}{:02x}".format(*value)
    raise DataError(f'{name} must be a colour such as "#804080" or [128, 64, 128], but got {value!r}')
