"""What splits.py shows: how well each split chose, from the figures of its trainings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from scipy import stats  # type: ignore[import-untyped]

from ensemble_tune.ensemble.split import Split

SPLITS: tuple[Split, ...] = get_args(Split)
ALL: Literal["all"] = "all"
"""Trained on all frames of the other sequences."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A training's figures."""

    val: list[float]
    """Of each epoch, on the split's val, or on the unseen frames where all others are trained on; none if it failed."""
    unseen: float
    """On the unseen frames, of the weights of the best epoch on val."""

    @property
    def best(self) -> float:
        """What it is worth."""
        return max(self.val, default=0.0)

    def at(self, epoch: int) -> float:
        """The score after an epoch, counted from 1."""
        return self.val[epoch - 1] if self.val else 0.0

    @property
    def best_epoch(self) -> int:
        """Counted from 1."""
        return self.val.index(self.best) + 1 if self.val else 1


@dataclass(frozen=True, slots=True)
class Choice:
    """How well val chose among one seed's configurations, for one unseen sequence, by one yardstick."""

    chosen: float
    mean: float
    best: float
    correlation: float
    """Spearman's, of val score and unseen score; nan for a single configuration, or equal scores."""

    @classmethod
    def of(cls, val: Sequence[float], unseen: Sequence[float]) -> Choice:
        """From both scores of each configuration."""
        varied = len(set(val)) > 1 and len(set(unseen)) > 1
        return cls(
            chosen=unseen[val.index(max(val))],
            mean=statistics.fmean(unseen),
            best=max(unseen),
            correlation=float(stats.spearmanr(val, unseen).statistic) if varied else math.nan,
        )

    def less(self, other: Choice) -> Choice:
        """The difference of each figure."""
        return Choice(
            chosen=self.chosen - other.chosen,
            mean=self.mean - other.mean,
            best=self.best - other.best,
            correlation=self.correlation - other.correlation,
        )


Choices = dict[tuple[str, str], Choice]
"""One sequence's and seed's, by split and yardstick."""
YARDSTICKS = ("own", "retrained")


def compared(trained: Mapping[str, Sequence[Trained]]) -> Choices:
    """trained: one seed's trainings, by number, under each split and of all frames."""
    found: Choices = {}
    for split in SPLITS:
        val = [each.best for each in trained[split]]
        again = [other.at(own.best_epoch) for own, other in zip(trained[split], trained[ALL], strict=True)]
        found[split, "own"] = Choice.of(val, [each.unseen for each in trained[split]])
        found[split, "retrained"] = Choice.of(val, again)
    return found


def show(groups: Sequence[tuple[str, Choices]], without_val: Sequence[str]) -> None:
    """Prints the table of each sequence, of all, and of those where official has a val of its own."""
    names = list(dict.fromkeys(name for name, _ in groups))
    marked = {name: f"{name} (official: no val of its own)" if name in without_val else name for name in names}
    parts = [(marked[name], [own for each, own in groups if each == name]) for name in names]
    parts.append(("all sequences", [own for _, own in groups]))
    if any(name in without_val for name in names) and any(name not in without_val for name in names):
        parts.append(("where official has its own val", [own for name, own in groups if name not in without_val]))
    for title, own in parts:
        print(f"\nunseen: {title}, {len(own)} choice{'s' if len(own) > 1 else ''} by each split")
        print("{:9} {:10}{:>24}{:>24}{:>24}{:>24}".format("split", "yardstick", "chosen", "mean", "best", "Spearman"))
        for split, yardstick in product(SPLITS, YARDSTICKS):
            _row(split, yardstick, [each[split, yardstick] for each in own])
        for yardstick in YARDSTICKS:
            _row("b - o", yardstick, [each["blocks", yardstick].less(each["official", yardstick]) for each in own])


def _row(split: str, yardstick: str, found: Sequence[Choice]) -> None:
    cells = [
        _interval([each.chosen for each in found]),
        _interval([each.mean for each in found]),
        _interval([each.best for each in found]),
        _interval([each.correlation for each in found]),
    ]
    print("{:9} {:10}{:>24}{:>24}{:>24}{:>24}".format(split, yardstick, *cells))


def _interval(values: Sequence[float]) -> str:
    """The mean of the values that there are, with its 95% interval where there are two or more."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    mean = statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.3f}"
    error = statistics.stdev(known) / math.sqrt(len(known)) * float(stats.t.ppf(0.975, len(known) - 1))
    return f"{mean:.3f} ({mean - error:.3f}, {mean + error:.3f})"
