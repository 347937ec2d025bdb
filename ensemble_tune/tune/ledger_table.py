"""One table of the ledger: rows that were put since the last flush, and parts on disk that they become part of.

A row is made a row of Arrow's once, when it is flushed; then its part's older rows, the new ones in their place among
them, are written anew. So a flush costs what the parts cost that changed, whatever the size of the table.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from ensemble_tune.storage import Location
from ensemble_tune.tune.ledger_part import Layout, Part, key_of, plain, read_part, to_python, write_part

R = TypeVar("R")

_RECENT_PARTS = 32
"""How many parts' rows are kept in memory, those that were written last: the likeliest to change again."""


class LedgerTable(Generic[R]):
    """The rows of one kind, of type R, in a folder's parts, all of one schema. One process at a time writes."""

    def __init__(
        self,
        folder: Location,
        layout: Layout,
        to_row: Callable[[R], Mapping[str, Any]],
        to_records: Callable[[Location, Mapping[str, list[Any]]], Iterable[R]],
    ) -> None:
        """to_row: a record's values by column. to_records: a part's records, from its path and its columns."""
        self.folder = folder
        self._layout = layout
        self._to_row = to_row
        self._to_records = to_records
        self._schema = layout.core
        self._fresh: defaultdict[Part, defaultdict[int, dict[int, R]]] = defaultdict(lambda: defaultdict(dict))
        """What was put since the last flush, by part, number and epoch."""
        self._dropped: defaultdict[Part, dict[int, int]] = defaultdict(dict)
        """The epoch after which a number's rows on disk are void."""
        self._on_disk: set[Part] = set()
        self._behind: set[Part] = set()
        """Parts on disk that lack a column of the schema."""
        self._recent: dict[Part, pa.Table] = {}

    def records(self, stage: str | None = None) -> Iterator[R]:
        """What is on disk, part by part. Raises RunError for a damaged part, OSError where the storage fails."""
        for path in self._paths():
            if stage is None or self._layout.part_at(path).stage == stage:
                yield from self._to_records(path, to_python(read_part(path, self._layout)[0]))

    def open(self) -> None:
        """Checks every part, and gives all the same columns, in case a writer died while it added one.

        Only for the one writer. Raises RunError for a damaged part, OSError where the storage fails.
        """
        self.folder.mkdir(exist_ok=True)
        schemas = {self._layout.part_at(path): read_part(path, self._layout)[1] for path in self._paths()}
        self._schema = _merged(self._layout.core, schemas.values())
        self._on_disk = set(schemas)
        self._behind = {part for part, schema in schemas.items() if schema != self._schema}
        self._recent.clear()
        self._catch_up()

    def put(self, stage: str, number: int, epoch: int, record: R) -> None:
        """Adds or replaces a row; on disk after the next flush."""
        self._fresh[self._layout.part(stage, number)][number][epoch] = record

    def drop_after(self, stage: str, number: int, epoch: int) -> None:
        """Forgets a number's rows of later epochs; on disk after the next flush."""
        part = self._layout.part(stage, number)
        if part in self._fresh and number in self._fresh[part]:
            rows = self._fresh[part][number]
            for later in [key for key in rows if key > epoch]:
                del rows[later]
        if part in self._on_disk:
            self._dropped[part][number] = min(epoch, self._dropped[part].get(number, epoch))

    def flush(self) -> None:
        """Writes every part that changed.

        Raises OSError where the storage fails; what did not reach the disk then waits for the next flush.
        """
        changed = sorted({*self._fresh, *self._dropped})
        columns = {part: self._columns(part) for part in changed}
        needed = _merged(self._schema, [_schema_of(values, self._layout) for values in columns.values()])
        if needed != self._schema:
            self._schema = needed
            self._behind |= self._on_disk
        self._catch_up()
        for part in changed:
            self._write(part, self._table(columns[part]))
            self._fresh.pop(part, None)
            self._dropped.pop(part, None)

    def _write(self, part: Part, new: pa.Table) -> None:
        """Writes a part anew: its older rows, and new ones in their place."""
        table, keys = new, self._layout.keys(new)
        if part in self._on_disk:
            old = self._older(part)
            old_keys = self._layout.keys(old)
            stays = ~np.isin(old_keys, keys)
            for number, epoch in self._dropped.get(part, {}).items():
                stays &= (old_keys <= key_of(number, epoch)) | (old_keys >= key_of(number + 1, 0))
            if not len(new) and stays.all():
                return
            table = pa.concat_tables([old.filter(pa.array(stays)), new]).combine_chunks()
            keys = np.concatenate([old_keys[stays], keys])
        elif not len(new):
            return
        if (np.diff(keys) < 0).any():
            table = table.take(pa.array(np.argsort(keys)))
        write_part(self._path(part), table, self._schema)
        self._on_disk.add(part)
        self._recent.pop(part, None)
        self._recent[part] = table
        if len(self._recent) > _RECENT_PARTS:
            del self._recent[next(iter(self._recent))]

    def _older(self, part: Part) -> pa.Table:
        """The rows of a part on disk, in the columns of the schema."""
        rows = self._recent.get(part)
        return self._conform(read_part(self._path(part), self._layout)[0] if rows is None else rows)

    def _catch_up(self) -> None:
        """Gives the columns of the schema to parts that lack one."""
        for part in sorted(self._behind):
            write_part(self._path(part), self._older(part), self._schema)
            self._behind.discard(part)

    def _columns(self, part: Part) -> dict[str, list[Any]]:
        """The fresh rows of a part as lists; a column is there where a row has it."""
        epochs = self._fresh[part].values() if part in self._fresh else ()
        rows = [self._to_row(record) for records in epochs for record in records.values()]
        names = dict.fromkeys(itertools.chain.from_iterable(rows))
        return {name: [row.get(name) for row in rows] for name in names}

    def _table(self, columns: Mapping[str, list[Any]]) -> pa.Table:
        """Lists as plain columns, all those of the schema."""
        rows = len(columns["stage"]) if columns else 0
        arrays = [
            _array(columns[f.name], plain(f.type)) if f.name in columns else pa.nulls(rows, plain(f.type))
            for f in self._schema
        ]
        return pa.table(arrays, names=self._schema.names)

    def _conform(self, table: pa.Table) -> pa.Table:
        """Plain columns as all those of the schema."""
        if table.column_names == self._schema.names and table.schema.types == [plain(f.type) for f in self._schema]:
            return table
        has = set(table.column_names)
        columns = [
            table[f.name].cast(plain(f.type), safe=False) if f.name in has else pa.nulls(len(table), plain(f.type))
            for f in self._schema
        ]
        return pa.table(columns, names=self._schema.names)

    def _paths(self) -> list[Location]:
        return sorted(self.folder.glob("*.parquet"))

    def _path(self, part: Part) -> Location:
        return self._layout.path(self.folder, part)


