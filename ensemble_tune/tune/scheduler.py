"""Schedulers decide who trains on. They know nothing of Ray: a search, a simulation and a test drive them alike."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import defaultdict
from enum import StrEnum
from typing import Protocol

from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.tune.record import Mode

SCHEDULERS = ("none", "asha", "asha-promote", "median")


class Decision(StrEnum):
    """What becomes of a trial after an epoch."""

    GO_ON = "go on"
    PAUSE = "pause"
    """It gives its place away and waits, with its checkpoint, to be promoted."""
    STOP = "stop"


class Scheduler(Protocol):
    """Sees every epoch's score once, in the order in which they happened."""

    def judge(self, trial: str, epoch: int, score: float) -> Decision:
        """What becomes of the trial after this epoch; `score` may be nan."""

    def promote(self, *, last: bool = False) -> str | None:
        """A paused trial that trains on from now on, if one is worth it. last: nothing else is left to train."""

    def trains_on(self, trial: str) -> None:
        """A trial that was told to pause trains on all the same: a search that is taken up finds it further on."""

    def drop(self, trial: str, *, failed: bool = False) -> None:
        """A trial has ended and is never promoted; what it showed still counts. failed: it will never be finished."""


class _NeverPauses:
    """What a scheduler that pauses nobody does about paused trials."""

    def promote(self, *, last: bool = False) -> str | None:
        """Nobody waits."""
        return None

    def trains_on(self, trial: str) -> None:
        """Nothing to remember."""

    def drop(self, trial: str, *, failed: bool = False) -> None:
        """Nothing to remember."""


class TrainToTheEnd(_NeverPauses):
    """Stops no trial."""

    def judge(self, trial: str, epoch: int, score: float) -> Decision:
        """Always on."""
        return Decision.GO_ON


