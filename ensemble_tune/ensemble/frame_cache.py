"""Decoded frames on the local disk: built once by whoever comes first, memory-mapped by everyone after that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar, cast

import cv2
import numpy as np
from filelock import FileLock

from ensemble_tune.ensemble.config import format_size
from ensemble_tune.ensemble.dataset import Dataset, Frame
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.image_file import Pixels, mask_shape, read_image, read_mask, resized
from ensemble_tune.storage import atomic_folder

T = TypeVar("T")

IGNORED = 255
"""The label of unlabelled pixels, whatever a data set's own masks call them."""

_VERSION = 1
"""Of the files and of how frames are resized; another version is another folder."""
_READERS = 4


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


def stored_frames(dataset: Dataset, split: str, size: tuple[int, int], cache: Path) -> StoredFrames:
    """The split's frames out of `cache`, put there first where they are missing or damaged.

    size: working height and width in pixels. Raises DataError where a file cannot be read any more.
    """
    frames = dataset.splits[split]
    key = f"{dataset.digest}-{split}-{_VERSION}"
    truths = _stored_truths(dataset.spec, frames, cache / "frames" / f"{key}-truth")
    images_shape, labels_shape = (len(frames), *size, 3), (len(frames), *size)

    def build(folder: Path) -> None:
        images, labels = _create(folder / "images.npy", images_shape), _create(folder / "labels.npy", labels_shape)

        def fill(row: int) -> None:
            images[row] = resized(read_image(frames[row].image), size)
            # "Exact" takes the middle one of the pixels that become one; plain nearest takes their upper left.
            labels[row] = cv2.resize(truths[row], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

        _for_each_row(fill, len(frames))

    def read(folder: Path) -> StoredFrames:
        images, labels = _open(folder / "images.npy", images_shape), _open(folder / "labels.npy", labels_shape)
        return StoredFrames(images, labels, truths)

    return _cached(cache / "frames" / f"{key}-{format_size(size)}", frames, build, read)


def _stored_truths(spec: DatasetSpec, frames: Sequence[Frame], folder: Path) -> Truths:
    """Full-size labels, which all working sizes of a split share."""
    shapes = tuple(mask_shape(frame.mask) for frame in frames)
    ends = tuple(accumulate(height * width for height, width in shapes))

    def build(folder: Path) -> None:
        truths = Truths(_create(folder / "truth.npy", (ends[-1],)), shapes, ends)

        def fill(row: int) -> None:
            mask = read_mask(frames[row].mask)
            truths[row][...] = mask if spec.ignored is None else np.where(mask == spec.ignored, IGNORED, mask)

        _for_each_row(fill, len(frames))

    return _cached(folder, frames, build, lambda folder: Truths(_open(folder / "truth.npy", (ends[-1],)), shapes, ends))


def _cached(folder: Path, frames: Sequence[Frame], build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of the folder, which is built anew, by one process at a time, where it is absent or unfit."""
    names = [frame.name for frame in frames]

    def attempt() -> T | None:
        try:
            if json.loads((folder / "names.json").read_text(encoding="utf-8")) == names:
                return read(folder)
        except (OSError, ValueError, EOFError):
            pass
        return None

    found = attempt()
    if found is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            found = attempt()
            if found is None:
                with atomic_folder(folder) as aside:
                    build(aside)
                    (aside / "names.json").write_text(json.dumps(names), encoding="utf-8")
                found = read(folder)
    return found


def _for_each_row(fill: Callable[[int], None], rows: int) -> None:
    """OpenCV decodes and resizes without holding Python's lock, so threads do."""
    with ThreadPoolExecutor(_READERS) as readers:
        for _ in readers.map(fill, range(rows)):
            pass


def _create(path: Path, shape: tuple[int, ...]) -> Pixels:
    return cast(Pixels, np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape))


def _open(path: Path, shape: tuple[int, ...]) -> Pixels:
    """Memory-maps an array file. Raises ValueError where it is damaged, or of another shape."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(f"{path} is {array.dtype} of {array.shape}, not uint8 of {shape}")
    return cast(Pixels, np.asarray(array))
