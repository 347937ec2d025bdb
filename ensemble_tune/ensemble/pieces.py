"""What is trained on and scored: the frames of a split, or the tiles of those that are too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble_tune.ensemble.dataset import Dataset
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.frame_files import Frame
from ensemble_tune.ensemble.image_file import Deep, mask_shape
from ensemble_tune.ensemble.tile_name import tile_name
from ensemble_tune.ensemble.tiles import Tile


@dataclass(frozen=True, slots=True)
class Piece:
    """A frame, or one tile of it."""

    name: str
    """The frame's own, with the tile's place behind it."""
    frame: Frame
    tile: Tile | None
    """None is the whole frame."""
    shape: tuple[int, int]
    """Height and width in pixels of the image."""

    def of(self, array: Deep) -> Deep:
        """Its part of the frame's image or labels."""
        return array if self.tile is None else self.tile.of(array)


def pieces_of(dataset: Dataset, split: str) -> tuple[Piece, ...]:
    """The pieces of a split, frame by frame. Raises DataError where a mask cannot be read any more."""
    return tuple(piece for frame in dataset.splits[split] for piece in _pieces(dataset.spec, frame))


def first_shape(dataset: Dataset) -> tuple[int, int]:
    """Height and width in pixels of the first training frame, or of its largest tile."""
    return max(piece.shape for piece in _pieces(dataset.spec, dataset.splits["train"][0]))


def piece_counts(dataset: Dataset, frames: Sequence[Frame]) -> list[int]:
    """How many pieces each frame has."""
    if dataset.spec.tiles is None:
        return [1] * len(frames)
    return [len(_pieces(dataset.spec, frame)) for frame in frames]


def _pieces(spec: DatasetSpec, frame: Frame) -> list[Piece]:
    shape = mask_shape(frame.mask)
    if spec.tiles is None or spec.tiles.within(shape) == shape:
        return [Piece(frame.name, frame, None, shape)]
    return [
        Piece(tile_name(frame.name, tile.top, tile.left), frame, tile, (tile.height, tile.width))
        for tile in spec.tiles.cut(shape)
    ]
