"""Decoded frames on the local disk: built once by whoever comes first, memory-mapped by everyone after that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np

from ensemble_tune.ensemble.config import format_size
from ensemble_tune.ensemble.dataset import Dataset, Frame
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.disk_cache import DiskCache
from ensemble_tune.ensemble.image_file import Deep, Pixels, mask_shape, resized
from ensemble_tune.ensemble.labels import scaled_labels
from ensemble_tune.ensemble.mask import read_labels
from ensemble_tune.ensemble.pixels import read_pixels

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

    images: Deep
    """(N, h, w, C), RGB where C is 3."""
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
    truths = _stored_truths(dataset.spec, frames, _name(dataset, split, "truth"), beside, cache)
    kind = dataset.spec.images
    images_shape, labels_shape = (len(frames), *size, kind.channels), (len(frames), *size)

    def build(folder: Path) -> None:
        images = _create(folder / "images.npy", images_shape, kind.dtype)
        labels = _create(folder / "labels.npy", labels_shape)

        def fill(row: int) -> None:
            images[row] = resized(read_pixels(kind, frames[row].image), size)
            labels[row] = scaled_labels(truths[row], size)

        _for_each_row(fill, len(frames))

    def read(folder: Path) -> StoredFrames:
        images = _open(folder / "images.npy", images_shape, kind.dtype)
        return StoredFrames(images, cast(Pixels, _open(folder / "labels.npy", labels_shape)), truths)

    return cache.get(
        _name(dataset, split, format_size(size)),
        names,
        need=_working_bytes(dataset, len(frames), size),
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
    return _working_bytes(dataset, max(counts), size) + max(counts) * height * width


def _working_bytes(dataset: Dataset, frames: int, size: tuple[int, int]) -> int:
    """Images and labels."""
    return frames * size[0] * size[1] * (dataset.spec.images.bytes + 1)


def _name(dataset: Dataset, split: str, of: str) -> str:
    return f"{dataset.digest}-{split}-{_VERSION}-{of}"


def _stored_truths(
    spec: DatasetSpec, frames: Sequence[Frame], name: str, beside: Sequence[str], cache: DiskCache
) -> Truths:
    """Full-size labels, which all working sizes of a split share."""
    shapes = tuple(mask_shape(frame.mask) for frame in frames)
    ends = tuple(accumulate(height * width for height, width in shapes))

    def build(folder: Path) -> None:
        truths = Truths(cast(Pixels, _create(folder / "truth.npy", (ends[-1],))), shapes, ends)

        def fill(row: int) -> None:
            truths[row][...] = read_labels(spec, frames[row].mask)

        _for_each_row(fill, len(frames))

    def read(folder: Path) -> Truths:
        return Truths(cast(Pixels, _open(folder / "truth.npy", (ends[-1],))), shapes, ends)

    names = [frame.name for frame in frames]
    return cache.get(name, names, need=ends[-1], beside=beside, build=build, read=read)


def _for_each_row(fill: Callable[[int], None], rows: int) -> None:
    """OpenCV decodes and resizes without holding Python's lock, so threads do."""
    with ThreadPoolExecutor(_READERS) as readers:
        for _ in readers.map(fill, range(rows)):
            pass


def _create(path: Path, shape: tuple[int, ...], dtype: type[np.unsignedinteger[Any]] = np.uint8) -> Deep:
    return cast(Deep, np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))


def _open(path: Path, shape: tuple[int, ...], dtype: type[np.unsignedinteger[Any]] = np.uint8) -> Deep:
    """Memory-maps an array file. Raises ValueError where it is damaged, or of another shape."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{path} is {array.dtype} of {array.shape}, not {np.dtype(dtype)} of {shape}")
    return cast(Deep, np.asarray(array))
