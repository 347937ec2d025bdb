"""The ledger: two Parquet tables, one row a trial and one row a (trial, epoch). The truth that a search resumes from.

    OUT/ledger/trials/base-00000.parquet    trials 0 to 255 of stage base
    OUT/ledger/epochs/base-00000.parquet    epochs of trials 0 to 63 of stage base

A part holds a fixed range of trials and is replaced in one step when one of its rows changes; so a reader sees each
row once and never half a part. All parts of a table have the same columns: when a new parameter or score appears,
every part gets its column. `param.*` are parameters, `score.*` scores, `seconds.*` wall-clock seconds by part.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ensemble_tune.errors import RunError
from ensemble_tune.storage import atomic_file, make_folder, remove_partial, write_text
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import EpochRecord, Status, TrialRecord

LEDGER = "ledger"
"""The ledger's folder in a run folder."""

_NAME = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("us", tz="UTC")
_TRIALS = pa.schema(
    [
        pa.field("trial", pa.string(), nullable=False),
        pa.field("stage", _NAME, nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("status", _NAME, nullable=False),
        ("attempt", pa.int64()),
        ("seed", pa.int64()),
        ("sampler", _NAME),
        ("started", _TIME),
        ("ended", _TIME),
        ("seconds", pa.float64()),
        ("epochs", pa.int64()),
        ("best_epoch", pa.int64()),
        ("score", pa.float64()),
        ("error", pa.string()),
    ]
)
_EPOCHS = pa.schema(
    [
        pa.field("trial", pa.string(), nullable=False),
        pa.field("stage", _NAME, nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        ("attempt", pa.int64()),
        pa.field("epoch", pa.int64(), nullable=False),
        ("reported", _TIME),
        ("worker", _NAME),
    ]
)
_TRIALS_A_PART = 256
_EPOCH_TRIALS_A_PART = 64


class _Table:
    """One table's parts in a folder, all of one schema."""

    def __init__(self, folder: Path, core: pa.Schema, trials_a_part: int) -> None:
        self.folder = folder
        self._trials_a_part = trials_a_part
        self._core = core
        self.schema = self._merged()

    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.parquet"))

    def open(self) -> None:
        """Gives all parts the same columns, in case a writer died while it added one. Only for the one writer."""
        self.folder.mkdir(exist_ok=True)
        self.schema = self._merged()
        for path in self.paths():
            if _schema_of(path, self._core) != self.schema:
                _write(path, _conform(_read(path), self.schema))

    def _merged(self) -> pa.Schema:
        schema = self._core
        for path in self.paths():
            schema = _merge(schema, _schema_of(path, self._core))
        return schema

    def part(self, stage: str, number: int) -> Path:
        """The part that holds a trial."""
        return self.folder / f"{stage}-{number - number % self._trials_a_part:05d}.parquet"

    def rows(self, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Every row as plain values."""
        return [row for path in self.paths() for row in _read(path, columns).to_pylist()]

    def write(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Replaces one part; first gives every part the columns that only these rows have."""
        needed = _merge(self.schema, _schema_for(rows))
        if needed != self.schema:
            self.schema = needed
            for other in self.paths():
                if other != path:
                    _write(other, _conform(_read(other), needed))
        columns = [_column([row.get(field.name) for row in rows], field.type) for field in self.schema]
        _write(path, pa.table(columns, schema=self.schema))


class Ledger:
    """Reads the ledger of a run folder, and writes it as its one writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / "writer.lock")
        self._trials = _Table(folder / "trials", _TRIALS, _TRIALS_A_PART)
        self._epochs = _Table(folder / "epochs", _EPOCHS, _EPOCH_TRIALS_A_PART)
        self._trial_rows: dict[Path, dict[str, TrialRecord]] = defaultdict(dict)
        self._epoch_rows: dict[Path, dict[tuple[str, int], EpochRecord]] = defaultdict(dict)
        self._changed: set[Path] = set()

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether any trial was written there."""
        return any((folder / "trials").glob("*.parquet"))

    def trials(self, stage: str | None = None) -> list[TrialRecord]:
        """All trials, or one stage's, by stage and number. Raises RunError for a damaged part."""
        records = (_trial_record(row) for row in self._trials.rows())
        return sorted(
            (r for r in records if stage is None or r.stage == stage), key=lambda record: (record.stage, record.number)
        )

    def epochs(self, stage: str | None = None) -> list[EpochRecord]:
        """All epochs, or one stage's, by stage, trial and epoch. Raises RunError for a damaged part."""
        records = (_epoch_record(row) for row in self._epochs.rows())
        return sorted(
            (r for r in records if stage is None or r.stage == stage), key=lambda r: (r.stage, r.number, r.epoch)
        )

    def open(self) -> None:
        """Becomes the one writer. Raises RunError, naming the owner, where another process is."""
        make_folder(self.folder)
        owner = self.folder / "writer.txt"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
            raise RunError(
                f"one search writes to a run folder at a time, but {who} writes to {self.folder.parent}; "
                "wait for it, stop it, or use another --out"
            ) from None
        try:
            write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
            remove_partial(self.folder)
            self._trials.open()
            self._epochs.open()
            for trial in self.trials():
                self._trial_rows[self._trials.part(trial.stage, trial.number)][trial.trial] = trial
            for epoch in self.epochs():
                self._epoch_rows[self._epochs.part(epoch.stage, epoch.number)][epoch.trial, epoch.epoch] = epoch
        except BaseException:
            self._lock.release()
            raise

    def put_trial(self, record: TrialRecord) -> None:
        """Adds or replaces a trial's row; on disk after the next flush."""
        path = self._trials.part(record.stage, record.number)
        self._trial_rows[path][record.trial] = record
        self._changed.add(path)

    def put_epoch(self, record: EpochRecord) -> None:
        """Adds an epoch's row, or replaces the row of an epoch that was trained again."""
        path = self._epochs.part(record.stage, record.number)
        self._epoch_rows[path][record.trial, record.epoch] = record
        self._changed.add(path)

    def drop_epochs_after(self, trial: TrialRecord, epoch: int) -> None:
        """Forgets rows that no checkpoint backs, because the trial goes on from an earlier epoch."""
        rows = self._epoch_rows[self._epochs.part(trial.stage, trial.number)]
        for key in [key for key in rows if key[0] == trial.trial and key[1] > epoch]:
            del rows[key]
            self._changed.add(self._epochs.part(trial.stage, trial.number))

    def flush(self) -> None:
        """Writes every changed part."""
        for path in sorted(self._changed):
            if path.parent == self._trials.folder:
                trials = sorted(self._trial_rows[path].values(), key=lambda record: record.number)
                self._trials.write(path, [_trial_row(record) for record in trials])
            else:
                epochs = sorted(self._epoch_rows[path].values(), key=lambda record: (record.number, record.epoch))
                self._epochs.write(path, [_epoch_row(record) for record in epochs])
        self._changed.clear()

    def close(self) -> None:
        """Writes what is left and lets another process write."""
        try:
            self.flush()
        finally:
            self._lock.release()


def _trial_row(record: TrialRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _TRIALS.names}
    row["status"] = record.status.value
    row |= {f"param.{name}": value for name, value in record.params.items()}
    row |= {f"score.{name}": score for name, score in record.scores.items()}
    return row | {f"from.{name}": text for name, text in record.provenance.items()}


def _trial_record(row: Mapping[str, Any]) -> TrialRecord:
    core = {name: row[name] for name in _TRIALS.names}
    core["status"] = Status(core["status"])
    return TrialRecord(
        **core,
        params=dict(_under("param.", row)),
        scores=dict(_under("score.", row)),
        provenance=dict(_under("from.", row)),
    )


def _epoch_row(record: EpochRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _EPOCHS.names}
    row |= {f"score.{name}": score for name, score in record.scores.items()}
    return row | {f"seconds.{name}": seconds for name, seconds in record.seconds.items()}


def _epoch_record(row: Mapping[str, Any]) -> EpochRecord:
    core = {name: row[name] for name in _EPOCHS.names}
    return EpochRecord(**core, scores=dict(_under("score.", row)), seconds=dict(_under("seconds.", row)))


def _under(prefix: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The columns of one kind that have a value in this row, without their prefix."""
    for name, value in row.items():
        if name.startswith(prefix) and value is not None:
            yield name.removeprefix(prefix), value


def _schema_for(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The columns beyond the core that these rows need."""
    types: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items():
            if "." in name and value is not None:
                types[name] = _wider(types.get(name), _type_of(value))
    return pa.schema(list(types.items()))


def _type_of(value: Value) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    return pa.float64() if isinstance(value, float) else pa.string()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column; in a column of texts, what is no text is written as one."""
    if kind == pa.string():
        values = [value if value is None else str(value) for value in values]
    return pa.array(values, kind)


def _wider(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type that holds both: numbers become float64, anything else mixed becomes text."""
    if one is None or one == other:
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _merge(schema: pa.Schema, more: pa.Schema) -> pa.Schema:
    """`schema` with the columns of `more`; core columns first, the others sorted by name."""
    types = {field.name: field for field in schema}
    for new in more:
        known = types.get(new.name)
        if known is None:
            types[new.name] = new
        elif "." in new.name:
            types[new.name] = pa.field(new.name, _wider(known.type, new.type))
    core = [field for name, field in types.items() if "." not in name]
    return pa.schema(core + [types[name] for name in sorted(types) if "." in name])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part in the table's present columns."""
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        # Opened once: by its path, a part that the writer replaces meanwhile would be read half old, half new. By
        # Arrow, whose threads may outlive this call: one that lets go of a file of Python's while the interpreter
        # ends takes the whole process down.
        with pa.OSFile(str(path), "rb") as file:
            return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _schema_of(path: Path, core: pa.Schema) -> pa.Schema:
    """A part's columns. Raises RunError where it is no part of such a table."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    missing = [name for name in core.names if name not in schema.names]
    if missing:
        raise _damaged(path, f"it has no column {missing[0]}")
    return schema


def _write(path: Path, table: pa.Table) -> None:
    # Not beside the parts: other readers take every file in a table's folder for one.
    with atomic_file(path, within=path.parent.parent) as aside:
        pq.write_table(table, aside)


def _damaged(path: Path, error: object) -> RunError:
    reason = str(error).splitlines()[0]
    return RunError(
        f"a ledger holds whole Parquet files of its own, but {path} is not one ({reason}); restore or remove it"
    )
