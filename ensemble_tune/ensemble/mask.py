"""A mask file as labels, whatever its own pixels are: classes' numbers, or a palette's colours."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.image_file import Pixels, decode_colours, decode_mask, read_bytes
from ensemble_tune.ensemble.labels import IGNORED


def read_labels(spec: DatasetSpec, path: Path) -> Pixels:
    """A mask's labels, (H, W): class indices, or IGNORED. Raises DataError where the file is broken or no mask."""
    return decode_labels(spec, path, read_bytes(path))[0]


def decode_labels(spec: DatasetSpec, path: Path, data: bytes) -> tuple[Pixels, tuple[str, ...]]:
    """`read_labels` for a file's bytes, and the values or colours in it that mean nothing; `path` is for the error."""
    if spec.palette is not None:
        return spec.palette.labels(decode_colours(path, data))
    mask = decode_mask(path, data)
    foreign = [int(label) for label in np.unique(mask) if label >= len(spec.classes) and label != spec.ignored]
    labels = mask if spec.ignored is None else cast(Pixels, np.where(mask == spec.ignored, IGNORED, mask))
    return labels, tuple(map(str, foreign))


def mask_file_rule(spec: DatasetSpec) -> str:
    """What every mask file must be."""
    if spec.palette is not None:
        return "every mask must be a whole PNG file of at most 8 bits a channel, its pixels the palette's colours"
    return (
        "every mask must be a whole PNG file of one channel of 8 bits, its pixels the labels "
        "(masks of colours, or of black and white, need a palette in dataset.toml)"
    )


def label_rule(spec: DatasetSpec) -> str:
    """What every pixel of a mask must be."""
    if spec.palette is not None:
        return "colours of masks must be in the palette, or among those that are ignored"
    unlabelled = "" if spec.ignored is None else f", or {spec.ignored} for unlabelled"
    return f"labels must be 0..{len(spec.classes) - 1}{unlabelled}"
