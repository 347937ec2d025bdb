"""One stage on disk: decisions, the ledger that remembers them, and the checkpoints that back it."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ensemble_tune.errors import StorageError
from ensemble_tune.storage import Location, names_in, remove_partial
from ensemble_tune.trial import Value
from ensemble_tune.tune.aim import join_objectives
from ensemble_tune.tune.budget import Budget, Meter
from ensemble_tune.tune.decisions import Decisions, Goal
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import GIVEN, EpochRecord, Status, TrialRecord
from ensemble_tune.tune.sampler import Sampler
from ensemble_tune.tune.scheduler import Decision, Scheduler
from ensemble_tune.tune.session import SessionRecord, usage_of
from ensemble_tune.tune.trial_folder import TrialFolder, unwritten
from ensemble_tune.tune.watcher import Watcher

log = logging.getLogger(__name__)

_RETAIN_SECONDS = 1.0
"""How long checkpoints are removed in one go while trials wait: in an object store each is several requests."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One trial to train."""

    record: TrialRecord
    """As it was when it was handed out."""
    proposed: float = field(default_factory=time.time)
    """When that was, in seconds since 1970."""

    @property
    def trial(self) -> str:
        """Its name."""
        return self.record.trial

    @property
    def params(self) -> Mapping[str, Value]:
        """Its parameters, the seed among them."""
        return {**self.record.params, "seed": self.record.seed}


