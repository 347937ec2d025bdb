"""The learning rate of every step, as a closed form of the step: nothing to save, nothing to fall out of step."""

from __future__ import annotations

import math

from ensemble_tune.ensemble.config import Schedule

_WARM_UP = 0.3
_FIRST, _LAST = 1 / 25, 1 / 250_000
"""Shares of the highest rate at the first and the last step; all three numbers are those of torch's OneCycleLR."""


def learning_rate(schedule: Schedule, highest: float, step: int, steps: int) -> float:
    """The step size of step `step`, counted from 0, of `steps` in the whole schedule.

    one_cycle: up along half a cosine, then down along another (Smith and Topin 2018; AdamW's momentum stays as it is).
    cosine: down from the highest rate to nearly 0 (Loshchilov and Hutter 2017, without restarts). constant: the
    highest.
    """
    if schedule == "constant":
        return highest
    if schedule == "cosine":
        return highest * _between(1.0, 0.0, step / steps)
    peak = max(1.0, _WARM_UP * steps - 1)
    if step < peak:
        return highest * _between(_FIRST, 1.0, step / peak)
    return highest * _between(1.0, _LAST, min(1.0, (step - peak) / max(1.0, steps - 1 - peak)))


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine; share in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
