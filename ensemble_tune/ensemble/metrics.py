"""How well predicted labels fit the truth: one confusion matrix over a whole data set."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor


class Confusion:
    """Counts of pixels by true class (rows) and predicted class (columns); unlabelled pixels count nowhere."""

    def __init__(self, classes: int) -> None:
        self.matrix = torch.zeros((classes, classes), dtype=torch.int64)

    def add(self, prediction: Tensor, truth: Tensor) -> None:
        """Counts more pixels.

        prediction: integers in 0..C-1, any shape. truth: uint8 of the same shape; C and above, IGNORED among them, is
        unlabelled. Raises ValueError where the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction is {tuple(prediction.shape)}, but truth is {tuple(truth.shape)}")
        classes = len(self.matrix)
        # Unlabelled pixels go to one more row, which is dropped: cheaper than picking the labelled pixels out.
        pairs = truth.to(torch.int64).clamp_(max=classes).mul_(classes).add_(prediction).flatten()
        counts = torch.bincount(pairs, minlength=(classes + 1) * classes)[: classes * classes]
        self.matrix += counts.reshape(classes, classes).cpu()

    def __add__(self, other: Confusion) -> Confusion:
        total = Confusion(len(self.matrix))
        total.matrix = self.matrix + other.matrix
        return total

    def scores(self, names: Sequence[str], small: Collection[str]) -> dict[str, float]:
        """miou, small_miou, pixel_accuracy, and iou.<class> for every class; all in [0, 1], nan where undefined.

        iou = TP / (TP + FP + FN) of one class (Jaccard 1912), over all pixels of the data set, not averaged per image
        (PASCAL VOC, Everingham 2010; SegNet, Badrinarayanan 2017). miou is its mean over the classes that the truth
        holds, small_miou over those of them in `small`: a class absent from the truth has iou nan and joins no mean, so
        that all models are averaged over the same classes; predicting it still costs the true class.
        pixel_accuracy = sum TP / labelled pixels.
        """
        hits = self.matrix.diagonal().double()
        truth, predicted = self.matrix.sum(1).double(), self.matrix.sum(0).double()
        values = torch.where(truth > 0, hits / (truth + predicted - hits), math.nan).tolist()
        ious = dict(zip(names, values, strict=True))
        return {
            "miou": _mean(ious.values()),
            "small_miou": _mean(iou for name, iou in ious.items() if name in small),
            "pixel_accuracy": float(hits.sum() / truth.sum()),
            **{f"iou.{name}": iou for name, iou in ious.items()},
        }


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; nan where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
