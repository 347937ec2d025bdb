"""What is known of one stage of a run at a moment, and what follows from it: the source of every screen.

A running command and `ensemble-tune watch` make it of the same records, so that both show the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import Mode, Status, TrialRecord, rank
from ensemble_tune.tune.session import SessionRecord
from ensemble_tune.tune.watcher import Watcher

UNBOUNDED_TRIALS = 100_000
"""So many trials, or more, are no limit that anyone meets: what `run --hours` asks for."""

_FAR = 100 * 365 * 24 * 3600.0
"""Seconds ahead up to which an end is expected: a date has no year above 9999, a limit of hours has no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A limit of time or money."""

    name: str
    """hours, gpu_hours or cost."""
    limit: float
    used: float
    """By all calls on the stage; never above the limit."""

    @property
    def left(self) -> float:
        """What may still be used."""
        return self.limit - self.used


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One stage of a run at a moment."""

    session: SessionRecord
    """The call that is shown."""
    records: tuple[TrialRecord, ...]
    """All trials of the stage, by number."""
    before: Usage
    """What earlier calls on the stage have used."""
    now: datetime
    """In UTC."""

    @property
    def counts(self) -> Counter[Status]:
        """Trials by where they stand."""
        return Counter(record.status for record in self.records)

    @property
    def trials(self) -> int | None:
        """How many the stage has in the end, if nothing ends it earlier; None where that is not bounded, or known."""
        limit = self.session.limit.get("trials", math.inf)
        return int(limit) if limit < UNBOUNDED_TRIALS else None

    @property
    def metric(self) -> str:
        """The score that is made better."""
        return self.session.goal.get("metric", "score")

    @property
    def mode(self) -> Mode:
        """Which way."""
        return cast(Mode, self.session.goal.get("mode", "max"))

    @property
    def best(self) -> TrialRecord | None:
        """The best trial so far, one that runs included."""
        return next(iter(rank(self.records, self.mode)), None)

    @property
    def live(self) -> list[TrialRecord]:
        """The trials that run, and those that wait for a place."""
        return [record for record in self.records if record.status is Status.RUNNING]

    @property
    def waiting(self) -> int:
        """How many of those wait: one is handed out before its place is free."""
        return max(0, len(self.live) - self.session.slots) if self.session.use else 0

    @property
    def running(self) -> list[TrialRecord]:
        """The trials that run. Of those without any epoch the last ones wait; of others it is not known which."""
        live = self.live
        for record in [record for record in reversed(live) if not record.epochs][: self.waiting]:
            live.remove(record)
        return live

    @property
    def latest(self) -> list[TrialRecord]:
        """The trials that ended in this call, the last one first."""
        ended = [record for record in self.records if record.ended and record.ended >= self.session.started]
        return sorted(ended, key=lambda record: (record.ended, record.number), reverse=True)

    def epochs_of(self, record: TrialRecord) -> int | None:
        """How many epochs a trial has if nobody stops it; None where that is not known."""
        for limit in (record.params.get("stop_epoch"), record.params.get("epochs"), self.session.limit.get("epochs")):
            if isinstance(limit, int | float) and limit >= 1:
                return max(int(limit), record.epochs)
        return None

    def telling_params(self, record: TrialRecord) -> dict[str, Any]:
        """A trial's parameters in which trials of the stage differ; all where none does."""
        own = record.params
        differ = [name for name in own if any(other.params.get(name) != own[name] for other in self.records)]
        return {name: own[name] for name in differ or own}

    @property
    def elapsed(self) -> float:
        """Seconds since this call began, until it ended."""
        return max(0.0, ((self.session.ended or self.now) - self.session.started).total_seconds())

    @property
    def silence(self) -> float:
        """Seconds without a sign of life; 0 of a call that has ended."""
        return 0.0 if self.session.ended else max(0.0, (self.now - self.session.updated).total_seconds())

    @property
    def budget(self) -> list[Left]:
        """The limits of time and money."""
        limit, session = self.session.limit, self.session
        used = {
            "hours": self.before.hours + self.elapsed / 3600,
            "gpu_hours": self.before.gpu_hours + session.gpu_hours,
            "cost": (self.before.node_hours + session.node_hours) * limit.get("price", 0.0),
        }
        return [
            Left(name=name, limit=limit[name], used=min(limit[name], spent))
            for name, spent in used.items()
            if name in limit
        ]

    @property
    def seconds_left(self) -> float | None:
        """About how long it goes on, by what trials have taken and by what may be used; None while nothing is known.

        A target, or patience, may end it earlier.
        """
        if self.session.ended:
            return None
        use = self.session.use
        an_hour = {
            "hours": 1.0,
            "gpu_hours": use.get("gpus", 0.0),
            "cost": use.get("nodes", 0.0) * self.session.limit.get("price", 0.0),
        }
        ends = [each.left / an_hour[each.name] * 3600 for each in self.budget if an_hour[each.name] > 0]
        work = self._work_left()
        if work is not None:
            ends.append(work / max(1, self.session.slots))
        return min(ends, default=None)

    def _work_left(self) -> float | None:
        """Seconds of one worker: trials to come take as long as those that have ended or paused have taken so far."""
        trained = [record for record in self.records if record.epochs and record.seconds]
        if self.trials is None or not trained:
            return None
        an_epoch = sum(record.seconds for record in trained) / sum(record.epochs for record in trained)
        left = [record.seconds for record in trained if record.status is not Status.RUNNING]
        longest = max((self.epochs_of(record) or record.epochs) for record in trained) * an_epoch
        each = sum(left) / len(left) if left else longest
        live = sum(max(each - record.seconds, an_epoch) for record in self.live)
        return live + each * max(0, self.trials - len(self.records))

    @property
    def expected_end(self) -> datetime | None:
        """When it ends, about; in UTC. None where that is not known, or nobody will see it."""
        left = self.seconds_left
        return None if left is None or left > _FAR else self.now + timedelta(seconds=left)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it: what is not known is null."""
        session, best, end = self.session, self.best, self.expected_end
        return {
            "stage": session.stage,
            "session": session.session,
            "started": session.started.isoformat(),
            "ended": session.ended.isoformat() if session.ended else None,
            "reason": session.reason,
            "elapsed_seconds": round(self.elapsed, 1),
            "expected_end": end.isoformat() if end else None,
            "trials": {"in_all": self.trials, **{status.value: self.counts[status] for status in Status}},
            "best": trial_to_json(best) if best else None,
            "live": [trial_to_json(record) for record in self.live],
            "slots": session.slots if session.use else None,
            "waiting": self.waiting,
            "gpus": {"in_use": session.use.get("gpus", 0.0), "in_all": session.use.get("devices", 0.0)},
            "budget": {each.name: {"limit": each.limit, "used": each.used} for each in self.budget},
        }


def trial_to_json(record: TrialRecord) -> dict[str, Any]:
    """A trial as JSON can hold it: nan becomes null."""
    return {
        "trial": record.trial,
        "stage": record.stage,
        "number": record.number,
        "status": record.status.value,
        "score": record.score,
        "best_epoch": record.best_epoch,
        "epochs": record.epochs,
        "seconds": round(record.seconds, 3),
        "params": dict(record.params),
        "seed": record.seed,
        "scores": {name: None if math.isnan(score) else score for name, score in record.scores.items()},
        "error": record.error,
        "started": record.started.isoformat(),
        "ended": record.ended.isoformat() if record.ended else None,
    }


class Follower(Watcher):
    """Keeps what it is told of the stage that is searched now, or was last."""

    def __init__(self) -> None:
        self._session: SessionRecord | None = None
        self._records: dict[str, TrialRecord] = {}
        self._before = Usage()
        self.goes_on = False
        """Whether a stage is searched now."""

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        """Takes the place of the stage before."""
        self._records = {record.trial: record for record in records}
        self._before = before
        self._session, self.goes_on = session, True

    def trial(self, record: TrialRecord) -> None:
        """Of the same stage."""
        self._records[record.trial] = record

    def session(self, session: SessionRecord) -> None:
        """The same one, later."""
        self._session = session

    def ends(self, session: SessionRecord) -> None:
        """What was told stays until another stage begins."""
        self._session, self.goes_on = session, False

    def snapshot(self) -> Snapshot | None:
        """As of now; None before any stage has begun."""
        if self._session is None:
            return None
        records = sorted(self._records.copy().values(), key=lambda record: record.number)
        return Snapshot(session=self._session, records=tuple(records), before=self._before, now=datetime.now(UTC))
