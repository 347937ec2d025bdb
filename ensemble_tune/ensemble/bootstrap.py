"""How sure a difference between two models is: over frames that resemble their neighbours, and over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.evidence import Counts, Evidence, Floats
from ensemble_tune.ensemble.tile_name import image_of

Weights = npt.NDArray[np.float32]

BLOCK = 10
"""Frames that are drawn together: neighbours in a video err alike, and are no independent evidence."""
RESAMPLES = 2000
_LEVEL = 95.0
_FEW = 10
"""Degrees of freedom below which percentiles of a bootstrap are too narrow, and Student's t takes their place."""
_AT_ONCE = 50
"""Resamples that are drawn together: what is made meanwhile takes several times the memory of what is kept."""
_MANY = 10
"""Sequences from which whole ones are drawn: frames of one err alike however far apart they are."""
_SEEDS = 1
"""Sets the draws of seeds apart from those of frames."""


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

    @property
    def spans_zero(self) -> bool:
        """Whether the figure cannot be told from no difference at all; False where no interval is known."""
        return self.low <= 0 <= self.high


def resamples_of(evidence: Evidence, *, seed: int = 0) -> Weights:
    """(1 + R, N) what each of N frames or tiles weighs: first each once, which gives the figure itself, then in each
    resample. The tiles of an image are drawn together."""
    images = {image_of(name): sequence for name, sequence in zip(evidence.names, evidence.sequences, strict=True)}
    places = {name: place for place, name in enumerate(images)}
    drawn = draw_frames(list(images.values()), seed=seed)
    return np.concatenate([np.ones((1, len(images)), np.float32), drawn])[
        :, [places[image_of(name)] for name in evidence.names]
    ]


def freedom_of(evidence: Evidence) -> int:
    """Degrees of freedom of resamples of the evidence: independent units, less one for each group they are drawn in."""
    images = {image_of(name): sequence for name, sequence in zip(evidence.names, evidence.sequences, strict=True)}
    long, units = _units(list(images.values()), BLOCK)
    return sum(_blocks(rows, BLOCK) - 1 for rows in long) + max(0, len(units) - 1)


