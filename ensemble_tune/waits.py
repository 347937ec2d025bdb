"""How far a wait is: whoever works says so, whoever prints listens, and nobody has to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Wait:
    """Something that a person waits for."""

    what: str
    """For example "decoding train"."""
    total: int | None = None
    """Of how many steps; None where that is not known."""
    done: int = 0
    """Steps so far."""
    since: float = field(default_factory=time.monotonic)
    """When it began, in seconds."""


_waits: list[Wait] = []
"""What this process waits for now, the outermost first."""
_listeners: list[Callable[[], None]] = []


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Wait]:
    """Says that a wait goes on for as long as the `with` lasts; its steps are counted in the `Wait`."""
    wait = Wait(what, total)
    _waits.append(wait)
    _tell()
    try:
        yield wait
    finally:
        _waits.remove(wait)
        _tell()


def tracked(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, one step each of a wait that ends with the last."""
    with waiting(what, total) as wait:
        for item in items:
            yield item
            wait.done += 1


def current_waits() -> tuple[Wait, ...]:
    """What this process waits for now, the outermost first."""
    return tuple(_waits)


@contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Calls `listener` whenever a wait begins or ends, for as long as the `with` lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _tell() -> None:
    for listener in tuple(_listeners):
        listener()
