"""What each stage does where nothing else is wished: what spent a budget best in `benchmarks/`."""

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


BASE = StageDefaults(sampler="random", scheduler="asha-promote", factor=2, patient=True)
"""On one cycle, while the learning rate is high, a base model's scores rank it little better than chance: of 24
recorded trainings the rank correlation with the end is 0.3 to 0.5 in the first third, 0.65 and more from 0.4 on
(`own_curves.py`). At a constant rate it was not measured yet."""
META = StageDefaults(sampler="tpe", scheduler="none")
"""Fusions are small, and all are trained."""


def defaults_of(stage: str) -> StageDefaults:
    """Those of a stage; of a search of anyone's own, those of `Search`."""
    return {"base": BASE, "meta": META}.get(stage, StageDefaults(sampler="random", scheduler="asha-promote"))
