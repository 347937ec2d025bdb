"""Trains given configs through the same runner as a search: fold trainings and the final ensemble's members."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from ensemble_tune.errors import RunError
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.search import Search

Point = Mapping[str, Value]


def train_points(
    settings: Settings,
    *,
    stage: str,
    trial: Trial,
    points: Sequence[Point],
    provenance: Mapping[str, str],
    done: Callable[[Point, bool], bool] = lambda point, finished: finished,
    keep: int = sys.maxsize,
    must: bool = True,
    prepare: Callable[[], None] = lambda: None,
) -> list[TrialRecord]:
    """Trains points to their last epochs, side by side; returns the record of each that has one, in their order.

    done: whether a point needs no training, given whether a trial of it has finished; one that was interrupted goes on
    in any case. provenance: what tells these frames from others, whose trials are refused by a RunError. keep: how many
    keep their weights. must: whether each has to end well; then RunError is raised where one failed. prepare: called
    before the first one is trained.
    """
    records = Ledger(settings.out / LEDGER).trials(stage)

    def has(point: Point, *statuses: Status) -> bool:
        return any(record.status in statuses and record.is_of(point) for record in records)

    unfinished = (Status.RUNNING, Status.PAUSED)
    wanted = [p for p in points if has(p, *unfinished) or not done(p, has(p, Status.FINISHED))]
    search = Search(
        trial=trial,
        metric=METRIC,
        stage=stage,
        keep=keep,
        worth="last",
        seed=settings.seed,
        out=settings.out,
        max_epochs=1,
        points=wanted or points,
        again=True,
        belongs=lambda record: any(record.is_of(point) for point in wanted),
        workers=settings.workers,
        provenance=provenance,
        on_end=settings.on_trial,
        watcher=settings.watcher,
        prepare=prepare,
    )
    if wanted:
        records = search.run().records
    else:  # what is there already must be of these frames too
        search.check()
    for point in wanted if must else ():
        _refuse_failed(point, records)
    finished = [record for record in records if record.status is Status.FINISHED]
    return [own[-1] for point in points if (own := [record for record in finished if record.is_of(point)])]


def _refuse_failed(point: Point, records: Sequence[TrialRecord]) -> None:
    """Raises RunError where the last trial of a point failed."""
    last = [record for record in records if record.is_of(point)][-1]
    if last.status is not Status.FINISHED:
        raise RunError(f"{last.trial} failed: {last.error}; mend the cause, then run the same command again")
