"""One Parquet file of the ledger: written whole or not at all, and refused by name where anything in it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, arrow_file, reason_of, write_bytes

NAME = pa.dictionary(pa.int32(), pa.string())
"""The type of a column with few different texts."""
TIME = pa.timestamp("us", tz="UTC")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCHS_AT_MOST = 2**32
_NAME_BYTES = 200
"""In the name of a folder; file systems take 255."""
_FIRST, _LAST = 0, int((datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) / timedelta(microseconds=1))
"""Times that a search may have been at, in microseconds since 1970."""


class Part(NamedTuple):
    """Which rows a file holds: those of a stage, from a number on."""

    stage: str
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the rows and the files of a table look like."""

    core: pa.Schema
    """The columns that every row has."""
    groups: Mapping[str, tuple[pa.DataType, ...]] = field(default_factory=dict)
    """Further columns are named "<group>.<name>": each group, and the types its columns may have."""
    amounts: str | None = None
    """The group whose numbers are amounts: 0 or more."""
    number: str = "number"
    """The column that, with the stage, says in which part a row is."""
    epoch: str | None = None
    """The column that tells rows of one number apart; None where there is one row a number."""
    a_part: int | None
    """How many numbers a part holds; None for one part a stage."""

    def part(self, stage: str, number: int) -> Part:
        """The part that holds a row."""
        return Part(stage, 0 if self.a_part is None else number - number % self.a_part)

    def path(self, folder: Location, part: Part) -> Location:
        """A part's file."""
        return folder / (f"{part.stage}.parquet" if self.a_part is None else f"{part.stage}-{part.first:05d}.parquet")

    def part_at(self, path: Location) -> Part:
        """The part that a file holds by its name. Raises RunError for a name that no part has."""
        if self.a_part is None:
            return Part(path.stem, 0)
        stage, _, first = path.stem.rpartition("-")
        if first.isascii() and first.isdigit():
            part = Part(stage, int(first))
            if stage and part.first % self.a_part == 0 and path == self.path(path.parent, part):
                return part
        raise damaged(path, f"no part has such a name, which is <stage>-<a multiple of {self.a_part}>.parquet")

    def keys(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A number for each row, by which rows are told apart and sorted."""
        keys: np.ndarray[Any, np.dtype[np.int64]] = table[self.number].to_numpy() * _EPOCHS_AT_MOST
        return keys if self.epoch is None else keys + table[self.epoch].to_numpy()


def key_of(number: int, epoch: int) -> int:
    """What `Layout.keys` gives for a row."""
    return number * _EPOCHS_AT_MOST + epoch


def plain(kind: pa.DataType) -> pa.DataType:
    """A column's type in memory, where texts are no categories: such columns join without a common dictionary."""
    return pa.string() if kind == NAME else kind


def read_part(path: Location, layout: Layout) -> tuple[pa.Table, pa.Schema]:
    """A part's rows in plain columns, and the schema of its file.

    Raises OSError where the storage fails, RunError where the file is no whole part with its own rows, each once.
    """
    part = layout.part_at(path)
    try:
        # Opened once: by its path, a part that the writer replaces meanwhile would be read half old, half new. By
        # Arrow, whose threads may outlive this call: one that lets go of a file of Python's while the interpreter
        # ends takes the whole process down.
        with arrow_file(path) as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(use_threads=False)
        # Arrow believes what it reads: no text needs to be UTF-8, and an index may point anywhere.
        table.validate(full=True)
        for wrong in _wrong_columns(table, layout):
            raise damaged(path, wrong)
        schema = table.schema.remove_metadata()
        table = pa.table([table[f.name].cast(plain(f.type)) for f in schema], names=schema.names)
        for wrong in _wrong_rows(table, part, layout):
            raise damaged(path, wrong)
    except (pa.ArrowException, UnicodeDecodeError) as error:  # names of columns are no more checked than texts are
        raise damaged(path, reason_of(error)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise damaged(path, reason_of(error)) from None
    return table, schema


def write_part(path: Location, table: pa.Table, schema: pa.Schema) -> None:
    """Replaces a part in one step. table: plain columns in the order of `schema`. Raises OSError."""
    columns = [
        column.dictionary_encode() if f.type == NAME else column for f, column in zip(schema, table, strict=True)
    ]
    texts = [f.name for f in schema if plain(f.type) == pa.string()]
    file = pa.BufferOutputStream()
    # Numbers are seldom twice the same: a dictionary of them costs twice the time and saves nothing.
    pq.write_table(pa.table(columns, schema=schema), file, use_dictionary=texts, write_page_checksum=True)
    # Not beside the parts: other readers take every file in a table's folder for one.
    write_bytes(path, memoryview(file.getvalue()), within=path.parent.parent)


def to_python(table: pa.Table) -> dict[str, list[Any]]:
    """Plain columns as lists of Python's values."""
    return {name: _values(table[name]) for name in table.column_names}


def damaged(path: Location, reason: str) -> RunError:
    """What to raise for a file that is no part of the ledger."""
    return RunError(
        f"a ledger holds whole Parquet files of its own, but {path} is not one ({reason}); restore or remove it"
    )


def _is_name(text: str) -> bool:
    """Whether a file or folder inside another may be called so: trials have folders of their own."""
    return text.isprintable() and 0 < len(text.encode()) <= _NAME_BYTES and "/" not in text and text[0] != "."


def _values(column: pa.ChunkedArray) -> list[Any]:
    if column.type != TIME:
        return list(column.to_pylist())
    # Ten times as fast as Arrow's own way, and in the standard library's UTC.
    since = column.cast(pa.int64()).to_pylist()
    return [None if value is None else _EPOCH + timedelta(microseconds=value) for value in since]


def _wrong_columns(table: pa.Table, layout: Layout) -> Iterator[str]:
    names = table.schema.names
    if len(set(names)) < len(names):
        yield "it has two columns of one name"
    for known in layout.core:
        if known.name not in names:
            yield f"it has no column {known.name}"
            return
        column = table[known.name]
        if column.type != known.type:
            yield f"its column {known.name} is of type {column.type}, not {known.type}"
        if not known.nullable and column.null_count:
            yield f"its column {known.name} has no value in {column.null_count} of {len(table)} rows"
    for other in table.schema:
        group, dot, _ = other.name.partition(".")
        if other.name in layout.core.names:
            continue
        if not dot or group not in layout.groups:
            yield f"it has a column {other.name}, which no ledger has"
        elif other.type not in layout.groups[group]:
            kinds = " or ".join(str(kind) for kind in layout.groups[group])
            yield f"its column {other.name} is of type {other.type}, not {kinds}"


def _wrong_rows(table: pa.Table, part: Part, layout: Layout) -> Iterator[str]:
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if kind == TIME:
            times = table[name].drop_null().cast(pa.int64()).to_numpy()
            if len(times) and not (times.min() >= _FIRST and times.max() <= _LAST):
                yield f"its column {name} has a time outside of the calendar"
        if name.partition(".")[0] == layout.amounts:
            wrong = [value for value in table[name].drop_null().to_pylist() if not value >= 0]
            if wrong:
                yield f"its column {name} has {wrong[0]}, which is no amount"
    for name in table["trial"].unique().to_pylist() if "trial" in layout.core.names else ():
        if not _is_name(name):
            yield f"it has a trial {name[:40]!r}, which cannot be a folder's name"
    for stage in table["stage"].unique().to_pylist():
        if stage != part.stage:
            yield f"it has rows of stage {stage}"
    numbers = table[layout.number].to_numpy()
    astray = numbers < part.first
    if layout.a_part is not None:
        astray |= numbers >= part.first + layout.a_part
    if astray.any():
        yield f"it has a row of {layout.number} {numbers[astray][0]}, which belongs to another part"
    keys, counts = np.unique(layout.keys(table), return_counts=True)
    if (counts > 1).any():
        number, epoch = divmod(int(keys[counts > 1][0]), _EPOCHS_AT_MOST)
        which = "" if layout.epoch is None else f", {layout.epoch} {epoch}"
        yield f"it has {layout.number} {number}{which} more than once"
