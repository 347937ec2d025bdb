"""Decoded frames on the local disk: built once by whoever comes first, memory-mapped by everyone after that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import cast

import numpy as np

from ensemble_tune.ensemble.config import format_size
from ensemble_tune.ensemble.dataset import Dataset
from ensemble_tune.ensemble.disk_cache import DiskCache
from ensemble_tune.ensemble.image_file import Pixels, mask_shape, read_image, read_mask, resized
from ensemble_tune.ensemble.labels import IGNORED, scaled_labels
from ensemble_tune.waits import tracked

_VERSION = 2
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

    images: Pixels
    """(N, h, w, 3) RGB."""
    labels: Pixels
    """(N, h, w) class indices, or IGNORED."""
    truths: Truths


def stored_frames(dataset: Dataset, split: str, size: tuple[int, int], cache: DiskCache) -> StoredFrames:
    """The split's frames out of `cache`, put there first where they are missing or damaged.

    size: working height and width in pixels. Raises DataError where a file cannot be read any more, ConfigError where
    the cache is too small.
    """
    frames = dataset.splits[split]
    names = [frame.name for frame in frames]
    together = next(group for group in _TOGETHER if split in group)
    beside = [_name(dataset, each, of) for each in together for of in ("truth", format_size(size))]
    truths = _stored_truths(dataset, split, beside, cache)
    images_shape, labels_shape = (len(frames), *size, 3), (len(frames), *size)

    def build(folder: Path) -> None:
        images, labels = _create(folder / "images.npy", images_shape), _create(folder / "labels.npy", labels_shape)

        def fill(row: int) -> None:
            images[row] = resized(read_image(frames[row].image), size)
            labels[row] = scaled_labels(truths[row], size)

        _for_each_row(fill, len(frames), f"decoding {split} at {format_size(size)}")

    def read(folder: Path) -> StoredFrames:
        images, labels = _open(folder / "images.npy", images_shape), _open(folder / "labels.npy", labels_shape)
        return StoredFrames(images, labels, truths)

    return cache.get(
        _name(dataset, split, format_size(size)),
        names,
        need=_working_bytes(len(frames), size),
        beside=beside,
        build=build,
        read=read,
    )


def cached_bytes(dataset: Dataset, size: tuple[int, int]) -> int:
    """What must fit a cache at a working size, full-size labels counted as if all frames had the first's size.

    size: height and width in pixels.
    """
    height, width = mask_shape(dataset.splits["train"][0].mask)
    counts = [sum(len(dataset.splits.get(split, ())) for split in together) for together in _TOGETHER]
    return _working_bytes(max(counts), size) + max(counts) * height * width


def _working_bytes(frames: int, size: tuple[int, int]) -> int:
    """Images of three channels and labels."""
    return frames * size[0] * size[1] * 4


def _name(dataset: Dataset, split: str, of: str) -> str:
    return f"{dataset.digest}-{split}-{_VERSION}-{of}"


def _stored_truths(dataset: Dataset, split: str, beside: Sequence[str], cache: DiskCache) -> Truths:
    """Full-size labels, which all working sizes of a split share."""
    spec, frames = dataset.spec, dataset.splits[split]
    shapes = tuple(mask_shape(frame.mask) for frame in frames)
    ends = tuple(accumulate(height * width for height, width in shapes))

    def build(folder: Path) -> None:
        truths = Truths(_create(folder / "truth.npy", (ends[-1],)), shapes, ends)

        def fill(row: int) -> None:
            mask = read_mask(frames[row].mask)
            truths[row][...] = mask if spec.ignored is None else np.where(mask == spec.ignored, IGNORED, mask)

        _for_each_row(fill, len(frames), f"decoding the labels of {split}")

    def read(folder: Path) -> Truths:
        return Truths(_open(folder / "truth.npy", (ends[-1],)), shapes, ends)

    names = [frame.name for frame in frames]
    name = _name(dataset, split, "truth")
    return cache.get(name, names, need=ends[-1], beside=beside, build=build, read=read)


def _for_each_row(fill: Callable[[int], None], rows: int, what: str) -> None:
    """OpenCV decodes and resizes without holding Python's lock, so threads do."""
    with ThreadPoolExecutor(_READERS) as readers:
        for _ in tracked(readers.map(fill, range(rows)), what, rows):
            pass


def _create(path: Path, shape: tuple[int, ...]) -> Pixels:
    return cast(Pixels, np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape))


def _open(path: Path, shape: tuple[int, ...]) -> Pixels:
    """Memory-maps an array file. Raises ValueError where it is damaged, or of another shape."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(f"{path} is {array.dtype} of {array.shape}, not uint8 of {shape}")
    return cast(Pixels, np.asarray(array))
