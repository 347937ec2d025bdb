"""A stage in the middle of its search, as records written by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ensemble_tune.snapshot import Snapshot
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOAL = {"metric": "miou", "mode": "max"}
RUNS = {"nodes": 1.0, "gpus": 0.0, "devices": 0.0}


def trial(number: int, status: Status = Status.RUNNING, **values: Any) -> TrialRecord:
    """Its encoder is its own; it ended `number` minutes after the begin, if it has."""
    params = {"architecture": "unet", "encoder": f"resnet{18 + 16 * number}", "epochs": 30}
    ended = BEGIN + timedelta(minutes=number) if status.is_end else None
    known = {"params": params, "seed": number, "started": BEGIN, "ended": ended}
    name = f"base-{number:04d}"
    return TrialRecord(trial=name, stage="base", number=number, status=status, **(known | values))


def trained(number: int, status: Status, epochs: int, score: float) -> TrialRecord:
    """Ten seconds an epoch, the last one the best."""
    return trial(number, status, epochs=epochs, best_epoch=epochs, score=score, seconds=10.0 * epochs)


def session(**values: Any) -> SessionRecord:
    """Two slots, ten minutes after its begin."""
    known: dict[str, Any] = {
        "stage": "base",
        "session": 1,
        "started": BEGIN,
        "updated": BEGIN + timedelta(minutes=10),
        "slots": 2,
        "host": "host",
        "pid": 1234,
        "goal": GOAL,
        "limit": {"trials": 8.0, "epochs": 30.0},
        "use": RUNS,
    }
    return SessionRecord(**(known | values))


def snapshot(*records: TrialRecord, minutes: float = 10.0, before: Usage | None = None, **of_session: Any) -> Snapshot:
    """So many minutes after the begin."""
    now = BEGIN + timedelta(minutes=minutes)
    return Snapshot(session=session(**of_session), records=records, before=before or Usage(), now=now)


STAGE = (
    trained(0, Status.FINISHED, 30, 0.45),
    trained(1, Status.STOPPED, 10, 0.2),
    trial(2, Status.FAILED, error="the loss is nan"),
    trained(3, Status.PAUSED, 10, 0.3),
    trained(4, Status.RUNNING, 15, 0.41),
    trial(5),
    trial(6),
)
"""One of each kind; the last one waits for a place."""
