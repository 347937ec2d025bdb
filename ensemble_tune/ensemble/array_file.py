"""NumPy's array files (.npy) of plain numbers: their type and shape are told before anything in them is believed."""

from __future__ import annotations

import io
import math
import tokenize
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ensemble_tune.storage import reason_of

_NO_HEADER = (ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What NumPy raises for a header that is none: it reads it as a Python literal."""


def map_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Memory-maps an array, read-only. Raises OSError, and ValueError where it is damaged or of another type or shape.

    shape: None where a side may have any length.
    """
    with path.open("rb") as file:
        found = _checked(file, path.stat().st_size, np.dtype(dtype), shape)
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=found))


def parse_array(data: bytes, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """The array in a file's bytes. Raises ValueError as `map_array` does."""
    file = io.BytesIO(data)
    found = _checked(file, len(data), np.dtype(dtype), shape)
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(found).copy()


def _checked(file: BinaryIO, size: int, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """The array's shape; leaves the file where its numbers begin. size: the file's, in bytes."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"it is of version {version}")
        found, by_columns, own = np.lib.format.read_array_header_1_0(file)
    except _NO_HEADER as error:
        raise ValueError(f"it is no array file ({reason_of(error)})") from error
    fits = len(found) == len(shape) and all(want in (None, has) for want, has in zip(shape, found, strict=True))
    if own != dtype or by_columns or not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(
            f"it must be {dtype} of ({wanted}), but is {own} of {found}{' by columns' if by_columns else ''}"
        )
    if size - file.tell() != math.prod(found) * dtype.itemsize:
        raise ValueError("it is truncated, or has something behind its end")
    return found
