"""Records for tests: one call each, with what a test does not care about filled in."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord, trial_name

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def trial_record(number: int, *, stage: str = "base", status: Status = Status.FINISHED, **values: Any) -> TrialRecord:
    ended = None if status is Status.RUNNING else BEGIN + timedelta(hours=1)
    known: dict[str, Any] = {"params": {}, "seed": 1, "started": BEGIN, "ended": ended}
    name = trial_name(stage, number)
    return TrialRecord(trial=name, stage=stage, number=number, status=status, **(known | values))


def epoch_record(
    number: int, epoch: int, scores: Mapping[str, float] | None = None, *, stage: str = "base", attempt: int = 1
) -> EpochRecord:
    return EpochRecord(
        trial=trial_name(stage, number),
        stage=stage,
        number=number,
        attempt=attempt,
        epoch=epoch,
        scores={"miou": epoch / 10} if scores is None else scores,
        seconds={"train": 1.5},
        reported=BEGIN + timedelta(seconds=10 * epoch + number),
        worker="host/1",
    )
