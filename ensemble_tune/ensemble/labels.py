"""Label maps: what their values mean, and how they are brought to a working size."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.image_file import Pixels

IGNORED = 255
"""The label of unlabelled pixels, whatever a data set's own masks call them."""

_FAIR = 0.3
"""The share of a cell that a class must cover to stand for it against a larger one: a speck does not become a cell."""
_STEPS = 1024
"""A class's share of a cell is counted in so many steps, whose sums are exact: what ties, ties on every machine."""


def scaled_labels(truth: Pixels, size: tuple[int, int]) -> Pixels:
    """A label map at a working size, in which thin things stay whole.

    truth: (H, W) class indices, or IGNORED. size: height and width in pixels. Returns (h, w) of the same.
    A cell, the pixels that become one, takes the class with the largest s / sqrt(a) of those with a fair share, where s
    is a class's share of the cell and a that of the 3x3 cells around. At a straight border that is the larger share; a
    pole, of which there is little around, needs a third of a cell. A tie goes to the class that is rarer in the frame;
    a cell less than half of which is labelled is IGNORED. Where the working size is the larger one, the nearest pixel
    is taken.
    """
    if size[0] > truth.shape[0] or size[1] > truth.shape[1]:
        return cast(Pixels, cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    counts = np.bincount(truth.ravel(), minlength=IGNORED + 1)[:IGNORED]
    labels, best = np.full(size, IGNORED, np.uint8), np.zeros(size, np.float32)
    for label in sorted(counts.nonzero()[0].tolist(), key=lambda label: (counts[label], label)):
        share = _shares(truth == label, size)
        around = cv2.boxFilter(share, -1, (3, 3), normalize=False, borderType=cv2.BORDER_REFLECT_101)
        # What covers less than a fair share is below all that cover more: here 1 is less than the least fit there.
        fit = np.where(share >= _FAIR * _STEPS, share * share / np.maximum(around, 1), share / _STEPS)
        better = fit > best
        labels[better], best[better] = label, fit[better]
    labels[2 * _shares(truth != IGNORED, size) < _STEPS] = IGNORED
    return labels


def _shares(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(h, w): how much of each cell is in the mask (H, W), in whole steps."""
    shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return cast(npt.NDArray[np.float32], np.rint(shares * _STEPS))
