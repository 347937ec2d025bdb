"""Scores of a model over frames, at each frame's own full size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble_tune.ensemble.frames import IGNORED, Frames
from ensemble_tune.ensemble.metrics import Confusion


@dataclass(frozen=True, slots=True)
class FrameScores:
    """How well a model segments frames."""

    scores: dict[str, float]
    """miou, small_miou, pixel_accuracy, iou.<class> at full size; loss at the working size."""
    confusion: Confusion
    """The pixels behind them."""


def score_frames(logits_of: Callable[[Sequence[int]], Tensor], frames: Frames, batch: int) -> FrameScores:
    """Scores logits against the frames' labels, in one confusion matrix over all frames.

    logits_of: rows of `frames` to logits (B, C, h, w) at the working size, on any device; called without gradients on
    at most `batch` rows at a time. loss is the mean unweighted cross-entropy of a labelled pixel, nan where none is
    labelled.
    """
    confusion = Confusion(len(frames.classes))
    total, labelled = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(frames), batch):
            rows = range(start, min(start + batch, len(frames)))
            logits = logits_of(rows).float()
            labels = torch.from_numpy(np.stack([frames.label(i) for i in rows])).to(logits.device).long()
            total += F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").item()
            labelled += int((labels != IGNORED).sum())
            for row, own in zip(rows, logits, strict=True):
                truth = torch.from_numpy(np.array(frames.truth(row)))
                confusion.add(labels_at(own, truth.shape), truth.to(logits.device))
    scores = confusion.scores(frames.classes, frames.small)
    scores["loss"] = total / labelled if labelled else math.nan
    return FrameScores(scores, confusion)


def labels_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices at a frame's own size: the logits are grown, since growing labels would give staircases.

    logits: (C, h, w). size: (H, W). Returns (H, W), int64.
    """
    if tuple(logits.shape[-2:]) != tuple(size):
        logits = F.interpolate(logits[None], list(size), mode="bilinear", align_corners=False)[0]
    return logits.argmax(0)
