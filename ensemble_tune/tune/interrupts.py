"""Ctrl-C and SIGTERM, turned into an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a search in order; the same command goes on where it stopped."""


@contextmanager
def interruptible(ask_to_end: Callable[[], None]) -> Iterator[None]:
    """Calls `ask_to_end` at the first SIGINT or SIGTERM; a second one does what it did before."""
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.getsignal(number) for number in signals}

        def ask(number: int, frame: FrameType | None) -> None:
            ask_to_end()
            for each in signals:
                signal.signal(each, before[each])

        for number in signals:
            signal.signal(number, ask)
    except ValueError:  # Not the main thread, which alone may handle signals.
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
