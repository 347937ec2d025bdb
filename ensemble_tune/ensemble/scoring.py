"""Scores of a model over frames, at each frame's own full size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.ensemble.frames import IGNORED, Frames
from ensemble_tune.ensemble.metrics import Confusion

_BINS = 15
"""Of confidence, as in Guo 2017."""


@dataclass(frozen=True, slots=True)
class FrameScores:
    """How well a model segments frames."""

    scores: dict[str, float]
    """miou, small_miou, pixel_accuracy, iou.<class> at full size; loss and ece at the working size."""
    evidence: Evidence
    """The pixels behind them, frame by frame."""


def score_frames(logits_of: Callable[[Sequence[int]], Tensor], frames: Frames, batch: int) -> FrameScores:
    """Scores logits against the frames' labels, in one confusion matrix over all frames.

    logits_of: rows of `frames` to logits (B, C, h, w) at the working size, on any device; called without gradients on
    at most `batch` rows at a time. loss is the mean unweighted cross-entropy of a labelled pixel, nan where none is
    labelled; ece the expected calibration error.
    """
    return score_variants(lambda rows: {"": logits_of(rows)}, frames, batch)[""]


def score_variants(
    logits_of: Callable[[Sequence[int]], Mapping[str, Tensor]], frames: Frames, batch: int
) -> dict[str, FrameScores]:
    """`score_frames` for several models that share their work: logits_of gives each one's logits by name."""
    confusions: dict[str, list[Confusion]] = defaultdict(list)
    calibrations: dict[str, Tensor] = defaultdict(lambda: torch.zeros(_BINS, 3, dtype=torch.float64))
    losses: dict[str, float] = defaultdict(float)
    labelled = 0
    with torch.inference_mode():
        for start in range(0, len(frames), batch):
            rows = range(start, min(start + batch, len(frames)))
            labels = torch.from_numpy(np.stack([frames.label(i) for i in rows])).long()
            truths = [torch.from_numpy(np.array(frames.truth(i))) for i in rows]
            labelled += int((labels != IGNORED).sum())
            for name, logits in logits_of(rows).items():
                there = labels.to(logits.device)
                logarithms = F.log_softmax(logits.float(), dim=1)
                losses[name] += F.nll_loss(logarithms, there, ignore_index=IGNORED, reduction="sum").item()
                calibrations[name] += _calibration(logarithms, there)
                for truth, own in zip(truths, logits, strict=True):
                    counted = Confusion(len(frames.classes))
                    counted.add(labels_at(own.float(), truth.shape), truth.to(logits.device))
                    confusions[name].append(counted)
    scored = {}
    for name, each in confusions.items():
        evidence = Evidence(
            of=name,
            classes=frames.classes,
            small=frames.small,
            names=frames.names,
            sequences=frames.sequences,
            confusions=torch.stack([counted.matrix for counted in each]).numpy(),
            calibration=calibrations[name].numpy(),
        )
        scores = sum(each[1:], start=each[0]).scores(frames.classes, frames.small)
        scores["loss"] = losses[name] / labelled if labelled else math.nan
        scores["ece"] = evidence.calibration_error if labelled else math.nan
        scored[name] = FrameScores(scores, evidence)
    return scored


def _calibration(logarithms: Tensor, labels: Tensor) -> Tensor:
    """(B, C, h, w) logarithms of probabilities and (B, h, w) labels to a batch's part of `Evidence.calibration`."""
    highest = logarithms.max(1)
    counted = labels != IGNORED
    confidence = highest.values.exp()[counted].double()
    right = (highest.indices == labels)[counted].double()
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    sums = [torch.bincount(bins, weights, minlength=_BINS) for weights in (torch.ones_like(right), right, confidence)]
    return torch.stack(sums, dim=1).cpu()


def labels_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices at a frame's own size: the logits are grown, since growing labels would give staircases.

    logits: (C, h, w). size: (H, W). Returns (H, W), int64.
    """
    # Several times as fast on a processor as argmax.
    return logits_at(logits, size).max(0).indices


def logits_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (C, h, w) at another size (H, W), (C, H, W)."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits[None].contiguous(), list(size), mode="bilinear", align_corners=False)[0]
