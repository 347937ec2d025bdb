"""A run folder whose ledger is written by hand, for what only reads it: no Ray, no torch."""

from datetime import UTC, datetime
from pathlib import Path

from tiles import SIZE

from ensemble_tune.trial import Value
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord

MEMBERS = "base-0001,base-0000"


def base(
    number: int, score: float | None, *, status: Status = Status.FINISHED, error: str | None = None
) -> TrialRecord:
    params: dict[str, Value] = {
        "architecture": "linknet",
        "encoder": f"resnet{18 + 16 * number}",
        "size": SIZE,
        "epochs": 4,
        "learning_rate": 0.0123456,
    }
    return _record("base", number, score, params, status=status, error=error)


def meta(number: int, score: float | None, kind: str, bases: str = "all", **params: Value) -> TrialRecord:
    own: dict[str, Value] = {"kind": kind, "bases": bases, "members": MEMBERS, "size": SIZE, "epochs": 4, "width": 16}
    given: dict[str, Value] = {"deploy": "folds", "stacking": "out-of-fold", "folds": 5}
    return _record("meta", number, score, {**own, **given, **params})


def _record(
    stage: str,
    number: int,
    score: float | None,
    params: dict[str, Value],
    *,
    status: Status = Status.FINISHED,
    error: str | None = None,
) -> TrialRecord:
    scores = (
        {} if score is None else {"miou": score, "small_miou": score / 2, "iou.car": 0.25, "iou.pole": float("nan")}
    )
    return TrialRecord(
        trial=f"{stage}-{number:04d}",
        stage=stage,
        number=number,
        status=status,
        params=params,
        seed=100 + number,
        started=datetime.now(UTC),
        ended=datetime.now(UTC),
        epochs=4,
        best_epoch=None if score is None else 3,
        score=score,
        scores=scores,
        seconds=12.3,
        error=error,
        provenance={"data": "c0ffee", "torch": "2.14"},
    )


def write_run(out: Path, *records: TrialRecord) -> Path:
    """Writes the ledger of a run, with a learning curve of 4 epochs for every trial that has a score."""
    ledger = Ledger(out / LEDGER)
    ledger.open()
    for record in records:
        ledger.put_trial(record)
        for epoch in range(1, 5) if record.score is not None else ():
            ledger.put_epoch(
                EpochRecord(
                    trial=record.trial,
                    stage=record.stage,
                    number=record.number,
                    attempt=1,
                    epoch=epoch,
                    scores={"miou": (record.score or 0) * (epoch / 3 if epoch < 4 else 0.9), "train_loss": 1 / epoch},
                    seconds={"train": 2.0, "evaluate": 1.0},
                    reported=datetime.now(UTC),
                )
            )
    ledger.close()
    return out


def usual_run(out: Path) -> Path:
    """Two base trials and a failed one; their mean, each alone, and a trained fusion, which is best."""
    return write_run(
        out,
        base(0, 0.4),
        base(1, 0.5),
        base(2, None, status=Status.FAILED, error="a step must fit [/memory], but [red] does not"),
        meta(0, 0.52, "mean", "1+2"),
        meta(1, 0.5, "mean", "1"),
        meta(2, 0.4, "mean", "2"),
        meta(3, 0.6, "plain", "all"),
    )
