"""Tiny data sets on the disk, for tests."""

from pathlib import Path

import cv2
import numpy as np


def write_frame(
    root: Path, split: str, name: str, *, size: tuple[int, int] = (12, 16), label: int | None = None
) -> None:
    """One random frame in CamVid's layout; `label` everywhere, or random labels of the 11 classes and unlabelled."""
    rng = np.random.default_rng(sum(name.encode()))
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / f"{split}annot").mkdir(exist_ok=True)
    mask = rng.integers(0, 12, size, np.uint8) if label is None else np.full(size, label, np.uint8)
    cv2.imwrite(str(root / split / f"{name}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
    cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), mask)


def write_sequences(root: Path, split: str, lengths: dict[str, int], **how: object) -> Path:
    """Several sequences of frames; returns `root`."""
    for sequence, length in lengths.items():
        for index in range(length):
            write_frame(root, split, f"{sequence}_{index:05d}", **how)
    return root