def draw_frames(sequences: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES, block: int = BLOCK) -> Weights:
    """(R, N) what each of N frames weighs in each of R resamples.

    sequences: each frame's, the frames of one in the order of time. Where there are ten sequences or more, whole ones
    are drawn. Of fewer, circular blocks of about `block` frames are drawn within each (Politis and Romano 1992), so
    that an interval speaks of these sequences, not of others; those too short for two blocks are drawn whole. Of k
    units k - 1 are drawn and weigh k / (k - 1): k of them would understate the variance by that, which is much
    where there are few (Rao and Wu 1988).
    """
    chance = np.random.default_rng(seed)
    long, units = _units(sequences, block)
    weights = np.ones((resamples, len(sequences)), np.float32)
    parts = [weights[start : start + _AT_ONCE] for start in range(0, resamples, _AT_ONCE)]
    for rows in long:
        blocks = _blocks(rows, block)
        for part in parts:
            starts = chance.integers(0, len(rows), (len(part), blocks - 1))
            drawn = (starts[:, :, None] + np.arange(-(-len(rows) // blocks))).reshape(len(part), -1) % len(rows)
            part[:, rows] = _counts(drawn, len(rows)) * len(rows) / drawn.shape[1]
    if len(units) > 1:
        unit_of = np.repeat(np.arange(len(units)), [len(rows) for rows in units])
        columns = [row for rows in units for row in rows]
        for part in parts:
            drawn = chance.integers(0, len(units), (len(part), len(units) - 1))
            of_unit = _counts(drawn, len(units)) * len(units) / (len(units) - 1)
            part[:, columns] = of_unit[:, unit_of]
    return weights


def _units(sequences: Sequence[str], block: int) -> tuple[list[list[int]], list[list[int]]]:
    """The rows of each sequence that is drawn in blocks, and of each that is drawn whole."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        rows_of[sequence].append(row)
    clips = list(rows_of.values())
    long = [rows for rows in clips if len(rows) >= 2 * block and len(clips) < _MANY]
    units = [rows for rows in clips if rows not in long]
    if len(units) == 1 and len(units[0]) > 1:
        long, units = [*long, *units], []
    return long, units


def _blocks(rows: Sequence[int], block: int) -> int:
    return max(2, round(len(rows) / block))


def _counts(drawn: Counts, places: int) -> Counts:
    """(R, D) numbers in 0..places-1 to (R, places): how often each is in each row."""
    offset = drawn + places * np.arange(len(drawn))[:, None]
    return np.bincount(offset.ravel(), minlength=len(drawn) * places).reshape(len(drawn), places)


def ious(confusions: Counts | Floats) -> Floats:
    """(..., C, C) pixels, weighted or not, to (..., C) IoU of each class; nan where the truth has none of it."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64)
    truth, predicted = confusions.sum(-1), confusions.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Floats, np.where(truth > 0, hits / (truth + predicted - hits), np.nan))


def resampled_ious(evidence: Evidence, weights: Floats | Weights) -> Floats:
    """(R, C) IoU of each class, where the evidence's frames weigh (R, N)."""
    classes = len(evidence.classes)
    counts = evidence.confusions.reshape(len(evidence.names), -1).astype(np.float64)
    parts = [weights[start : start + _AT_ONCE] for start in range(0, len(weights), _AT_ONCE)]
    return ious(np.concatenate([part.astype(np.float64) @ counts for part in parts]).reshape(-1, classes, classes))


def gain(
    better: Sequence[Evidence], worse: Sequence[Evidence], *, classes: Collection[str] | None = None, seed: int = 0
) -> Interval:
    """How much higher the first model's mean IoU is than the second's, in paired resamples of frames and seeds.

    better, worse: each model's evidence, one a seed; figures are means over the seeds. Of as many seeds, they are
    paired in their order. classes: over which the mean is taken; None is all. Raises ValueError where the evidence is
    of different frames.
    """
    first = better[0]
    freedom = freedom_of(first)
    chance = np.random.default_rng([seed, _SEEDS])
    weights = resamples_of(first, seed=seed)
    columns = [place for place, name in enumerate(first.classes) if classes is None or name in classes]

    def scores(found: Sequence[Evidence]) -> Floats:
        each = [resampled_ious(own.sorted_as(first.names), weights) for own in found]
        return np.array([mean_of_numbers(own[:, columns]) for own in each])

    one, other = scores(better), scores(worse)
    if len(one) == len(other):
        return difference(_mean_of_drawn(one - other, chance), np.zeros(len(weights)), freedom=freedom)
    return difference(_mean_of_drawn(one, chance), _mean_of_drawn(other, chance), freedom=freedom)


def _mean_of_drawn(scores: Floats, chance: np.random.Generator) -> Floats:
    """(S, 1 + R) of S seeds to (1 + R,): the first the mean of all, each other one of seeds drawn for it.

    S - 1 of S are drawn, with replacement: means of these vary as means of S seeds do, those of S drawn ones less (Rao
    and Wu 1988). A single seed says nothing of others.
    """
    seeds, resamples = scores.shape
    drawn = chance.integers(0, seeds, (max(1, seeds - 1), resamples))
    means = np.take_along_axis(scores, drawn, axis=0).mean(0)
    means[0] = scores[:, 0].mean()
    return cast(Floats, means)


def mean_iou(evidence: Evidence, *, seed: int = 0) -> Interval:
    """A model's mean IoU over all frames together, in resamples of them."""
    scores = mean_of_numbers(resampled_ious(evidence, resamples_of(evidence, seed=seed)))
    return difference(scores, np.zeros_like(scores), freedom=freedom_of(evidence))


def difference(better: Floats, worse: Floats, *, freedom: int = _FEW) -> Interval:
    """The difference of two models' scores (1 + R,), the first one the figure itself; nan where it is not defined.

    freedom: degrees of freedom of the resamples. Of none there is no interval: its ends are nan. Of few, it is
    Student's, with the resamples' standard deviation.
    """
    differences = better - worse
    value, known = float(differences[0]), differences[1:][~np.isnan(differences[1:])]
    if not len(known) or freedom < 1:
        return Interval(value=value, low=math.nan, high=math.nan)
    if freedom < _FEW:
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # a third of a second to import

        half = float(stdtrit(freedom, (100 + _LEVEL) / 200) * known.std())
        return Interval(value=value, low=value - half, high=value + half)
    low, high = np.percentile(known, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def mean_of_numbers(values: Floats) -> Floats:
    """(R, C) to (R,): the mean of each row's numbers; nan where it has none."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Floats, np.where(there, values, 0.0).sum(-1) / there.sum(-1))