class Conductor:
    """Asked and told by a runner, which alone knows where trials run; whatever it says survives its process."""

    def __init__(
        self,
        goal: Goal,
        *,
        sampler: Sampler,
        scheduler: Scheduler,
        ledger: Ledger,
        checkpoints: Location,
        trials: int = 0,
        max_epochs: int | None = None,
        budget: Budget | None = None,
        points: Sequence[Mapping[str, Value]] = (),
        provenance: Mapping[str, str] | None = None,
        protected: frozenset[str] = frozenset(),
        belongs: Callable[[TrialRecord], bool] = lambda record: True,
        on_start: Callable[[int], None] = lambda places: None,
        on_end: Callable[[TrialRecord], None] = lambda record: None,
        watcher: Watcher | None = None,
    ) -> None:
        """checkpoints: the folder of all trial folders. protected: trials whose checkpoint is never removed. on_start:
        called with the number of trials that will run side by side. on_end: called with every trial that ends. watcher:
        told of trials and time; whoever runs the conductor tells it of the beginning and the end. The others are those
        of `Decisions`. The ledger is open."""
        self.goal = goal
        self.checkpoints = checkpoints
        self._ledger = ledger
        self._protected = protected
        self._belongs = belongs
        self._on_start = on_start
        self._on_end = on_end
        self._watcher = watcher or Watcher()
        self._ended: list[TrialRecord] = []
        """Trials whose end is not on disk yet, and whose checkpoints are therefore all there."""
        self._kept: list[tuple[float, int, str]] = []
        """The best trials that ended, the best first: loss, number, name."""
        now = datetime.now(UTC)
        before = ledger.sessions(goal.stage)
        self.meter = Meter(usage=usage_of(before), since=now.timestamp())
        self.session = SessionRecord(
            stage=goal.stage,
            session=max((session.session for session in before), default=0) + 1,
            started=now,
            updated=now,
            slots=self.meter.places,
            host=socket.gethostname(),
            pid=os.getpid(),
            goal=_told(goal, budget),
        )
        """What the ledger says of this call."""
        self.before = replace(self.meter.usage)
        """What earlier calls have used."""
        self._decisions = Decisions(
            goal,
            sampler=sampler,
            scheduler=scheduler,
            trials=trials,
            max_epochs=max_epochs,
            budget=budget,
            meter=self.meter,
            points=points,
            provenance=provenance,
            belongs=belongs,
            changed=self._write,
        )
        remove_partial(checkpoints)
        self._take_up()
        self.session = replace(self.session, limit=self._limits(trials + len(points), max_epochs, budget))
        self._decisions.look(now.timestamp())  # an earlier call may have used the budget up

    def folder(self, trial: str) -> TrialFolder:
        """Where a trial keeps its checkpoints."""
        return TrialFolder(self.checkpoints / trial)

    def records(self) -> list[TrialRecord]:
        """Every trial of the stage so far, by number."""
        return sorted(self._decisions.records.values(), key=lambda record: record.number)

    @property
    def reason(self) -> str | None:
        """Why the search ends; None while there is something to do. Trials may still run: see `interrupt`."""
        return self._decisions.reason

    @property
    def done(self) -> bool:
        """Whether every trial has ended, or waits for another call."""
        return self._decisions.done

    def start(self, *, places: int, nodes: int, gpus: float) -> None:
        """Called before the first trial; places: how many run side by side. nodes: machines. gpus: a trial's share."""
        self.meter.places, self.meter.nodes, self.meter.gpus = places, nodes, gpus
        self._on_start(places)

    def next(self) -> Assignment | None:
        """The next trial to start, interrupted and promoted ones first; None when there is none for now."""
        record = self._decisions.next()
        if record is None:
            return None
        if not record.epochs:
            # Of a trial of this name whose row was lost with its process: its checkpoints go, and as the numbers of
            # its attempts stay, a worker that still trains it is fenced off.
            self.folder(record.trial).clear()
            self._ledger.drop_epochs_after(record, 0)
        return Assignment(record)

    def epoch(self, row: EpochRecord) -> Decision:
        """Takes an epoch's row; what becomes of the trial. A row of a replaced attempt changes nothing."""
        if self._decisions.is_new(row):
            self._ledger.put_epoch(row)
        return self._decisions.epoch(row)

    def ended(self, trial: str, status: Status | None = None, error: str | None = None) -> None:
        """A trial trains no further; status, error: what went wrong and why, None where nothing did."""
        self._decisions.end(trial, status=status, error=error)

    def note_gpu(self, trial: str, figures: Mapping[str, float]) -> None:
        """Takes what became known of a trial's memory."""
        self._decisions.note_gpu(trial, figures)

    def look(self) -> None:
        """Called several times a second: counts the time, and writes what has happened every few seconds."""
        now = datetime.now(UTC)
        self._decisions.look(now.timestamp())
        self._tell_session(now)
        if self._ledger.flush_if_due():
            self._retain(_RETAIN_SECONDS)

    def _flush(self) -> None:
        if self._ledger.flush():
            self._retain()

    def interrupt(self, reason: str) -> None:
        """Ends the search for now: trials that run pause where their last checkpoint is."""
        self._decisions.interrupt(reason)

    def close(self) -> None:
        """Writes all that happened, and why the search ended."""
        now = datetime.now(UTC)
        self._decisions.look(now.timestamp())
        self.session = replace(self.session, ended=now, reason=self._decisions.reason)
        self._tell_session(now)
        self._flush()

    def _take_up(self) -> None:
        """Goes on where the ledger and the checkpoints say an earlier process ended."""
        stage = self.goal.stage
        records = {record.trial: record for record in self._ledger.trials(stage)}
        for record in unwritten(self.checkpoints, stage, records):
            self._ledger.put_trial(record)
            records[record.trial] = record
        rows = [row for row in self._ledger.epochs(stage) if row.trial in records]
        unfinished = {name for name, r in records.items() if not r.status.is_end and self._belongs(r)}
        rows = [row for row in rows if row.trial not in unfinished]
        for name in sorted(unfinished):
            records[name], own = self._recovered(records[name])
            rows += own
        self._decisions.take_up(list(records.values()), rows)
        there = set(names_in(self.checkpoints))
        ended = [record for record in records.values() if record.status.is_end]
        for record in ended:
            if record.trial in there:
                self._ended.append(record)
            else:  # what it had was removed; in a store it takes long to look for it
                self._rank(record)
        del self._kept[self.goal.keep :]
        self._flush()

    def _recovered(self, record: TrialRecord) -> tuple[TrialRecord, list[EpochRecord]]:
        """An interrupted trial with its rows, from the checkpoint that it will go on from; the ledger is made to
        agree."""
        checkpoint, rows = self.folder(record.trial).history()
        fresh = replace(record, epochs=0, best_epoch=None, score=None, scores={}, seconds=0.0)
        for row in rows:
            self._ledger.put_epoch(row)
            fresh = fresh.with_epoch(row, self.goal.metric, self.goal.mode, self.goal.worth)
        self._ledger.drop_epochs_after(record, checkpoint.epoch if checkpoint else 0)
        self._ledger.put_trial(fresh)
        return fresh, rows

    def _write(self, record: TrialRecord) -> None:
        self._ledger.put_trial(record)
        self._watcher.trial(record)
        if record.status.is_end:
            self._ended.append(record)
            self._on_end(record)

    def _tell_session(self, now: datetime) -> None:
        used = self.meter.usage
        in_use = self.meter.gpus_in_use(self._decisions.live)
        self.session = replace(
            self.session,
            updated=now,
            slots=self.meter.places,
            node_hours=used.node_hours - self.before.node_hours,
            gpu_hours=used.gpu_hours - self.before.gpu_hours,
            use={"nodes": self.meter.nodes, "gpus": in_use, "devices": self.meter.devices},
        )
        self._ledger.put_session(self.session)
        self._watcher.session(self.session)

    def _retain(self, seconds: float = math.inf) -> None:
        """Of trials that ended, the checkpoint each is worth; of one outside the best `keep` of this search, none.

        Only once their end is on disk: a trial that the ledger calls running goes on from its last checkpoint. seconds:
        after these no further trial is begun with; the next flush goes on.
        """
        until = time.monotonic() + seconds
        while self._ended and time.monotonic() <= until:
            record = self._ended[-1]
            folder = self.folder(record.trial)
            try:
                if record.best_epoch is None or record.status.went_wrong:
                    folder.remove()
                else:
                    folder.keep({record.best_epoch})
                    folder.clear_partial()
                    folder.forget()
            except StorageError as error:
                log.warning("%s; it is tried again", error)
                return
            self._ended.pop()
            self._rank(record)
        while len(self._kept) > self.goal.keep and time.monotonic() <= until:
            _, _, name = self._kept.pop()
            if name not in self._protected:
                with suppress(StorageError):  # it is worth no more than its space
                    self.folder(name).remove()

    def _rank(self, record: TrialRecord) -> None:
        """Gives a trial that ended its place among those of this search."""
        if record.score is not None and not record.status.went_wrong and self._belongs(record):
            loss = -record.score if self.goal.mode == "max" else record.score
            insort(self._kept, (loss, record.number, record.trial))

    def _limits(self, to_come: int, max_epochs: int | None, budget: Budget | None) -> dict[str, float]:
        """What there is of trials, epochs, time and money; to_come: trials that the sampler proposes, in all, and given
        ones that are not there yet."""
        there = sum(r.sampler == GIVEN or not self._belongs(r) for r in self._decisions.records.values())
        epochs = {} if max_epochs is None else {"epochs": float(max_epochs)}
        return {"trials": float(there + to_come), **epochs, **(budget or Budget()).limits()}


def _told(goal: Goal, budget: Budget | None) -> dict[str, str]:
    """What a search is after, in words."""
    target = None if budget is None else budget.target
    told = {"metric": goal.metric, "mode": goal.mode, **({} if target is None else {"target": str(target)})}
    return {**told, "objectives": join_objectives(goal.objectives)} if goal.also else told
