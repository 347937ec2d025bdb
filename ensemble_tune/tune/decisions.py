"""One stage's decisions, apart from time, files and Ray: what runs next, who goes on, when it is enough.

A search on Tune and a simulation on recorded curves drive them alike: told the same, they decide the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ensemble_tune.trial import Value
from ensemble_tune.tune.budget import Budget, Meter, Progress
from ensemble_tune.tune.record import (
    GIVEN,
    EpochRecord,
    Mode,
    Objective,
    Status,
    TrialRecord,
    Worth,
    trial_name,
)
from ensemble_tune.tune.sampler import Sampler, SpaceUsedUpError, derive_seed
from ensemble_tune.tune.scheduler import Decision, Scheduler

ALL_ENDED = "all trials have ended"
"""Why a search ends that has done what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a stage wants."""

    stage: str
    metric: str
    mode: Mode = "max"
    also: tuple[Objective, ...] = ()
    """Further objectives; the scheduler follows the first, the sampler all."""
    keep: int
    """How many of the best trials keep a checkpoint."""
    sampler: str = GIVEN
    """The sampler's name."""
    worth: Worth = "best"
    seed: int = 0

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All of them, the first one first."""
        return (Objective(self.metric, self.mode), *self.also)


class Decisions:
    """Asked what to train, told what came of it."""

    def __init__(
        self,
        goal: Goal,
        *,
        sampler: Sampler,
        scheduler: Scheduler,
        trials: int = 0,
        max_epochs: int | None = None,
        budget: Budget | None = None,
        meter: Meter | None = None,
        points: Sequence[Mapping[str, Value]] = (),
        provenance: Mapping[str, str] | None = None,
        belongs: Callable[[TrialRecord], bool] = lambda record: True,
        changed: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        """trials: how many the sampler proposes in all, those of earlier calls included. max_epochs: how many a trial
        has, None where they differ. points: parameters of given trials, which come before those and on top. meter: what
        was used so far; without one time counts for nothing. belongs: whether a trial of the stage is this search's; no
        other is counted, or resumed. changed: called with every record that is new or has changed. Raises ConfigError
        for a budget that does not fit the goal."""
        self.goal = goal
        self.trials = trials
        self.meter = meter
        self.records: dict[str, TrialRecord] = {}
        """Every trial of the stage so far, by name."""
        self.reason: str | None = None
        """Why nothing is started any more; None while there is something to do."""
        self._max_epochs = max_epochs
        self._sampler = sampler
        self._scheduler = scheduler
        self._budget = budget or Budget()
        self._progress = Progress(self._budget, goal.objectives)
        self._points = deque(points)
        self._provenance = dict(provenance or {})
        self._belongs = belongs
        self._changed = changed
        self._curves: dict[str, dict[int, float]] = {}
        self._live: set[str] = set()
        """Trials that were handed out and have neither ended nor paused."""
        self._told: dict[str, Decision] = {}
        """Live trials that were told to stop or to pause, and have not yet."""
        self._early: set[str] = set()
        """Live trials that were told to pause, and promoted before they had."""
        self._waiting: deque[str] = deque()
        """Trials to go on with: interrupted ones, then promoted ones."""
        self._numbers = 0
        self._proposed = 0
        self._used_up = False

    @property
    def live(self) -> int:
        """How many trials run, or wait for a place."""
        return len(self._live)

    @property
    def done(self) -> bool:
        """Whether every trial has ended, or waits for another call."""
        return self.reason is not None and not self._live

    def take_up(self, records: Sequence[TrialRecord], rows: Sequence[EpochRecord], now: datetime | None = None) -> None:
        """Goes on where an earlier call ended; rows: all epochs of these trials. Before anything else."""
        for record in records:
            self.records[record.trial] = record
            self._curves[record.trial] = {}
            self._numbers = max(self._numbers, record.number + 1)
            self._proposed += record.sampler != GIVEN and self._belongs(record)
        own = {record.trial for record in records if self._belongs(record)}
        for row in sorted(rows, key=lambda row: row.reported):
            if row.trial in own:
                self._judge(row)
            elif row.trial in self.records:  # it teaches the sampler, and nothing else
                self._curves[row.trial][row.epoch] = row.scores.get(self.goal.metric, math.nan)
        for record in sorted(records, key=lambda record: record.number):
            self._sampler.observe(record, self._curves[record.trial])
            if record.trial not in own:
                continue
            if record.status is not Status.RUNNING:
                self._progress.left(record)
            if record.status.is_end:
                self._told.pop(record.trial, None)
                self._scheduler.drop(record.trial, failed=record.status.went_wrong)
            elif record.trial in self._told:
                self._leave(record, now)
            else:
                self._waiting.append(record.trial)
        self._settle(now)

    def next(self, now: datetime | None = None) -> TrialRecord | None:
        """The next trial to train, interrupted and promoted ones first; None when there is none for now."""
        self.look()
        if self.reason is not None:
            return None
        while not self._waiting and (trial := self._scheduler.promote()) is not None:
            # One that still holds its place goes on once it has given it away.
            (self._early.add if trial in self._live else self._waiting.append)(trial)
        record = self._resumed() if self._waiting else self._new(now or datetime.now(UTC))
        if record is None:
            self._settle(now)
            if self._waiting:
                record = self._resumed()
        return record

    def epoch(self, row: EpochRecord) -> Decision:
        """Takes an epoch's row. A row of a replaced attempt changes nothing."""
        record = self.records[row.trial]
        if row.trial not in self._live:
            return Decision.STOP
        if row.attempt >= record.attempt and row.epoch not in self._curves[row.trial]:
            self._put(record.with_epoch(row, self.goal.metric, self.goal.mode, self.goal.worth))
            self._judge(row)
        return self._told.get(row.trial, Decision.GO_ON)

    def is_new(self, row: EpochRecord) -> bool:
        """Whether `epoch` would take the row."""
        return (
            row.trial in self._live
            and row.attempt >= self.records[row.trial].attempt
            and row.epoch not in self._curves[row.trial]
        )

    def end(
        self, trial: str, *, status: Status | None = None, error: str | None = None, now: datetime | None = None
    ) -> None:
        """A trial trains no further: it reached its last epoch, was told to pause or stop, or failed.

        status, error: what went wrong and why; None where nothing did.
        """
        if trial not in self._live:
            return
        self._live.discard(trial)
        record = self.records[trial]
        if status is None:
            self._leave(record, now)
        else:
            self._told.pop(trial, None)
            self._end_as(record, status, error, now)
        if trial in self._early:
            self._early.discard(trial)
            if self.records[trial].status is Status.PAUSED:
                self._waiting.append(trial)
        self._settle(now)

    def note_gpu(self, trial: str, figures: Mapping[str, float]) -> None:
        """Takes what became known of a live trial's memory."""
        if trial in self._live:
            self._put(self.records[trial].with_gpu(figures))

    def look(self, now: float | None = None) -> None:
        """Finds out whether the budget is used up; now: in the meter's seconds, None where no time has passed."""
        if self.reason is None:
            self.reason = self._progress.reason
        if self.meter is not None and now is not None:
            usage = self.meter.advance(now, self.live)
            if self.reason is None:
                self.reason = self._budget.used_up(usage)

    def interrupt(self, reason: str) -> list[str]:
        """Ends the search for now: live trials pause, to go on in another call. Returns them."""
        self.reason = self.reason or reason
        paused = sorted(self._live)
        self._live.clear()
        for trial in paused:
            record = self.records[trial]
            if self._max_epochs is not None and record.epochs >= self._max_epochs:
                self._end_as(record, Status.FINISHED, None, None)
            else:
                self._put(replace(record, status=Status.PAUSED))
        return paused

    def _leave(self, record: TrialRecord, now: datetime | None = None) -> None:
        """A trial gives its place away, as it was told to, or because it reached its last epoch."""
        told = self._told.pop(record.trial, None)
        if told is Decision.PAUSE:
            self._put(replace(record, status=Status.PAUSED))
            self._sampler.observe(self.records[record.trial], self._curves[record.trial])
            self._progress.left(record)
        else:
            self._end_as(record, Status.STOPPED if told is Decision.STOP else Status.FINISHED, None, now)

    def _resumed(self) -> TrialRecord:
        record = replace(self.records[self._waiting.popleft()], status=Status.RUNNING)
        self._live.add(record.trial)
        self._put(record)
        return record

    def _new(self, now: datetime) -> TrialRecord | None:
        given = bool(self._points)
        if not given and (self._proposed >= self.trials or self._used_up):
            return None
        number = self._numbers
        try:
            params = dict(self._points.popleft() if given else self._sampler.propose(number))
        except SpaceUsedUpError:
            self._used_up = True
            return None
        seed = int(params.pop("seed", derive_seed(self.goal.seed, f"trial-{number}")))
        record = TrialRecord(
            trial=trial_name(self.goal.stage, number),
            stage=self.goal.stage,
            number=number,
            status=Status.RUNNING,
            params=params,
            seed=seed,
            sampler=GIVEN if given else self.goal.sampler,
            started=now,
            provenance=self._provenance,
        )
        self._numbers += 1
        self._proposed += not given
        self._live.add(record.trial)
        self._put(record)
        self._sampler.observe(record, {})  # so that it proposes no such point meanwhile, whoever proposed this one
        return record

    def _judge(self, row: EpochRecord) -> None:
        """What the scheduler says of an epoch."""
        score = row.scores.get(self.goal.metric, math.nan)
        self._curves[row.trial][row.epoch] = score
        self._progress.epoch(row.trial, row.scores)
        # Whatever it had been told after an earlier epoch, it has trained on since: rows of several trials may come in
        # another order than they were judged in, and an earlier call may have promoted it.
        if self._told.pop(row.trial, None) is Decision.PAUSE:
            self._scheduler.trains_on(row.trial)
        told = self._scheduler.judge(row.trial, row.epoch, score)
        if told is not Decision.GO_ON:
            self._told[row.trial] = told

    def _settle(self, now: datetime | None = None) -> None:
        """Once nothing runs and nothing can be started: promotes the best that waits, or ends the search."""
        if self.reason is not None or self._live or self._waiting or self._points:
            return
        if self._proposed < self.trials and not self._used_up:
            return
        if (trial := self._scheduler.promote() or self._scheduler.promote(last=True)) is not None:
            self._waiting.append(trial)
            return
        self.reason = "the space is used up" if self._used_up else ALL_ENDED
        for record in [r for r in self.records.values() if r.status is Status.PAUSED and self._belongs(r)]:
            self._end_as(record, Status.STOPPED, None, now)

    def _end_as(self, record: TrialRecord, status: Status, error: str | None, now: datetime | None) -> None:
        record = replace(record, status=status, error=error, ended=now or datetime.now(UTC))
        self._put(record)
        self._scheduler.drop(record.trial, failed=status.went_wrong)
        self._sampler.observe(record, self._curves[record.trial])
        self._progress.left(record)

    def _put(self, record: TrialRecord) -> None:
        self.records[record.trial] = record
        self._curves.setdefault(record.trial, {})
        self._changed(record)
