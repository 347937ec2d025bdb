"""Runs a stage's decisions on learning curves under a virtual clock: a cluster's weeks in seconds.

Asked and told in the order in which Tune would ask and tell, so that decisions can be tried before they are paid for.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from ensemble_tune.errors import ConfigError, TrainingError
from ensemble_tune.tune.decisions import Decisions
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord, is_better
from ensemble_tune.tune.scheduler import Decision

Curves = Callable[[TrialRecord], Iterator[tuple[Mapping[str, float], float]]]
"""A trial's scores and seconds epoch by epoch, from epoch `record.epochs` + 1 on; TrainingError where it fails."""

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""What the virtual clock shows at 0 seconds."""


@dataclass(frozen=True, slots=True)
class Find:
    """A new best score."""

    seconds: float
    """Virtual time at which its epoch was reported."""
    epochs: int
    """Epochs that all trials had trained by then, its own included."""
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a simulated search came to."""

    records: list[TrialRecord]
    """Every trial of the stage, by number."""
    finds: list[Find]
    """The best score of any epoch so far, whenever it became better."""
    seconds: float
    """Virtual time from the begin to the end."""
    epochs: int
    """Epochs trained."""
    busy: float
    """The share of the slots' time in which they trained, in [0, 1]; a worker's start is no training."""
    reason: str | None
    """Why it ended."""


def simulate(
    decisions: Decisions,
    curves: Curves,
    *,
    slots: int,
    start: float = 0.0,
    between: float = 0.0,
    begin: float = 0.0,
    on_epoch: Callable[[EpochRecord], None] = lambda row: None,
) -> Simulation:
    """Trains until every trial has ended or the budget is used up. Raises ConfigError for less than one slot.

    start: seconds until a slot's worker is ready, once. between: seconds until a trial's first epoch begins on a ready
    worker; a promoted trial pays them again. begin: virtual time in seconds at which this call begins, for decisions
    that go on. on_epoch: called with every row before the decisions are told.
    A budget of time or money ends the search at the first epoch that ends beyond it; that one is lost, as are the
    others in progress.
    """
    if slots < 1:
        raise ConfigError(f"slots must be at least 1, but got {slots}; try 4")
    return _Simulator(decisions, curves, slots, start, between, begin, on_epoch).run()


@dataclass(slots=True, kw_only=True)
class _Training:
    """A trial on a slot."""

    record: TrialRecord
    """As it was handed out."""
    attempt: int
    slot: int
    curve: Iterator[tuple[Mapping[str, float], float]]
    epoch: int
    """The one in progress."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the epoch in progress will give."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the epoch in progress takes, by part."""


class _Simulator:
    """The virtual clock, the slots, and who trains on them."""

    def __init__(
        self,
        decisions: Decisions,
        curves: Curves,
        slots: int,
        start: float,
        between: float,
        begin: float,
        on_epoch: Callable[[EpochRecord], None],
    ) -> None:
        self._decisions = decisions
        self._curves = curves
        self._slots = slots
        self._start_seconds = start
        self._between = between
        self._begin = self._now = begin
        self._on_epoch = on_epoch
        self._free = list(reversed(range(slots)))
        """The last one is taken first: a slot whose worker is warm before a new one."""
        self._warm: set[int] = set()
        self._handed: deque[tuple[float, TrialRecord]] = deque()
        """Trials that wait for a slot, with the time since when."""
        self._events: list[tuple[float, int, _Training]] = []
        """When each epoch in progress ends; of equal times, the first that began."""
        self._order = count()
        self._finds: list[Find] = []
        self._epochs = 0
        self._busy = 0.0

    def run(self) -> Simulation:
        decisions = self._decisions
        decisions.look(self._now)
        self._fill()
        while self._events and decisions.reason is None:
            self._now, _, training = heapq.heappop(self._events)
            decisions.look(self._now)
            if decisions.reason is None:
                self._epoch_ends(training)
                decisions.look()
            if decisions.reason is None:
                self._fill()
        if decisions.reason is not None and decisions.live:
            decisions.interrupt(decisions.reason)
        seconds = self._now - self._begin
        return Simulation(
            records=sorted(decisions.records.values(), key=lambda record: record.number),
            finds=self._finds,
            seconds=seconds,
            epochs=self._epochs,
            busy=self._busy / (seconds * self._slots) if seconds else 0.0,
            reason=decisions.reason,
        )

    def _fill(self) -> None:
        """Takes trials while there are places, and one more: Tune has the next one ready before a place is free."""
        decisions, now = self._decisions, self._date()
        while True:
            while decisions.live <= self._slots and (record := decisions.next(now)) is not None:
                self._handed.append((self._now, record))
            if not self._handed or not self._free:
                return
            self._start(*self._handed.popleft())

    def _start(self, since: float, record: TrialRecord) -> None:
        """Gives a trial a slot."""
        slot = self._free.pop()
        start = 0.0 if slot in self._warm else self._start_seconds
        self._warm.add(slot)
        again = record.epochs > 0
        training = _Training(
            record=record,
            attempt=record.attempt + again,
            slot=slot,
            curve=self._curves(record),
            epoch=record.epochs,
        )
        self._train(training, {"wait": self._now - since, "start": start, "set_up": self._between})

    def _train(self, training: _Training, before: Mapping[str, float]) -> None:
        """Begins the next epoch; before: seconds by part that come first in it."""
        try:
            training.scores, seconds = next(training.curve)
        except StopIteration:
            self._leave(training)
        except TrainingError as error:
            self._leave(training, Status.FAILED, str(error))
        else:
            training.epoch += 1
            training.seconds = {**before, "train": seconds}
            ends = self._now + seconds + before.get("start", 0.0) + before.get("set_up", 0.0)
            heapq.heappush(self._events, (ends, next(self._order), training))

    def _epoch_ends(self, training: _Training) -> None:
        row = EpochRecord(
            trial=training.record.trial,
            stage=training.record.stage,
            number=training.record.number,
            attempt=training.attempt,
            epoch=training.epoch,
            scores=training.scores,
            seconds=training.seconds,
            reported=self._date(),
            worker=f"slot/{training.slot}",
        )
        self._epochs += 1
        self._busy += row.busy
        goal = self._decisions.goal
        score = row.scores.get(goal.metric, math.nan)
        if not math.isnan(score) and (not self._finds or is_better(score, self._finds[-1].score, goal.mode)):
            self._finds.append(Find(self._now, self._epochs, score))
        self._on_epoch(row)
        if self._decisions.epoch(row) is Decision.GO_ON:
            self._train(training, {})
        else:
            self._leave(training)

    def _leave(self, training: _Training, status: Status | None = None, error: str | None = None) -> None:
        """A trial gives its slot back."""
        self._free.append(training.slot)
        self._decisions.end(training.record.trial, status=status, error=error, now=self._date())

    def _date(self) -> datetime:
        return BEGIN + timedelta(seconds=self._now)
