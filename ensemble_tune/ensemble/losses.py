"""What training minimises: weighted cross-entropy mixed with a Jaccard loss, over labelled pixels alone."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.config import ClassWeights
from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.errors import TrainingError

_LARGEST = 32.0
"""Of a median-frequency weight: a class of a few pixels would otherwise drown all others."""


def class_weights(kind: ClassWeights, frequencies: npt.ArrayLike) -> Tensor:
    """Weights of the classes in the cross-entropy, with mean 1 over the classes that occur.

    frequencies: (C,), each class's share of the labelled training pixels. Returns (C,), float32, finite and positive; a
    class that never occurs gets the largest weight of those that do. Raises TrainingError if none occurs.
    log: 1 / ln(1.02 + p), Paszke 2016, ENet. median: median(p) / p, Eigen and Fergus 2015, at most _LARGEST; without a
    Jaccard loss beside it, rare classes gain at the cost of the rest. sqrt: its square root, with which they gain less.
    """
    shares = np.asarray(frequencies, dtype=np.float64)
    occurs = shares > 0
    if not occurs.any():
        raise TrainingError("training frames must have labelled pixels, but none is labelled; check the masks")
    weights = np.ones_like(shares)
    if kind == "log":
        weights = 1 / np.log(1.02 + shares)
    elif kind != "none":
        ratios = np.median(shares[occurs]) / shares[occurs]
        weights[occurs] = np.sqrt(ratios) if kind == "sqrt" else np.minimum(ratios, _LARGEST)
    weights /= weights[occurs].mean()
    weights[~occurs] = weights[occurs].max()
    return torch.from_numpy(weights.astype(np.float32))


class SegmentationLoss(nn.Module):
    """(1 - j) * weighted cross-entropy + j * Jaccard loss.

    Jaccard: 1 - the mean soft intersection over union of the classes that the batch's labels hold (Rahman and Wang
    2016); a class that the labels lack has no union worth learning from.
    """

    def __init__(self, weights: Tensor, jaccard_weight: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.jaccard_weight = jaccard_weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, C, h, w) of any float type and labels (B, h, w) uint8 or int64, to a float32 scalar.

        Labels are IGNORED where unlabelled; where nothing is labelled the loss is 0, with a gradient.
        """
        # Half precision loses the sums over a hundred thousand pixels.
        logits, labels = logits.float(), labels.long()
        loss = self._cross_entropy(logits, labels)
        if self.jaccard_weight > 0:
            loss = (1 - self.jaccard_weight) * loss + self.jaccard_weight * _jaccard(logits, labels)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over labelled pixels, each weighted by its class."""
        weights = cast(Tensor, self.weights)
        total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
        # torch's own mean is 0 / 0 without a labelled pixel; unlabelled ones pick a last weight of 0.
        weight = F.pad(weights, (0, 1))[labels.clamp(max=len(weights))].sum()
        return total / weight.clamp(min=torch.finfo(torch.float32).tiny)


def _jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean soft intersection over union; (B, C, h, w) and (B, h, w) to a scalar."""
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = labels.unsqueeze(1) == classes
    probabilities = logits.softmax(1) * (labels != IGNORED).unsqueeze(1)
    intersection = (probabilities * truth).sum((0, 2, 3))
    count = truth.sum((0, 2, 3))
    union = probabilities.sum((0, 2, 3)) + count - intersection
    present = count > 0
    # An absent class may have a union of 0; its term is dropped, and must not be 0 / 0 before that.
    lost = (1 - intersection / union.clamp(min=1)) * present
    return lost.sum() / present.sum().clamp(min=1)
