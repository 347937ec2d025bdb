"""A tiny data set that a small network can learn a little of: tiles whose colour hints at their class."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("road", "car", "pole")
SIZE = "32x32"
"""The working size: half of the frames' own, so that scores are taken at another size than models work at."""
_COLOURS = np.array([(90, 90, 90), (200, 60, 60), (60, 200, 60)])
_OWN_SIZE = (64, 64)
_SPEC = """
classes = ["road", "car", "pole"]
small = ["pole"]
ignored = 255
sequence = '(?P<sequence>[a-z]+)_\\d+'
"""
LENGTHS: Mapping[str, Mapping[str, int]] = {"train": {"a": 6, "b": 6}, "val": {"c": 4}, "test": {"d": 4}}


def write_tiles(root: Path, lengths: Mapping[str, Mapping[str, int]] = LENGTHS) -> Path:
    """Writes the data set; `lengths` are the frames of each sequence of each split. Returns `root`."""
    root.mkdir(parents=True)
    (root / "dataset.toml").write_text(_SPEC)
    for split, sequences in lengths.items():
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for sequence, length in sequences.items():
            for index in range(length):
                write_tile_frame(root, split, f"{sequence}_{index:03d}")
    return root


def write_tile_frame(root: Path, split: str, name: str, *, label: int | None = None) -> None:
    """One frame, the same for the same name; `label` everywhere in its mask, or what its colours say."""
    rng = np.random.default_rng(list(name.encode()))
    tiles = rng.integers(0, len(CLASSES), (8, 8))
    classes = np.kron(tiles, np.ones((8, 8), int))
    image = _COLOURS[classes] + rng.normal(0, 60, (*_OWN_SIZE, 3))
    mask = classes.astype(np.uint8) if label is None else np.full(_OWN_SIZE, label, np.uint8)
    mask[:2] = 255
    cv2.imwrite(str(root / split / f"{name}.png"), image.clip(0, 255).astype(np.uint8))
    cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), mask)
