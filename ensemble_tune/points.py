"""Trains given configs through the same runner as a search: fold trainings and the final ensemble's members."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ensemble_tune.errors import RunError
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.conductor import Goal
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.search import Search


def train_points(
    settings: Settings,
    *,
    stage: str,
    trial: Trial,
    points: Sequence[Mapping[str, Value]],
    data_digest: str,
    again: bool = False,
    keep: int = sys.maxsize,
) -> list[TrialRecord]:
    """Trains each point to its last epoch, side by side; returns their records in the order of the points.

    again: whether a point that was finished before is trained once more. keep: how many keep their weights. Raises
    RunError where a training failed.
    """
    if not points:
        return []
    result = Search(
        trial=trial,
        goal=Goal(stage=stage, metric=METRIC, keep=keep, worth="last", seed=settings.seed),
        out=settings.out,
        max_epochs=1,
        points=points,
        again=again,
        resources=settings.resources,
        address=settings.address,
        provenance={"data": data_digest},
        on_end=settings.on_trial,
    ).run()
    return [_ended(point, result.records) for point in points]


def _ended(point: Mapping[str, Value], records: Sequence[TrialRecord]) -> TrialRecord:
    """The last trial of a point. Raises RunError if it failed."""
    params = {name: value for name, value in point.items() if name != "seed"}
    last = [record for record in records if dict(record.params) == params][-1]
    if last.status is not Status.FINISHED:
        raise RunError(f"{last.trial} failed: {last.error}; mend the cause, then run the same command again")
    return last
