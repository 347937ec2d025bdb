"""A larger run whose ledger is written by hand: trials of every status, on two slots, in two calls."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
NIGHT = timedelta(hours=12)
EPOCHS, SECONDS = 6, 10.0
STATUSES = (Status.FINISHED, Status.STOPPED, Status.FINISHED, Status.STOPPED, Status.FAILED, Status.FINISHED)


def searched_run(out: Path, trials: int = 24, *, epochs: int = EPOCHS, alive: bool = False) -> Path:
    """Base trials, whose learning rate alone matters: 1e-3 is best; the last one of them runs, the one before waits.

    The second half was trained by a second call, on the next morning; alive: which was heard of a moment ago. Every
    trial has milliseconds too.
    """
    found, sessions = searched_trials(STARTED, trials, epochs)
    if alive:
        found, sessions = searched_trials(STARTED + (datetime.now(UTC) - sessions[-1].updated), trials, epochs)
    ledger = Ledger(out / LEDGER)
    ledger.open()
    for record, rows in found:
        ledger.put_trial(record)
        for row in rows:
            ledger.put_epoch(row)
    for session in sessions:
        ledger.put_session(session)
    ledger.close()
    return out


def searched_trials(
    begun: datetime, trials: int, epochs: int
) -> tuple[list[tuple[TrialRecord, list[EpochRecord]]], list[SessionRecord]]:
    """The trials with their epochs, and both calls."""
    moments, found, sessions = [begun, begun], [], []
    for number in range(trials):
        if number == trials // 2:
            begun = max(moments) + NIGHT
            moments = [begun, begun]
        slot = number % 2
        found.append(_trial(number, moments[slot], f"host/{slot + 1}", trials, epochs))
        moments[slot] = found[-1][1][-1].reported
        if number in (trials // 2 - 1, trials - 1):
            sessions.append(_session(number // (trials // 2) + 1, begun, max(moments)))
    return found, sessions


def _trial(
    number: int, started: datetime, worker: str, trials: int, epochs: int
) -> tuple[TrialRecord, list[EpochRecord]]:
    status = STATUSES[number % len(STATUSES)]
    if number >= trials - 2:
        status = (Status.PAUSED, Status.RUNNING)[number - trials + 2]
    trained = epochs if status is Status.FINISHED else epochs // 2
    learning_rate = 10 ** (-4 + 2 * (number * 0.618 % 1))
    architecture = ("unet", "fpn", "linknet")[number % 3]
    peak = 0.6 - 0.2 * (math.log10(learning_rate) + 3) ** 2
    scores = [peak * (1 - math.exp(-1.5 * epoch)) for epoch in range(1, trained + 1)]
    name = f"base-{number:04d}"

    def all_scores(score: float) -> dict[str, float]:
        classes = {"iou.road": score + 0.2, "iou.pole": score - 0.2}
        return {"miou": score, "small_miou": score - 0.2, "milliseconds": 5 + number % 7, **classes}

    rows = [
        EpochRecord(
            trial=name,
            stage="base",
            number=number,
            attempt=1,
            epoch=epoch,
            scores=all_scores(score),
            seconds={"train": 0.8 * SECONDS, "evaluate": 0.2 * SECONDS, **({"start": 2.0} if epoch == 1 else {})},
            reported=started + timedelta(seconds=2 + epoch * SECONDS),
            worker=worker,
        )
        for epoch, score in enumerate(scores, start=1)
    ]
    params = {"architecture": architecture, "learning_rate": learning_rate, "epochs": epochs, "batch_size": 4}
    record = TrialRecord(
        trial=name,
        stage="base",
        number=number,
        status=status,
        params={**params, **({"decoder_attention": ("none", "scse")[number % 2]} if architecture == "unet" else {})},
        seed=number,
        sampler="random",
        started=started,
        ended=rows[-1].reported if status.is_end else None,
        epochs=trained,
        best_epoch=trained,
        score=scores[-1],
        scores=all_scores(scores[-1]),
        seconds=trained * SECONDS,
        error="a step must be <b>finite</b>, but </script> is not" if status is Status.FAILED else None,
        provenance={"data": "c0ffee", "torch": "2.14"},
    )
    return record, rows


def _session(number: int, started: datetime, ended: datetime) -> SessionRecord:
    hours = (ended - started).total_seconds() / 3600
    return SessionRecord(
        stage="base",
        session=number,
        started=started,
        updated=ended,
        ended=ended if number == 1 else None,
        reason="interrupted" if number == 1 else None,
        slots=2,
        node_hours=hours,
        host="host",
        pid=number,
    )
