"""Tiles: parts of an image that is too large to be seen at once, and how what is made of them is put together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ensemble_tune.ensemble.config import format_size, parse_size
from ensemble_tune.ensemble.image_file import Deep, Pixels
from ensemble_tune.errors import ConfigError, DataError, suggest

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


def tiled_labels(logits_of: Callable[[Deep], Tensor], image: Deep, tiles: Tiles) -> Pixels:
    """Class indices (H, W) of an image (H, W, C), of which no more than a tile is seen at once.

    logits_of: a part (h, w, C) to logits (K, h, w) of its own size. Where tiles overlap, the mean of their class
    probabilities counts, each weighted by how far the pixel is from that tile's edge: it has seen more around. Beside
    the image and its labels, a row of tiles across the image is held at once, K numbers a pixel.
    """
    height, width = tiles.within(image.shape[:2])
    rows, columns = (
        starts(side, tile, tiles.overlap) for side, tile in zip(image.shape[:2], (height, width), strict=True)
    )
    if len(rows) == len(columns) == 1:
        return _labels(logits_of(image))
    weights = torch.outer(_ramp(height, tiles.overlap), _ramp(width, tiles.overlap))
    found = np.empty(image.shape[:2], np.uint8)
    band: Tensor | None = None
    for top, following in zip(rows, [*rows[1:], image.shape[0]], strict=True):
        for left in columns:
            probabilities = logits_of(image[top : top + height, left : left + width]).softmax(0).cpu()
            if band is None:
                band = torch.zeros(probabilities.shape[0], height, image.shape[1])
            band[:, :, left : left + width] += probabilities * weights
        assert band is not None  # there is a column at least
        done = following - top
        found[top:following] = _labels(band[:, :done])
        rest = torch.zeros_like(band)
        rest[:, : height - done] = band[:, done:]
        band = rest
    return found


def _cores(length: int, tile: int) -> list[tuple[int, slice]]:
    """Starts of tiles that overlap no more than they must, with what of each is its own: up to the middle of it."""
    places = starts(length, tile, 0)
    ends = [(one + tile + following) // 2 for one, following in itertools.pairwise(places)]
    return [
        (start, slice(first - start, end - start))
        for start, first, end in zip(places, [0, *ends], [*ends, length], strict=True)
    ]


def _ramp(length: int, overlap: int) -> Tensor:
    """(length,) weights along a side: 1 inside, falling towards both ends over the overlap, never to 0."""
    places = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(places, length + 1 - places).clamp(max=overlap + 1) / (overlap + 1)


def _labels(scores: Tensor) -> Pixels:
    labels: Pixels = scores.max(0).indices.to(torch.uint8).cpu().numpy()
    return labels
