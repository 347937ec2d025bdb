"""Tiles: parts of an image that is too large to be seen at once. No torch, so that a manifest reads fast."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ensemble_tune.ensemble.config import format_size, parse_size
from ensemble_tune.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from ensemble_tune.ensemble.image_file import Deep

_KEYS = ("size", "overlap")
_LEAST = 32
_OVERLAP = 8
"""Where nothing is said, neighbours share one part in so many of a side."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int
    core: tuple[slice, slice]
    """Rows and columns within the tile that are its own: those of all tiles of an image cover it without overlap."""

    def of(self, array: Deep) -> Deep:
        """The tile's part of an image (H, W) or (H, W, C)."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How large images are cut; those that fit a tile are taken whole."""

    size: tuple[int, int]
    """Height and width of a tile in pixels of the image."""
    overlap: int
    """Pixels that neighbours share, at least, when an image is segmented; in training they share none but at edges."""

    @classmethod
    def read(cls, table: Any) -> Self:
        """From the table `tiles` of a TOML file. Raises DataError."""
        if not isinstance(table, dict):
            raise DataError(f'tiles must be a table such as {{ size = "512x512", overlap = 64 }}, but got {table!r}')
        for key in table:
            if key not in _KEYS:
                raise DataError(f"tiles has no key {key!r}; {suggest(key, _KEYS)}")
        try:
            size = parse_size(str(table.get("size")))
        except ConfigError as error:
            raise DataError(f"tiles.size: {error}") from None
        if min(size) < _LEAST:
            raise DataError(f"tiles.size must be at least {_LEAST}x{_LEAST}, but got {format_size(size)}")
        overlap = table.get("overlap", min(size) // _OVERLAP)
        if type(overlap) is not int or not 0 <= overlap <= min(size) // 2:
            raise DataError(
                f"tiles.overlap must be a whole number within 0..{min(size) // 2}, half a tile, but got {overlap!r}"
            )
        return cls(size=size, overlap=overlap)

    def to_document(self) -> dict[str, Any]:
        """As TOML has it; `read` reads it back."""
        return {"size": format_size(self.size), "overlap": self.overlap}

    def within(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the tiles of an image (H, W)."""
        return min(self.size[0], shape[0]), min(self.size[1], shape[1])

    def cut(self, shape: tuple[int, int]) -> tuple[Tile, ...]:
        """The tiles that an image (H, W) is trained on and scored in, row by row."""
        height, width = self.within(shape)
        return tuple(
            Tile(top, left, height, width, (rows, columns))
            for top, rows in _cores(shape[0], height)
            for left, columns in _cores(shape[1], width)
        )


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: as few as cover it and share `overlap` pixels at least, evenly spread."""
    if tile >= length:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(place) for place in np.linspace(0, length - tile, count)]


def _cores(length: int, tile: int) -> list[tuple[int, slice]]:
    """Starts of tiles that overlap no more than they must, with what of each is its own: up to the middle of it."""
    places = starts(length, tile, 0)
    ends = [(one + tile + following) // 2 for one, following in itertools.pairwise(places)]
    return [
        (start, slice(first - start, end - start))
        for start, first, end in zip(places, [0, *ends], [*ends, length], strict=True)
    ]
