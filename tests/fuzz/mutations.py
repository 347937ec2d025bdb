"""Files as no writer of ours leaves them: damaged, foreign, of other types, hostile; a seed gives the same ones."""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import pickle
import random
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
import torch
import yaml

_DEEP, _HUGE = "@deep@", "@huge@"
"""Stand for what no writer can be made to write, and are replaced in its text."""
_ODD: tuple[Any, ...] = (
    *(0, -1, 1, 7, 255, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf, True, False, None),
    *(
        "",
        "none",
        "x",
        " ",
        "\n",
        "nan",
        "1e999",
        "a" * 300,
        "é漢\u202e\U0001f600",
        "a\0b",
        "../../x",
        "/",
        "~nobody/x",
        "(",
        r"(?P<sequence>([a-z0-9_]+)+)!",
        "(?P<sequence>(.|..|...)+)!",
    ),
    *([], [[]], [1, "a", None], {}, {"a": {"b": []}}, [{}], ["x"], [0.5, 2], datetime.date(2020, 2, 29)),
    *(_DEEP, _HUGE),
)
_WORDS = (
    *(
        b"nan",
        b"inf",
        b"-1",
        b"1e999",
        b"true",
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"''",
        b"=",
        b"[",
        b"}",
        b'"',
        b"\n",
        b":",
    ),
    *(b"9" * 400, b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 5000, b'{"a":' * 3000, b"2001-99-99", b"0b_", b"1:60:99"),
    *(
        b"&a [*a]",
        b"*a",
        b"!!int ''",
        b"!!python/object/apply:os.mkdir [x]",
        b"\xff\xfe",
        b"\0",
        b"\xed\xa0\x80",
        b"\x1b[31m",
    ),
    *(
        "\u2028é漢".encode(),
        "٣".encode(),
        b"\\u0000",
        b"\\ud800",
        b"<<: *a",
        b"#",
        b"_",
        b"../..",
        b"NaN",
        b"-Infinity",
    ),
)

_UNWRITABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, AssertionError),
    *(pa.ArrowException, struct.error, yaml.YAMLError),
)
"""What writers raise for what they cannot write."""


class Hostile:
    """Once it is unpickled by a reader that runs what a file says, a folder is there."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.marker,)


def mutated(data: bytes, form: str, chance: random.Random, marker: str) -> bytes:
    """A file's bytes, changed; form: png, npy, safetensors, parquet, rows, json, toml, yaml; others are bytes."""
    kind = chance.random()
    if kind < 0.08:
        return foreign(chance, marker)
    if form in _FORMS and kind < 0.7:
        try:
            data = _FORMS[form](data, chance, marker)
        except _UNWRITABLE:
            kind = 1.0  # no file can say it
        if kind < 0.6:
            return data
    for _ in range(chance.choice((1, 1, 2, 5))):
        data = chance.choice(_BYTES)(data, chance)
    return data


def foreign(chance: random.Random, marker: str) -> bytes:
    """A file of a kind that nobody expects, among them those that run code where they are trusted."""
    hostile = Hostile(marker)
    file = io.BytesIO()
    which = chance.randrange(9)
    if which == 0:
        return pickle.dumps(hostile, protocol=chance.choice((0, 2, 4, 5)))
    if which == 1:
        torch.save({"weight": hostile}, file)
    elif which == 2:
        torch.save({"state_dict": hostile}, file, _use_new_zipfile_serialization=False)
    elif which == 3:
        np.save(file, np.array([hostile], dtype=object), allow_pickle=True)
    elif which == 4:
        np.savez(file, np.array([hostile], dtype=object), allow_pickle=True)
    elif which == 5:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(hostile))
            archive.writestr("archive/version", "3")
    elif which == 6:
        return f"!!python/object/apply:os.mkdir [{marker}]\n".encode()
    elif which == 7:
        field = pa.field("x", pa.int64(), metadata=_extension(hostile))
        pq.write_table(pa.table([pa.array([1])], pa.schema([field])), file)
    else:
        return chance.choice(
            (b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"PK\3\4", b"GIF89a", b"\x1f\x8b", b"II*\0", b"\x93NUMPY\1\0")
        )
    return file.getvalue()


def _extension(hostile: Hostile) -> dict[str, bytes]:
    """What made Arrow unpickle a column's type before version 14.0.1."""
    name = b"arrow.py_extension_type"
    return {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(hostile)}


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _slice(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + int(len(data) ** chance.random()))


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _delete(data: bytes, chance: random.Random) -> bytes:
    start, stop = _slice(data, chance)
    return data[:start] + data[stop:]


def _double(data: bytes, chance: random.Random) -> bytes:
    start, stop = _slice(data, chance)
    return data[:stop] + data[start:stop] * chance.choice((1, 1, 20)) + data[stop:]


