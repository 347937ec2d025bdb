"""Decoded frames on the local disk: built once by whoever comes first, memory-mapped by everyone after that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.array_file import map_array
from ensemble_tune.ensemble.config import format_size
from ensemble_tune.ensemble.dataset import Dataset
from ensemble_tune.ensemble.disk_cache import DiskCache
from ensemble_tune.ensemble.image_file import Deep, Pixels, mask_shape, resized
from ensemble_tune.ensemble.labels import IGNORED, scaled_labels
from ensemble_tune.ensemble.mask import read_labels
from ensemble_tune.ensemble.pieces import Piece, piece_counts
from ensemble_tune.ensemble.pixels import read_pixels
from ensemble_tune.waits import tracked

_VERSION = 3
"""Of the files and of how frames are resized; another version is another folder."""
_READERS = 4
_TOGETHER = (("train", "val"), ("test",))
"""Splits whose frames are needed at the same time."""


@dataclass(frozen=True, slots=True)
class Truths:
    """Labels at the frames' own sizes, which may differ, one frame after another."""

    pixels: Pixels
    """All frames' labels, flat."""
    shapes: tuple[tuple[int, int], ...]
    """Height and width in pixels of each frame."""
    ends: tuple[int, ...]
    """Where each frame's labels end in `pixels`."""

    def __getitem__(self, row: int) -> Pixels:
        height, width = self.shapes[row]
        return self.pixels[self.ends[row] - height * width : self.ends[row]].reshape(height, width)


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """One split at one working size, memory-mapped."""

    images: Deep
    """(N, h, w, C), RGB where C is 3."""
    labels: Pixels
    """(N, h, w) class indices, or IGNORED."""
    counts: npt.NDArray[np.uint32]
    """(N, classes) how many pixels of each class the labels have: every trial weights classes by them."""
    truths: Truths


def stored_frames(
    dataset: Dataset, split: str, pieces: Sequence[Piece], size: tuple[int, int], cache: DiskCache
) -> StoredFrames:
    """The split's pieces out of `cache`, put there first where they are missing or damaged.

    size: working height and width in pixels. Raises DataError where a file cannot be read any more, ConfigError where
    the cache is too small.
    """
    names = [piece.name for piece in pieces]
    together = next(group for group in _TOGETHER if split in group)
    beside = [_name(dataset, each, of) for each in together for of in ("truth", format_size(size))]
    truths = _stored_truths(dataset, split, pieces, beside, cache)
    kind = dataset.spec.images
    images_shape, labels_shape = (len(pieces), *size, kind.channels), (len(pieces), *size)
    counts_shape = (len(pieces), len(dataset.spec.classes))

    def build(folder: Path) -> None:
        images = _create(folder / "images.npy", images_shape, kind.dtype)
        labels = _create(folder / "labels.npy", labels_shape)
        counts = _create(folder / "counts.npy", counts_shape, np.uint32)

        def fill(rows: Sequence[int]) -> None:
            image = read_pixels(kind, pieces[rows[0]].frame.image)
            for row in rows:
                images[row] = resized(pieces[row].of(image), size)
                labels[row] = scaled_labels(truths[row], size)
                counts[row] = np.bincount(labels[row].ravel(), minlength=IGNORED + 1)[: counts_shape[1]]

        _for_each_frame(fill, pieces, f"decoding {split} at {format_size(size)}")

    def read(folder: Path) -> StoredFrames:
        images = cast(Deep, map_array(folder / "images.npy", kind.dtype, images_shape))
        counts = map_array(folder / "counts.npy", np.uint32, counts_shape)
        return StoredFrames(images, map_array(folder / "labels.npy", np.uint8, labels_shape), counts, truths)

    return cache.get(
        _name(dataset, split, format_size(size)),
        names,
        need=_working_bytes(dataset, len(pieces), size),
        beside=beside,
        build=build,
        read=read,
    )


def cached_bytes(dataset: Dataset, size: tuple[int, int]) -> int:
    """What must fit a cache at a working size, full-size labels counted as if all frames had the first's size.

    size: height and width in pixels.
    """
    first = dataset.splits["train"][0]
    height, width = mask_shape(first.mask)
    counts = [sum(len(dataset.splits.get(split, ())) for split in together) for together in _TOGETHER]
    pieces = piece_counts(dataset, [first])[0]
    return _working_bytes(dataset, pieces * max(counts), size) + max(counts) * height * width


def _working_bytes(dataset: Dataset, pieces: int, size: tuple[int, int]) -> int:
    """Images, labels and how many pixels of each class they have."""
    return pieces * (size[0] * size[1] * (dataset.spec.images.bytes + 1) + 4 * len(dataset.spec.classes))


def _name(dataset: Dataset, split: str, of: str) -> str:
    return f"{dataset.digest}-{split}-{_VERSION}-{of}"


def _stored_truths(
    dataset: Dataset, split: str, pieces: Sequence[Piece], beside: Sequence[str], cache: DiskCache
) -> Truths:
    """Full-size labels, which all working sizes of a split share; what is another tile's own is IGNORED."""
    spec, name = dataset.spec, _name(dataset, split, "truth")
    shapes = tuple(piece.shape for piece in pieces)
    ends = tuple(accumulate(height * width for height, width in shapes))

    def build(folder: Path) -> None:
        truths = Truths(cast(Pixels, _create(folder / "truth.npy", (ends[-1],))), shapes, ends)

        def fill(rows: Sequence[int]) -> None:
            labels = read_labels(spec, pieces[rows[0]].frame.mask)
            for row in rows:
                tile, own = pieces[row].tile, pieces[row].of(labels)
                if tile is None:
                    truths[row][...] = own
                else:
                    truths[row][...] = IGNORED
                    truths[row][tile.core] = own[tile.core]

        _for_each_frame(fill, pieces, f"decoding the labels of {split}")

    def read(folder: Path) -> Truths:
        return Truths(map_array(folder / "truth.npy", np.uint8, (ends[-1],)), shapes, ends)

    names = [piece.name for piece in pieces]
    return cache.get(name, names, need=ends[-1], beside=beside, build=build, read=read)


def _for_each_frame(fill: Callable[[Sequence[int]], None], pieces: Sequence[Piece], what: str) -> None:
    """Calls `fill` with the rows of each frame's pieces; what: what that is, for who waits.

    OpenCV decodes and resizes without holding Python's lock, so threads do; where frames are large, one at a time.
    """
    rows_of: dict[str, list[int]] = {}
    for row, piece in enumerate(pieces):
        rows_of.setdefault(piece.frame.name, []).append(row)
    large = any(piece.tile is not None for piece in pieces)
    with ThreadPoolExecutor(1 if large else _READERS) as readers:
        for _ in tracked(readers.map(fill, rows_of.values()), what, len(rows_of)):
            pass


def _create(path: Path, shape: tuple[int, ...], dtype: type[np.unsignedinteger[Any]] = np.uint8) -> Deep:
    return cast(Deep, np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))