class SuccessiveHalving(_NeverPauses):
    """Asynchronous successive halving that stops: at each rung only the best 1/`factor` seen so far go on.

    A trial is judged by its best score up to the rung. Source: Li 2020, A system for massively parallel hyperparameter
    tuning, in the variant that never waits: who is not among the best on arrival is stopped.
    """

    def __init__(self, *, max_epochs: int, mode: Mode, grace: int = 1, factor: int = 3) -> None:
        self._factor = factor
        self._best = _Best(mode)
        self._rungs: dict[int, list[float]] = {rung: [] for rung in rungs(max_epochs, grace, factor)}

    def judge(self, trial: str, epoch: int, score: float) -> Decision:
        """Between rungs on; at a rung, on if the score is among the best 1/`factor` that reached it."""
        loss = self._best.loss(trial, score)
        reached = self._rungs.get(epoch)
        if reached is None:
            return Decision.GO_ON
        insort(reached, loss)
        better = bisect_left(reached, loss)
        return Decision.GO_ON if better < max(1, len(reached) // self._factor) else Decision.STOP


class PromotingHalving:
    """Asynchronous successive halving that promotes: a trial pauses at a rung until it is among its best 1/`factor`.

    Nobody is stopped for having come early: more trials that reach a rung may promote one that waits there. Higher
    rungs promote first. Source: Li 2020, algorithm 2.
    """

    def __init__(self, *, max_epochs: int, mode: Mode, grace: int = 1, factor: int = 3) -> None:
        self._best = _Best(mode)
        self._rungs = {rung: _Rung(factor) for rung in rungs(max_epochs, grace, factor)}
        self._at: dict[str, _Rung] = {}
        """Where each paused trial waits."""

    def judge(self, trial: str, epoch: int, score: float) -> Decision:
        """Between rungs on; at a rung, on if it may be promoted at once."""
        loss = self._best.loss(trial, score)
        rung = self._rungs.get(epoch)
        if rung is None:
            return Decision.GO_ON
        if rung.reached_by(trial, loss):
            return Decision.GO_ON
        rung.waits(trial, loss)
        self._at[trial] = rung
        return Decision.PAUSE

    def promote(self, *, last: bool = False) -> str | None:
        """The best that waits at the highest rung that promotes. last: where no rung does, the best at the highest."""
        downwards = list(reversed(self._rungs.values()))
        trial = next((t for rung in downwards if (t := rung.promotable()) is not None), None)
        if trial is None and last:
            # Too few trials for a third of them to be one: the search still trains its best to the end.
            rung = next((rung for rung in downwards if rung.promoted or rung.waiting), None)
            trial = rung.best(scored=True) if rung is not None and not rung.promoted else None
        if trial is not None:
            self.trains_on(trial)
        return trial

    def trains_on(self, trial: str) -> None:
        """It waits no more."""
        if (rung := self._at.pop(trial, None)) is not None:
            rung.leaves(trial)
            rung.promoted.add(trial)

    def drop(self, trial: str, *, failed: bool = False) -> None:
        """It waits no more, and was not promoted; one that failed was promoted for nothing."""
        if (rung := self._at.pop(trial, None)) is not None:
            rung.leaves(trial)
        if failed:
            for each in self._rungs.values():
                each.promoted.discard(trial)


class MedianStopping(_NeverPauses):
    """Stops a trial whose best score so far is below the median of the other trials' mean scores up to that epoch.

    From epoch `grace` on, and once `least` others have reached it. Source: Golovin 2017, Google Vizier.
    """

    def __init__(self, *, max_epochs: int, mode: Mode, grace: int = 1, least: int = 4) -> None:
        _check(grace, 2)
        self._max_epochs = max_epochs
        self._best = _Best(mode)
        self._grace = grace
        self._least = least
        self._sum: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)
        self._means: dict[int, list[float]] = defaultdict(list)
        """The mean loss of each trial up to an epoch, sorted."""

    def judge(self, trial: str, epoch: int, score: float) -> Decision:
        """Off if its best is worse than the median of the others' means."""
        best = self._best.loss(trial, score)
        if not math.isnan(score):
            self._sum[trial] += self._best.sign * score
            self._count[trial] += 1
        others = self._means[epoch]
        middle = others[len(others) // 2] if len(others) >= self._least else math.inf
        insort(others, self._sum[trial] / self._count[trial] if self._count[trial] else math.inf)
        return Decision.STOP if self._grace <= epoch < self._max_epochs and best > middle else Decision.GO_ON


class _Best:
    """Each trial's best score so far as a loss: lower is better, and no score is the worst."""

    def __init__(self, mode: Mode) -> None:
        self.sign = -1.0 if mode == "max" else 1.0
        self._loss: dict[str, float] = {}

    def loss(self, trial: str, score: float) -> float:
        """After one more score."""
        loss = min(self._loss.get(trial, math.inf), math.inf if math.isnan(score) else self.sign * score)
        self._loss[trial] = loss
        return loss


class _Rung:
    """Who reached a number of epochs, and who of them waits to go on."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._losses: list[float] = []
        self._queue: list[tuple[float, int, str]] = []
        self.waiting: dict[str, int] = {}
        """Who waits, with the place in the order of arrival."""
        self.promoted: set[str] = set()
        """Who has gone on from here, and has not failed since."""

    def reached_by(self, trial: str, loss: float) -> bool:
        """Counts one more trial; whether it is among the best, so that it need not wait."""
        insort(self._losses, loss)
        if best := self._among_best(loss):
            self.promoted.add(trial)
        return best

    def waits(self, trial: str, loss: float) -> None:
        """It joins those who wait."""
        self.waiting[trial] = len(self._losses)
        heapq.heappush(self._queue, (loss, len(self._losses), trial))

    def leaves(self, trial: str) -> None:
        """It waits no more; its place in the queue is skipped later."""
        self.waiting.pop(trial, None)

    def best(self, *, scored: bool = False) -> str | None:
        """The best that waits; scored: None if it has no score."""
        while self._queue and self.waiting.get(self._queue[0][2]) != self._queue[0][1]:
            heapq.heappop(self._queue)
        if not self._queue or (scored and self._queue[0][0] == math.inf):
            return None
        return self._queue[0][2]

    def promotable(self) -> str | None:
        """The best that waits, if it is among the best of all that came."""
        best = self.best()
        return best if best is not None and self._among_best(self._queue[0][0]) else None

    def _among_best(self, loss: float) -> bool:
        # Without a score nobody is promoted.
        return loss < math.inf and bisect_left(self._losses, loss) < len(self._losses) // self._factor


def rungs(max_epochs: int, grace: int, factor: int) -> list[int]:
    """The epochs at which halving judges: grace, then grace*factor, grace*factor**2, ... in the first two thirds.

    A rung further up would save little of what has been spent, and leave trials that are all but trained unfinished.
    """
    _check(grace, factor)
    found = [grace] if grace < max_epochs else []
    while found and 3 * (rung := found[-1] * factor) <= 2 * max_epochs:
        found.append(rung)
    return found


def make_scheduler(name: str, *, max_epochs: int, mode: Mode, grace: int | None = None, factor: int = 3) -> Scheduler:
    """A scheduler by name. Raises ConfigError for an unknown one, and for a grace or factor that makes no sense.

    grace: epochs before a trial may be stopped or paused; None is max_epochs / factor**3, rounded up, which gives
    three rungs.
    factor: one in so many goes on from a rung.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f"no scheduler is called {name!r}; {suggest(name, SCHEDULERS)}")
    grace = max(1, math.ceil(max_epochs / factor**3)) if grace is None and factor else grace or 0
    _check(grace, factor)
    if name == "none":
        return TrainToTheEnd()
    if name == "median":
        return MedianStopping(max_epochs=max_epochs, mode=mode, grace=grace)
    kind = SuccessiveHalving if name == "asha" else PromotingHalving
    return kind(max_epochs=max_epochs, mode=mode, grace=grace, factor=factor)


def _check(grace: int, factor: int) -> None:
    if grace < 1 or factor < 2:
        raise ConfigError(f"grace must be at least 1 and factor at least 2, but got {grace} and {factor}; try 1 and 3")
