"""How sure a difference between two models is: intervals over frames that resemble their neighbours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ensemble_tune.ensemble.evidence import Counts, Evidence, Floats

BLOCK = 10
"""Frames that are drawn together: neighbours in a video err alike, and are no independent evidence."""
RESAMPLES = 2000
_LEVEL = 95.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and the interval that holds 95% of its bootstrap distribution."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the figure is a gain that can be told from chance."""
        return self.low > 0


def draw_frames(sequences: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES, block: int = BLOCK) -> Floats:
    """(R, N) what each of N frames weighs in each of R resamples; every sequence's frames sum to their number.

    sequences: each frame's, the frames of one in the order of time. Circular blocks of about `block` frames are drawn
    within each sequence (Politis and Romano 1992); frames that are a sequence each are drawn one by one from all of
    them. Of k blocks k - 1 are drawn and weigh k / (k - 1): k of them would understate the variance by that, which is
    much where a sequence has few (Rao and Wu 1988).
    """
    chance = np.random.default_rng(seed)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        rows_of[sequence].append(row)
    single = [rows[0] for rows in rows_of.values() if len(rows) == 1]
    groups = [(rows, max(2, round(len(rows) / block))) for rows in rows_of.values() if len(rows) > 1]
    weights = np.ones((resamples, len(sequences)))
    for rows, blocks in [*groups, *([(single, len(single))] if len(single) > 1 else [])]:
        starts = chance.integers(0, len(rows), (resamples, blocks - 1))
        drawn = (starts[:, :, None] + np.arange(-(-len(rows) // blocks))).reshape(resamples, -1) % len(rows)
        for resample in range(resamples):
            counts = np.bincount(drawn[resample], minlength=len(rows))
            weights[resample, rows] = counts * len(rows) / drawn.shape[1]
    return weights


def ious(confusions: Counts | Floats) -> Floats:
    """(..., C, C) pixels, weighted or not, to (..., C) IoU of each class; nan where the truth has none of it."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64)
    truth, predicted = confusions.sum(-1), confusions.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Floats, np.where(truth > 0, hits / (truth + predicted - hits), np.nan))


def resampled_ious(evidence: Evidence, weights: Floats) -> Floats:
    """(R, C) IoU of each class, where the evidence's frames weigh (R, N)."""
    classes = len(evidence.classes)
    pooled = weights @ evidence.confusions.reshape(len(evidence.names), -1).astype(np.float64)
    return ious(pooled.reshape(-1, classes, classes))


def gain(
    better: Sequence[Evidence], worse: Sequence[Evidence], *, classes: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """How much higher the first model's mean IoU is than the second's, in paired resamples of the frames.

    better, worse: each model's evidence, one a seed; figures are means over the seeds. classes: those that the mean is
    over; None is all. A class that no frame of a resample holds joins no mean of it. Raises ValueError where the
    evidence is of different frames.
    """
    first = better[0]
    weights = np.concatenate([np.ones((1, len(first.names))), draw_frames(first.sequences, seed=seed)])
    chosen = [first.classes.index(name) for name in (classes or first.classes)]

    def scores(found: Sequence[Evidence]) -> Floats:
        each = [resampled_ious(own.sorted_as(first.names), weights)[:, chosen] for own in found]
        return cast(Floats, np.mean([mean_of_numbers(own) for own in each], axis=0))

    differences = scores(better) - scores(worse)
    low, high = np.nanpercentile(differences[1:], [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return Interval(value=float(differences[0]), low=float(low), high=float(high))


def mean_of_numbers(values: Floats) -> Floats:
    """(R, C) to (R,): the mean of each row's numbers; nan where it has none."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Floats, np.where(there, values, 0.0).sum(-1) / there.sum(-1))
