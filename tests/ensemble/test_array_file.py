"""Array files that NumPy would read, or fall over, and that are none of ours: refused by what is wrong with them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ensemble_tune.ensemble.array_file import map_array, parse_array

WHOLE = np.arange(12, dtype=np.int64).reshape(3, 4)
TYPE = np.dtype(np.int64)


def _saved(array: np.ndarray, version: tuple[int, int] | None = (1, 0)) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def _with_header(text: str) -> bytes:
    """The file of `WHOLE` with another header."""
    header = text.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + WHOLE.tobytes()


@pytest.fixture(params=["mapped", "parsed"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., np.ndarray]:  # type: ignore[type-arg]
    """Either way of reading a file's bytes."""

    def read(data: bytes, *shape: int | None) -> np.ndarray:  # type: ignore[type-arg]
        (tmp_path / "a.npy").write_bytes(data)
        if request.param == "mapped":
            return map_array(tmp_path / "a.npy", TYPE, shape)
        return parse_array(data, TYPE, shape)

    return read


@pytest.mark.parametrize("shape", [(3, 4), (None, 4), (3, None), (None, None)])
def test_an_array_comes_back(read: Callable[..., np.ndarray], shape: tuple[int | None, int | None]) -> None:  # type: ignore[type-arg]
    assert np.array_equal(read(_saved(WHOLE), *shape), WHOLE)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is no array file"),
        (b"\x93NUMPY", "it is no array file"),
        (b"PK\3\4" + bytes(100), "it is no array file"),
        (_saved(WHOLE, (2, 0)), "it is no array file (it is of version (2, 0))"),
        (_saved(WHOLE, (3, 0)), "it is no array file (it is of version (3, 0))"),
        (_with_header("nothing of the kind"), "it is no array file"),
        (_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4"), "it is no array file"),
        (_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': open('x')}"), "it is no array file"),
        (_with_header("{'descr': '<i8', 'fortran_order': False}"), "it is no array file"),
        (_with_header("{'descr': 'what', 'fortran_order': False, 'shape': (3, 4)}"), "it is no array file"),
        (_with_header("(" * 110), "it is no array file"),
        (_saved(np.asfortranarray(WHOLE)), "it must be int64 of (3, 4), but is int64 of (3, 4) by columns"),
        (_saved(WHOLE.astype(np.int32)), "it must be int64 of (3, 4), but is int32 of (3, 4)"),
        (_saved(WHOLE.astype(">i8")), "it must be int64 of (3, 4), but is >i8 of (3, 4)"),
        (_saved(WHOLE.T.copy()), "it must be int64 of (3, 4), but is int64 of (4, 3)"),
        (_saved(WHOLE[None]), "it must be int64 of (3, 4), but is int64 of (1, 3, 4)"),
        (_saved(WHOLE)[:-1], "it is truncated, or has something behind its end"),
        (_saved(WHOLE) + b"\0", "it is truncated, or has something behind its end"),
    ],
)
def test_what_is_no_array_of_this_type_and_shape_is_refused(
    read: Callable[..., np.ndarray],  # type: ignore[type-arg]
    data: bytes,
    said: str,
) -> None:
    with pytest.raises(ValueError) as error:
        read(data, 3, 4)
    assert said in str(error.value)


def test_any_length_is_told_as_such() -> None:
    with pytest.raises(ValueError, match=r"^it must be int64 of \(any, 3\), but is int64 of \(3, 4\)$"):
        parse_array(_saved(WHOLE), TYPE, (None, 3))


def test_objects_are_not_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"^it must be int64 of \(1\), but is object of \(1,\)$"):
        parse_array(file.getvalue(), TYPE, (1,))
