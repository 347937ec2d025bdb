"""The columns of the ledger's tables, and how records become rows and rows records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location
from ensemble_tune.tune.ledger_part import NAME, TIME, Layout
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord

_ANY = (pa.bool_(), pa.int64(), pa.float64(), pa.string())
_NUMBER = (pa.float64(),)
_TEXT = (pa.string(),)


def _has(name: str, kind: pa.DataType) -> pa.Field:
    """A column that has a value in every row."""
    return pa.field(name, kind, nullable=False)


TRIALS = Layout(
    core=pa.schema(
        [
            _has("trial", pa.string()),
            _has("stage", NAME),
            _has("number", pa.int64()),
            _has("status", NAME),
            _has("attempt", pa.int64()),
            _has("seed", pa.int64()),
            _has("sampler", NAME),
            _has("started", TIME),
            ("ended", TIME),
            _has("seconds", pa.float64()),
            _has("epochs", pa.int64()),
            ("best_epoch", pa.int64()),
            ("score", pa.float64()),
            ("error", pa.string()),
        ]
    ),
    groups={"param": _ANY, "score": _NUMBER, "gpu": _NUMBER, "from": _TEXT},
    a_part=256,
)
EPOCHS = Layout(
    core=pa.schema(
        [
            _has("trial", pa.string()),
            _has("stage", NAME),
            _has("number", pa.int64()),
            _has("attempt", pa.int64()),
            _has("epoch", pa.int64()),
            _has("reported", TIME),
            _has("worker", NAME),
        ]
    ),
    groups={"score": _NUMBER, "seconds": _NUMBER, "gpu": (pa.float64(), pa.string())},
    epoch="epoch",
    a_part=64,
)
SESSIONS = Layout(
    core=pa.schema(
        [
            _has("stage", NAME),
            _has("session", pa.int64()),
            _has("started", TIME),
            _has("updated", TIME),
            ("ended", TIME),
            ("reason", pa.string()),
            _has("slots", pa.int64()),
            _has("node_hours", pa.float64()),
            _has("gpu_hours", pa.float64()),
            _has("host", NAME),
            _has("pid", pa.int64()),
        ]
    ),
    groups={"goal": _TEXT, "limit": _NUMBER, "use": _NUMBER},
    amounts="limit",
    number="session",
    a_part=None,
)
_TRIAL_NAMES, _EPOCH_NAMES, _SESSION_NAMES = TRIALS.core.names, EPOCHS.core.names, SESSIONS.core.names


def trial_row(record: TrialRecord) -> dict[str, Any]:
    """A trial's values by column."""
    row = {name: getattr(record, name) for name in _TRIAL_NAMES}
    row["status"] = record.status.value
    _add(row, "param", record.params)
    _add(row, "score", record.scores)
    _add(row, "gpu", record.gpu)
    _add(row, "from", record.provenance)
    return row


def epoch_row(record: EpochRecord) -> dict[str, Any]:
    """An epoch's values by column."""
    row = {name: getattr(record, name) for name in _EPOCH_NAMES}
    _add(row, "score", record.scores)
    _add(row, "seconds", record.seconds)
    _add(row, "gpu", record.gpu)
    return row


def session_row(record: SessionRecord) -> dict[str, Any]:
    """A session's values by column."""
    row = {name: getattr(record, name) for name in _SESSION_NAMES}
    for group in SESSIONS.groups:
        _add(row, group, getattr(record, group))
    return row


def trial_records(path: Location, columns: Mapping[str, list[Any]]) -> Iterator[TrialRecord]:
    """The trials of a part. Raises RunError for a status that this version does not know."""
    params, scores, gpu, provenance = (_group(columns, group) for group in ("param", "score", "gpu", "from"))
    for row, core in enumerate(_core(columns, _TRIAL_NAMES)):
        core["status"] = _status(path, core["trial"], core["status"])
        yield TrialRecord(
            **core,
            params=_at(params, row),
            scores=_at(scores, row),
            gpu=_at(gpu, row),
            provenance=_at(provenance, row),
        )


def epoch_records(path: Location, columns: Mapping[str, list[Any]]) -> Iterator[EpochRecord]:
    """The epochs of a part."""
    scores, seconds, gpu = _group(columns, "score"), _group(columns, "seconds"), _group(columns, "gpu")
    for row, core in enumerate(_core(columns, _EPOCH_NAMES)):
        yield EpochRecord(**core, scores=_at(scores, row), seconds=_at(seconds, row), gpu=_at(gpu, row))


def session_records(path: Location, columns: Mapping[str, list[Any]]) -> Iterator[SessionRecord]:
    """The sessions of a part."""
    groups = {group: _group(columns, group) for group in SESSIONS.groups}
    for row, core in enumerate(_core(columns, _SESSION_NAMES)):
        yield SessionRecord(**core | {group: _at(values, row) for group, values in groups.items()})


def _add(row: dict[str, Any], group: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        row[f"{group}.{name}"] = value


def _core(columns: Mapping[str, list[Any]], names: list[str]) -> Iterator[dict[str, Any]]:
    for values in zip(*(columns[name] for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def _group(columns: Mapping[str, list[Any]], group: str) -> list[tuple[str, list[Any]]]:
    """The columns of a group by the name that follows it."""
    start = f"{group}."
    return [(name.removeprefix(start), values) for name, values in columns.items() if name.startswith(start)]


def _at(columns: list[tuple[str, list[Any]]], row: int) -> dict[str, Any]:
    """The values that a row has."""
    return {name: values[row] for name, values in columns if values[row] is not None}


def _status(path: Location, trial: str, text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise RunError(
            f"a trial's status is one of {', '.join(Status)}, but {path} gives {trial} {text!r}; "
            "read it with the version that wrote it, or restore the file"
        ) from None
