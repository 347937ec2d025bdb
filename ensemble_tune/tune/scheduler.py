"""Schedulers decide who trains on. They know nothing of Ray: a search on Tune and a test drive them alike."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Protocol

from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.tune.record import Mode

SCHEDULERS = ("none", "asha")


class Scheduler(Protocol):
    """Sees every epoch's score once, in the order in which they happened."""

    def goes_on(self, trial: str, epoch: int, score: float) -> bool:
        """Whether the trial trains on after this epoch; `score` may be nan."""


class TrainToTheEnd:
    """Stops no trial."""

    def goes_on(self, trial: str, epoch: int, score: float) -> bool:
        """Always."""
        return True


class SuccessiveHalving:
    """Asynchronous successive halving: at each rung only the best 1/`factor` seen so far go on.

    Rungs lie at grace, grace*factor, grace*factor**2, ... epochs. A trial is judged by its best score up to the rung.
    Source: Li 2020, A system for massively parallel hyperparameter tuning.
    """

    def __init__(self, *, max_epochs: int, mode: Mode, grace: int = 1, factor: int = 3) -> None:
        if grace < 1 or factor < 2:
            raise ConfigError(f"grace must be at least 1 and factor at least 2, but got {grace} and {factor}")
        self._sign = 1.0 if mode == "max" else -1.0
        self._factor = factor
        self._rungs: list[int] = []
        rung = grace
        while rung < max_epochs:
            self._rungs.append(rung)
            rung *= factor
        self._best: dict[str, float] = defaultdict(lambda: -math.inf)
        self._at_rung: dict[int, list[float]] = defaultdict(list)

    def goes_on(self, trial: str, epoch: int, score: float) -> bool:
        """Between rungs always; at a rung, if the score is among the best 1/`factor` that reached it."""
        if not math.isnan(score):
            self._best[trial] = max(self._best[trial], self._sign * score)
        if epoch not in self._rungs:
            return True
        reached = self._at_rung[epoch]
        reached.append(self._best[trial])
        survivors = max(1, len(reached) // self._factor)
        return self._best[trial] >= sorted(reached, reverse=True)[survivors - 1]


def make_scheduler(name: str, *, max_epochs: int, mode: Mode, grace: int | None = None, factor: int = 3) -> Scheduler:
    """A scheduler by name. Raises ConfigError for an unknown one.

    grace: epochs before a trial may be stopped; None is about max_epochs / factor**2, which gives two rungs.
    """
    if name == "none":
        return TrainToTheEnd()
    if name == "asha":
        grace = grace or math.ceil(max_epochs / factor**2)
        return SuccessiveHalving(max_epochs=max_epochs, mode=mode, grace=grace, factor=factor)
    raise ConfigError(f"no scheduler is called {name!r}; {suggest(name, SCHEDULERS)}")