def _schema_of(columns: Mapping[str, list[Any]], layout: Layout) -> pa.Schema:
    """The columns beyond the core that these values need."""
    kinds = {}
    for name, values in columns.items():
        allowed = layout.groups.get(name.partition(".")[0], ())
        kind = _kind_of(values, allowed) if name not in layout.core.names else None
        if kind is not None:
            kinds[name] = kind
    return pa.schema(list(kinds.items()))


def _kind_of(values: list[Any], allowed: Sequence[pa.DataType]) -> pa.DataType | None:
    """The narrowest type that holds the values, or the only one allowed; None where there is no value."""
    kind = None
    for found in set(map(type, values)) - {type(None)}:
        kind = _wider(kind, allowed[0] if len(allowed) == 1 else _arrow_type(found))
    return kind


def _arrow_type(kind: type) -> pa.DataType:
    if issubclass(kind, bool):
        return pa.bool_()
    if issubclass(kind, Integral):
        return pa.int64()
    return pa.float64() if issubclass(kind, Real) else pa.string()


def _wider(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type that holds both: numbers become float64, anything else mixed becomes text."""
    if one is None or one == other:
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _merged(schema: pa.Schema, more: Iterable[pa.Schema]) -> pa.Schema:
    """`schema` with the further columns of others; core columns come first, the rest by name."""
    kinds = {f.name: f.type for f in schema if "." in f.name}
    for f in itertools.chain.from_iterable(more):
        if "." in f.name:
            kinds[f.name] = _wider(kinds.get(f.name), f.type)
    return pa.schema([f for f in schema if "." not in f.name] + sorted(kinds.items()))


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column of any type that holds them: what is no text is written as one among texts."""
    if kind in (pa.string(), pa.float64()):
        make = str if kind == pa.string() else float
        if set(map(type, values)) - {make, type(None)}:
            values = [None if value is None else make(value) for value in values]
    return pa.array(values, kind)
