"""TOML and JSON files that anyone may have written: whatever is wrong with one is a ValueError that says what."""

from __future__ import annotations

import json
import math
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

LARGEST = 2**63 - 1
"""Of whole numbers: what Parquet, NumPy and torch hold."""
_TOO_DEEP = "it is nested too deeply"


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML text holds. Raises ValueError where it is none, or holds a number that 64 bits do not."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    left: list[Any] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError("a whole number in it is larger than 64 bits hold")
    return document


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds. Raises ValueError where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


class Document:
    """A JSON object whose values are taken by name, each of the type that is meant. Raises ValueError for others."""

    def __init__(self, value: object, name: str = "") -> None:
        """name: what it is called within the file."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{name or 'it'} must be a table, but is {reprlib.repr(value)}")
        self._values: Mapping[str, Any] = value
        self._place = f"{name}." if name else ""

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def is_null(self, name: str) -> bool:
        """Whether nothing is said."""
        return self._of(name) is None

    def only(self, names: Iterable[str]) -> Document:
        """Itself, where it has no other names: another version's would be misread."""
        others = set(self._values) - set(names)
        if others:
            raise ValueError(f"{self._place}{min(map(str, others))} is unknown")
        return self

    def text(self, name: str) -> str:
        """A text."""
        return text_of(self._of(name), self._place + name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(text_of(each, self._place + name) for each in self.items(name))

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number from `least` to what 64 bits hold."""
        return whole_of(self._of(name), self._place + name, least)

    def wholes(self, name: str, least: int = 0) -> tuple[int, ...]:
        """A list of them."""
        return tuple(whole_of(each, self._place + name, least) for each in self.items(name))

    def number(self, name: str) -> float:
        """A number; nan for null, since JSON knows none."""
        return number_of(self._of(name), self._place + name)

    def numbers(self, name: str) -> dict[str, float]:
        """A table of numbers."""
        own = self._place + name
        return {text_of(key, own): number_of(value, own) for key, value in self.table(name)._values.items()}

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._of(name)
        if not isinstance(value, bool):
            raise ValueError(f"{self._place}{name} must be true or false, but is {reprlib.repr(value)}")
        return value

    def time(self, name: str) -> datetime:
        """A moment, with its time zone."""
        value = datetime.fromisoformat(self.text(name))
        if value.tzinfo is None:
            raise ValueError(f"{self._place}{name} must have a time zone, but is {value}")
        return value

    def table(self, name: str) -> Document:
        """A table within."""
        return Document(self._of(name), self._place + name)

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self._of(name)
        if not isinstance(value, list):
            raise ValueError(f"{self._place}{name} must be a list, but is {reprlib.repr(value)}")
        return value

    def plain(self, name: str) -> dict[str, str | int | float | bool]:
        """A table of texts, numbers and booleans."""
        own = self._place + name
        return {text_of(key, own): _plain(value, own) for key, value in self.table(name)._values.items()}

    def own_texts(self, name: str) -> dict[str, str]:
        """A table of texts."""
        own = self._place + name
        return {text_of(key, own): text_of(value, own) for key, value in self.table(name)._values.items()}

    def _of(self, name: str) -> Any:
        if name not in self._values:
            raise ValueError(f"{self._place}{name} is missing")
        return self._values[name]


def text_of(value: object, name: str) -> str:
    """A text that UTF-8 can hold, which JSON's need not be. Raises ValueError; `name` is for the error."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must hold text, but has {reprlib.repr(value)}")
    value.encode()
    return value


def whole_of(value: object, name: str, least: int = 0) -> int:
    """A whole number from `least` to what 64 bits hold. Raises ValueError; `name` is for the error."""
    if type(value) is not int or not least <= value <= LARGEST:
        raise ValueError(f"{name} must be a whole number of at least {least}, but is {reprlib.repr(value)}")
    return value


def number_of(value: object, name: str) -> float:
    """A number, nan for null. Raises ValueError; `name` is for the error."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must hold numbers, but has {reprlib.repr(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} holds a number that is too large") from None


def _plain(value: object, name: str) -> str | int | float | bool:
    """A text, a number that 64 bits hold, or a boolean. Raises ValueError."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST:
        return value
    return text_of(value, name)
