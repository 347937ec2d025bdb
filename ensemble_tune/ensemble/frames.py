"""A split's frames at a working size, as training and scoring see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.dataset import Dataset
from ensemble_tune.ensemble.disk_cache import DEFAULT_LIMIT, DiskCache
from ensemble_tune.ensemble.frame_cache import StoredFrames, stored_frames
from ensemble_tune.ensemble.image_file import Deep, Pixels, read_image
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.pieces import pieces_of

__all__ = ["IGNORED", "Frames", "load_frames", "read_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Frames with their labels, all at one working size; the arrays are memory-mapped and read-only."""

    classes: tuple[str, ...]
    small: tuple[str, ...]
    """The small-object classes."""
    size: tuple[int, int]
    """Working height and width in pixels."""
    names: tuple[str, ...]
    parents: tuple[str, ...]
    """The image that each frame is of: its own name, or the name of what it is a tile of."""
    sequences: tuple[str, ...]
    """The sequence of each frame."""
    places: tuple[tuple[StoredFrames, int], ...]
    """Where each frame is stored, and in which row there."""
    images: ImageSpec = RGB
    """What the pixels of images are."""

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> Deep:
        """(h, w, C), RGB where C is 3."""
        stored, row = self.places[i]
        return cast(Deep, stored.images[row])

    def label(self, i: int) -> Pixels:
        """(h, w) class indices, or IGNORED."""
        stored, row = self.places[i]
        return cast(Pixels, stored.labels[row])

    def truth(self, i: int) -> Pixels:
        """(H, W) class indices, or IGNORED, at the frame's own size, which may differ from frame to frame."""
        stored, row = self.places[i]
        return stored.truths[row]

    def subset(self, indices: Iterable[int]) -> Frames:
        """The frames at `indices`, in that order."""
        rows = [int(i) for i in indices]
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            parents=tuple(self.parents[i] for i in rows),
            sequences=tuple(self.sequences[i] for i in rows),
            places=tuple(self.places[i] for i in rows),
        )

    def join(self, other: Frames) -> Frames:
        """These frames, then the other ones. Raises ValueError where classes or working size differ."""
        if (self.classes, self.size) != (other.classes, other.size):
            raise ValueError(f"cannot join frames of {self.classes} at {self.size} to {other.classes} at {other.size}")
        return replace(
            self,
            names=self.names + other.names,
            parents=self.parents + other.parents,
            sequences=self.sequences + other.sequences,
            places=self.places + other.places,
        )

    def class_frequencies(self) -> npt.NDArray[np.float64]:
        """(C,) share of each class in the labelled pixels at the working size; sums to 1."""
        labelled = np.zeros(len(self.classes))
        for stored, row in self.places:
            labelled += stored.counts[row]
        return cast(npt.NDArray[np.float64], labelled / max(1.0, labelled.sum()))


def load_frames(dataset: Dataset, split: str, size: tuple[int, int], cache: Path, limit: int = DEFAULT_LIMIT) -> Frames:
    """The frames of train, val or test at a working size; of those that are too large, their tiles.

    size: height and width in pixels; exact fractions of the frames' own size keep labels sharp. cache: a local folder
    that keeps the decoded frames, safe to share between processes and data sets; limit: its size in bytes, beyond which
    frames that were not used for longest go. Raises DataError where a file cannot be read any more, ConfigError where
    the cache is too small.
    """
    pieces = pieces_of(dataset, split)
    stored = stored_frames(dataset, split, pieces, size, DiskCache(cache / "frames", limit))
    return Frames(
        classes=dataset.spec.classes,
        small=dataset.spec.small,
        images=dataset.spec.images,
        size=size,
        names=tuple(piece.name for piece in pieces),
        parents=tuple(piece.frame.name for piece in pieces),
        sequences=tuple(piece.frame.sequence for piece in pieces),
        places=tuple((stored, row) for row in range(len(pieces))),
    )
