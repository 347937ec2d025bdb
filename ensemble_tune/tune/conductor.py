"""One stage's decisions, apart from whoever trains: what runs next, who goes on, what is written, what is kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ensemble_tune.storage import remove_partial
from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import GIVEN, EpochRecord, Mode, Status, TrialRecord, Worth, rank, trial_name
from ensemble_tune.tune.sampler import Sampler, derive_seed
from ensemble_tune.tune.scheduler import Scheduler
from ensemble_tune.tune.trial_folder import TrialFolder

_FLUSH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a stage wants."""

    stage: str
    metric: str
    mode: Mode = "max"
    trials: int = 0
    """How many trials the sampler proposes in all, those of earlier calls included; given ones come on top."""
    keep: int
    """How many of the best trials keep a checkpoint."""
    sampler: str = GIVEN
    """The sampler's name."""
    worth: Worth = "best"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """One trial to train: `params` hold the seed too."""

    trial: str
    number: int
    params: Mapping[str, Value]
    proposed: float = field(default_factory=time.time)
    """When it was handed out, in seconds since 1970."""


class Conductor:
    """Drives sampler, scheduler and ledger; asked and told by a runner, which alone knows where trials run."""

    def __init__(
        self,
        goal: Goal,
        *,
        sampler: Sampler,
        scheduler: Scheduler,
        ledger: Ledger,
        checkpoints: Path,
        points: Sequence[Mapping[str, Value]] = (),
        provenance: Mapping[str, str] | None = None,
        protected: frozenset[str] = frozenset(),
        belongs: Callable[[TrialRecord], bool] = lambda record: True,
        on_end: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        """checkpoints: the folder of all trial folders. points: parameters of given trials, which come before
        those that the sampler proposes. protected: trials whose checkpoint is never removed. belongs: whether a trial
        of the stage is this search's; no other is counted, or resumed. The ledger is open."""
        self.goal = goal
        self._sampler = sampler
        self._scheduler = scheduler
        self._ledger = ledger
        self.checkpoints = checkpoints
        self._points = deque(points)
        self._proposed = 0
        self._provenance = dict(provenance or {})
        self._protected = protected
        self._belongs = belongs
        self._on_end = on_end
        self._records: dict[str, TrialRecord] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._stopping: set[str] = set()
        self._waiting: deque[str] = deque()
        self._flushed = time.monotonic()
        remove_partial(checkpoints)
        self._take_up()

    def folder(self, trial: str) -> TrialFolder:
        """Where a trial keeps its checkpoints."""
        return TrialFolder(self.checkpoints / trial)

    def records(self) -> list[TrialRecord]:
        """Every trial of the stage so far, by number."""
        return sorted(self._records.values(), key=lambda record: record.number)

    @property
    def exhausted(self) -> bool:
        """Whether no trial is left to start; some may still run."""
        return not self._waiting and not self._points and self._proposed >= self.goal.trials

    def next(self) -> Assignment | None:
        """The next trial to start, interrupted ones first; None when none is left."""
        if self._waiting:
            return _assignment(self._records[self._waiting.popleft()])
        if self.exhausted:
            return None
        number = max((record.number for record in self._records.values()), default=-1) + 1
        given = bool(self._points)
        params = dict(self._points.popleft() if given else self._sampler.propose(number))
        seed = int(params.pop("seed", derive_seed(self.goal.seed, f"trial-{number}")))
        record = TrialRecord(
            trial=trial_name(self.goal.stage, number),
            stage=self.goal.stage,
            number=number,
            status=Status.RUNNING,
            params=params,
            seed=seed,
            sampler=GIVEN if given else self.goal.sampler,
            started=datetime.now(UTC),
            provenance=self._provenance,
        )
        self._proposed += not given
        # Of a trial of this name that someone took out of the ledger.
        self.folder(record.trial).remove()
        self._ledger.drop_epochs_after(record, 0)
        self._put(record)
        self._flush()
        return _assignment(record)

    def epoch(self, row: EpochRecord) -> bool:
        """Takes an epoch's row; whether the trial trains on. A row of a replaced attempt changes nothing."""
        record = self._records[row.trial]
        if record.status is not Status.RUNNING or row.attempt < record.attempt or row.epoch in self._curves[row.trial]:
            return row.trial not in self._stopping and record.status is Status.RUNNING
        self._take_row(row)
        goes_on = self._scheduler.goes_on(row.trial, row.epoch, row.scores.get(self.goal.metric, float("nan")))
        if not goes_on:
            self._stopping.add(row.trial)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()
        return goes_on

    def ended(self, trial: str, error: str | None = None) -> None:
        """A trial has no more epochs: it reached its last, was stopped, or failed with `error`."""
        record = self._records[trial]
        if record.status is not Status.RUNNING:
            return
        status = Status.FAILED if error else Status.STOPPED if trial in self._stopping else Status.FINISHED
        record = replace(record, status=status, error=error, ended=datetime.now(UTC))
        self._put(record)
        self._sampler.observe(record, self._curves[trial])
        # First: a trial that the ledger calls running goes on from its last checkpoint.
        self._flush()
        self._retain(record)
        self._on_end(record)

    def _take_up(self) -> None:
        """Goes on where the ledger and the checkpoints say an earlier process ended."""
        for record in self._ledger.trials(self.goal.stage):
            self._records[record.trial] = record
            self._curves[record.trial] = {}
            self._proposed += record.sampler != GIVEN and self._belongs(record)
        rows = [row for row in self._ledger.epochs(self.goal.stage) if row.trial in self._records]
        for record in [r for r in self._records.values() if r.status is Status.RUNNING and self._belongs(r)]:
            rows = [row for row in rows if row.trial != record.trial] + self._recovered(record)
        for row in sorted(rows, key=lambda row: row.reported):
            score = row.scores.get(self.goal.metric, float("nan"))
            self._curves[row.trial][row.epoch] = score
            # Rows of two trials may have come in another order than they were reported: who went on had been let go on.
            goes_on = self._scheduler.goes_on(row.trial, row.epoch, score)
            if not goes_on and row.epoch == self._records[row.trial].epochs:
                self._stopping.add(row.trial)
        for record in self.records():
            if record.status is not Status.RUNNING:
                self._sampler.observe(record, self._curves[record.trial])
            elif not self._belongs(record):
                continue
            elif record.trial in self._stopping:
                self.ended(record.trial)
            else:
                self._waiting.append(record.trial)
        self._flush()
        self._retain(*[record for record in self.records() if record.status is not Status.RUNNING])

    def _recovered(self, record: TrialRecord) -> list[EpochRecord]:
        """An interrupted trial's rows, from the checkpoint that it will go on from; the ledger is made to agree."""
        checkpoint, rows = self.folder(record.trial).history()
        fresh = replace(record, epochs=0, best_epoch=None, score=None, scores={}, seconds=0.0)
        for row in rows:
            self._ledger.put_epoch(row)
            fresh = fresh.with_epoch(row, self.goal.metric, self.goal.mode, self.goal.worth)
        self._ledger.drop_epochs_after(record, checkpoint.epoch if checkpoint else 0)
        self._records[record.trial] = fresh
        self._ledger.put_trial(fresh)
        return rows

    def _take_row(self, row: EpochRecord) -> None:
        self._curves[row.trial][row.epoch] = row.scores.get(self.goal.metric, float("nan"))
        self._ledger.put_epoch(row)
        self._put(self._records[row.trial].with_epoch(row, self.goal.metric, self.goal.mode, self.goal.worth))

    def _put(self, record: TrialRecord) -> None:
        self._records[record.trial] = record
        self._curves.setdefault(record.trial, {})
        self._ledger.put_trial(record)

    def _flush(self) -> None:
        self._ledger.flush()
        self._flushed = time.monotonic()

    def _retain(self, *ended: TrialRecord) -> None:
        """Of ended trials, the checkpoint each is worth; of a trial outside the best `keep`, none."""
        for record in ended:
            if record.best_epoch is not None:
                self.folder(record.trial).keep({record.best_epoch})
                self.folder(record.trial).clear_partial()
        ranked = [r for r in rank(self.records(), self.goal.mode) if r.status is not Status.RUNNING]
        losers = [r for r in ranked[self.goal.keep :] if r.trial not in self._protected]
        worthless = [
            r for r in self.records() if r.status is Status.FAILED or (r.best_epoch is None and r.ended is not None)
        ]
        for loser in (*losers, *worthless):
            self.folder(loser.trial).remove()


def _assignment(record: TrialRecord) -> Assignment:
    return Assignment(record.trial, record.number, {**record.params, "seed": record.seed})
