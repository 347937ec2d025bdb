"""What each stage does where nothing else is wished, and what is known of how well that spends a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HALVED_FROM = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDefaults:
    """A stage's own choices."""

    sampler: str
    scheduler: str
    factor: int = 3
    """One in so many trials goes on from a rung."""
    patient: bool = False
    """Whether early scores say little, so that the first rung is late."""

    def grace(self, epochs: int) -> int | None:
        """The first rung of trials of so many epochs; None is the scheduler's own choice."""
        return math.ceil(_HALVED_FROM * epochs) if self.patient else None


BASE = StageDefaults(sampler="gp", scheduler="asha-promote", factor=2, patient=True)
"""A Gaussian process with asha-promote spent a budget best on LCBench (`quality.py`), far ahead of random search and of
TPE; with rungs as late as these it has least regret at the end, and is no faster on the way there.

A base model's early scores rank it little better than chance: of 24 recorded trainings of nine epochs the rank
correlation with the end is -0.1 after the first, 0.5 after the third, 0.6 where the first rung is and 0.8 after the
sixth (`own_curves.py`)."""
META = StageDefaults(sampler="tpe", scheduler="none")
"""Fusions are small, so all are trained; and where all are, TPE was better than random search on LCBench. A choice: on
fusions nothing else was measured."""


def defaults_of(stage: str) -> StageDefaults:
    """Those of a stage; of a search of anyone's own, those of `Search`."""
    return {"base": BASE, "meta": META}.get(stage, StageDefaults(sampler="random", scheduler="asha-promote"))