def _move(data: bytes, chance: random.Random) -> bytes:
    start, stop = _slice(data, chance)
    rest = data[:start] + data[stop:]
    place = chance.randrange(len(rest) + 1)
    return rest[:place] + data[start:stop] + rest[place:]


def _noise(data: bytes, chance: random.Random) -> bytes:
    start, stop = _slice(data, chance)
    fill = chance.choice((b"\0", b"\xff", b"")) * (stop - start) or chance.randbytes(stop - start)
    return data[:start] + fill + data[stop:]


def _word(data: bytes, chance: random.Random) -> bytes:
    """A word of a text format in place of another, or between two."""
    start, stop = _slice(data, chance)
    return data[:start] + chance.choice(_WORDS) + data[chance.choice((start, min(stop, start + 12))) :]


def _lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = chance.choice(
        ((lines[other], lines[one]), (lines[one], lines[one]), (b"", lines[other]))
    )
    return b"\n".join(lines)


_BYTES = (_flip, _cut, _delete, _double, _move, _noise, _word, _word, _lines)


def _other_values(document: Any, chance: random.Random) -> Any:
    """A nested document with a value replaced, removed, moved or added."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            return chance.choice(_ODD)
        holder, key = chance.choice(places)
        how = chance.random()
        if how < 0.4:
            holder[key] = chance.choice(_ODD)
        elif how < 0.65:
            holder[key] = _alike(holder[key], chance)
        elif how < 0.75:
            del holder[key]
        elif how < 0.9:
            other, its = chance.choice(places)
            if its in other if isinstance(other, dict) else its < len(other):
                holder[key] = _copied(other[its])
        elif isinstance(holder, dict):
            holder[chance.choice(("x", "", "seed", "a.b", "é", str(key) * 2))] = chance.choice(_ODD)
        else:
            holder.extend([_copied(holder[key])] * chance.choice((1, 30)))
    return document


def _alike(value: Any, chance: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * chance.choice((2, -1, 1000, 0)) + chance.choice((0, 1, -1))
    if isinstance(value, str):
        return chance.choice((value + "x", value[1:], value.upper(), value * 9, value[::-1]))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    own = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in own] + [place for _, each in own for place in _places(each)]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _written(text: str, chance: random.Random, quote: str) -> bytes:
    huge = chance.choice(("9" * 5000, "9" * 100, "-" + "9" * 30, "1e9999"))
    depth = chance.choice((50, 3000))
    text = text.replace(f"{quote}{_HUGE}{quote}", huge).replace(f"{quote}{_DEEP}{quote}", "[" * depth + "]" * depth)
    return text.encode(errors="surrogatepass")


def _json(data: bytes, chance: random.Random, marker: str) -> bytes:
    return _written(json.dumps(_other_values(json.loads(data), chance), default=str), chance, '"')


def _toml(data: bytes, chance: random.Random, marker: str) -> bytes:
    text = _written(tomli_w.dumps(_other_values(tomllib.loads(data.decode()), chance)), chance, '"')
    return text.replace(b"9" * 100, b"0x" + b"f" * 6000)


def _yaml(data: bytes, chance: random.Random, marker: str) -> bytes:
    documents = [_other_values(each, chance) for each in yaml.safe_load_all(data)]
    return _written(yaml.safe_dump_all(documents), chance, "'")


def _png(data: bytes, chance: random.Random, marker: str) -> bytes:
    """Chunks changed, moved and left out, with checksums that fit."""
    chunks, start = [], 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        chunks.append([data[start + 4 : start + 8], data[start + 8 : start + 8 + length]])
        start += 12 + length
    place = chance.randrange(len(chunks))
    how = chance.randrange(5)
    if how == 0:
        chunks[place][1] = chance.choice(_BYTES)(chunks[place][1], chance)
    elif how == 1:
        chunks.insert(chance.randrange(len(chunks)), list(chunks[place]))
    elif how == 2:
        del chunks[place]
    elif how == 3:
        header = bytearray(chunks[0][1])
        header[chance.randrange(13)] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0][1] = bytes(header)
    else:
        extra = chance.choice((b"acTL", b"eXIf", b"iCCP", b"tRNS", b"PLTE", b"zTXt", b"fdAT", b"fcTL"))
        chunks.insert(1, [extra, chance.randbytes(chance.randrange(40))])
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:8] + b"".join(parts)


def _npy(data: bytes, chance: random.Random, marker: str) -> bytes:
    """Another header of the same length."""
    (length,) = struct.unpack_from("<H", data, 8)
    header = data[10 : 10 + length].decode()
    swaps = {
        "descr": (
            "'|u1'",
            "'<i8'",
            "'<f8'",
            "'|O'",
            "'<U3'",
            "'<c16'",
            "[('a', '|u1')]",
            "[]",
            "()",
            "'x'",
            "None",
            "(" * 300,
        ),
        "fortran_order": ("True", "None", "1"),
        "shape": (
            "()",
            "(0,)",
            "(-1,)",
            "(2, 2)",
            f"({2**62}, 4)",
            f"({10**30},)",
            "(1.5,)",
            "(True,)",
            "[2]",
            "'ab'",
            "open",
        ),
    }
    fields = dict(part for part in (("descr", "'|u1'"), ("fortran_order", "False"), ("shape", "(2,)")))
    for name in fields:
        begin = header.index(f"'{name}': ") + len(name) + 4
        fields[name] = header[begin : header.index(", '" if name != "shape" else ", }", begin)]
    name = chance.choice(list(fields))
    fields[name] = chance.choice(swaps[name])
    new = "{" + "".join(f"'{key}': {value}, " for key, value in fields.items()) + "}"
    new = new.ljust(length - 1)[: max(length - 1, len(new))] + "\n"
    return data[:8] + struct.pack("<H", len(new)) + new.encode() + data[10 + length :]


def _safetensors(data: bytes, chance: random.Random, marker: str) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    document = json.loads(data[8 : 8 + length])
    for each in document.values():
        if "dtype" in each and chance.random() < 0.1:
            each["dtype"] = chance.choice(("F64", "I64", "BF16", "F8_E4M3", "U8", "C64", "BOOL", "X"))
    header = _written(json.dumps(_other_values(document, chance), default=str), chance, '"')
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _parquet(data: bytes, chance: random.Random, marker: str) -> bytes:
    """Wrong columns, types, rows and values, in a file that is whole."""
    table = pq.read_table(io.BytesIO(data))
    place = chance.randrange(table.num_columns)
    field, column = table.schema.field(place), table.column(place)
    how = chance.randrange(8)
    if how == 0:
        table = table.remove_column(place)
    elif how == 1:
        name = chance.choice(
            ("x", "", "param.", "score.é", "param.a.b", table.column_names[0], "goal.mode", "limit.trials")
        )
        table = table.append_column(name, column)
    elif how == 2:
        to = chance.choice(
            (pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(), pa.timestamp("s"), pa.null())
        )
        table = table.set_column(
            place, field.name, pa.array([None] * len(table), to) if to == pa.null() else column.cast(to)
        )
    elif how == 3:
        rows = [chance.randrange(len(table)) for _ in range(chance.randrange(8))]
        table = table.take(pa.array(rows, pa.int64()))
    elif how == 4:
        table = table.set_column(place, pa.field(field.name, field.type), pa.nulls(len(table), field.type))
    elif how == 5:
        wrong = pa.array([b"\xff\xfe"] * len(table), pa.binary())
        table = table.set_column(place, field.name, pa.Array.from_buffers(pa.string(), len(wrong), wrong.buffers()))
    else:
        values = column.to_pylist()
        odd = [value for value in _ODD if value is None or isinstance(value, bool | int | float | str)]
        values[chance.randrange(len(values))] = chance.choice(odd)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_timestamp(plain):
            made = pa.array([chance.choice((0, -1, 2**62, -(2**62), 10**15)) for _ in values], pa.int64()).cast(plain)
        else:
            made = pa.array(values, plain)
        table = table.set_column(place, field, made.cast(field.type))
    if chance.random() < 0.1:
        table = table.replace_schema_metadata(_extension(Hostile(marker)))
    file = io.BytesIO()
    pq.write_table(table, file, write_page_checksum=chance.random() < 0.5)
    return file.getvalue()


def _rows(data: bytes, chance: random.Random, marker: str) -> bytes:
    """Other values in a file that is whole, and no more of another type than any ledger's."""
    table = pq.read_table(io.BytesIO(data))
    for _ in range(chance.choice((1, 2, 4, 8))):
        place, row = chance.randrange(table.num_columns), chance.randrange(len(table))
        field = table.schema.field(place)
        values = table.column(place).to_pylist()
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_timestamp(plain):
            years = chance.choice((1970, 1999, 2026, 9998))
            values[row] = datetime.datetime(years, chance.randrange(1, 13), 1, tzinfo=datetime.UTC)
        elif chance.random() < 0.3:
            values[row] = chance.choice(values)
        else:
            values[row] = chance.choice([each for each in _ODD if _fits(each, plain)])
        if values[row] is None and not field.nullable:
            continue
        table = table.set_column(place, field, pa.array(values, plain).cast(field.type))
    if chance.random() < 0.1:
        table = table.slice(chance.randrange(len(table)))
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _fits(value: Any, kind: pa.DataType) -> bool:
    if value is None or isinstance(value, list | dict | datetime.date):
        return value is None
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return whole or (isinstance(value, float) and pa.types.is_floating(kind))


_FORMS: dict[str, Callable[[bytes, random.Random, str], bytes]] = {
    "json": _json,
    "toml": _toml,
    "yaml": _yaml,
    "png": _png,
    "npy": _npy,
    "safetensors": _safetensors,
    "parquet": _parquet,
    "rows": _rows,
}
