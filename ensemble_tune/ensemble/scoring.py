"""Scores of a model over frames, at each frame's own full size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble_tune.ensemble.evidence import Evidence, calibration_error
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
    tallies = _tallied(logits_of, frames, batch, by_frame=True)
    return {name: FrameScores(tally.scores(frames), tally.evidence(name, frames)) for name, tally in tallies.items()}


def scores_of(logits_of: Callable[[Sequence[int]], Tensor], frames: Frames, batch: int) -> dict[str, float]:
    """The scores of `score_frames` without its evidence, which takes memory where classes and frames are many."""
    return _tallied(lambda rows: {"": logits_of(rows)}, frames, batch, by_frame=False)[""].scores(frames)


class _Tally:
    """What is counted of one model."""

    def __init__(self, classes: int, *, by_frame: bool) -> None:
        self._whole = Confusion(classes)
        self._frames: list[Tensor] | None = [] if by_frame else None
        self._calibration = torch.zeros(_BINS, 3, dtype=torch.float64)
        self._loss, self._labelled = 0.0, 0

    def add(self, logits: Tensor, labels: Tensor, truths: Sequence[Tensor]) -> None:
        """labels: (B, h, w), int64, at the working size. truths: each frame's labels at its own."""
        there = labels.to(logits.device)
        logarithms = F.log_softmax(logits.float(), dim=1)
        self._labelled += int((labels != IGNORED).sum())
        self._loss += F.nll_loss(logarithms, there, ignore_index=IGNORED, reduction="sum").item()
        self._calibration += _calibration(logarithms, there)
        for truth, own in zip(truths, logits, strict=True):
            counted = Confusion(len(self._whole.matrix))
            counted.add(labels_at(own.float(), truth.shape), truth.to(logits.device))
            self._whole += counted
            if self._frames is not None:
                self._frames.append(counted.matrix)

    def scores(self, frames: Frames) -> dict[str, float]:
        """Those of `FrameScores`."""
        known = self._labelled > 0
        return {
            **self._whole.scores(frames.classes, frames.small),
            "loss": self._loss / self._labelled if known else math.nan,
            "ece": calibration_error(self._calibration.numpy()) if known else math.nan,
        }

    def evidence(self, name: str, frames: Frames) -> Evidence:
        """Of all frames, in their order; only where they were counted one by one."""
        assert self._frames is not None
        return Evidence(
            of=name,
            classes=frames.classes,
            small=frames.small,
            names=frames.names,
            sequences=frames.sequences,
            confusions=torch.stack(self._frames).numpy(),
            calibration=self._calibration.numpy(),
        )


def _tallied(
    logits_of: Callable[[Sequence[int]], Mapping[str, Tensor]], frames: Frames, batch: int, *, by_frame: bool
) -> dict[str, _Tally]:
    """by_frame: whether each frame's counts are kept."""
    tallies: dict[str, _Tally] = {}
    with torch.inference_mode():
        for start in range(0, len(frames), batch):
            rows = range(start, min(start + batch, len(frames)))
            labels = torch.from_numpy(np.stack([frames.label(i) for i in rows])).long()
            truths = [torch.from_numpy(np.array(frames.truth(i))) for i in rows]
            for name, logits in logits_of(rows).items():
                if name not in tallies:
                    tallies[name] = _Tally(len(frames.classes), by_frame=by_frame)
                tallies[name].add(logits, labels, truths)
    return tallies


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
