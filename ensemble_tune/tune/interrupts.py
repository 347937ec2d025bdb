"""Ctrl-C and SIGTERM, turned into an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a search in order; the same command goes on where it stopped."""


@contextmanager
def interruptible(ask_to_end: Callable[[], None]) -> Iterator[None]:
    """Calls `ask_to_end` at the first SIGINT or SIGTERM; a second one does what it did before.

    One that the process was told to ignore, as nohup does, is ignored.
    """
    # None is a handler that was not set from Python, and cannot be put back.
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        ask_to_end()
        put_back()

    try:
        for number in before:
            signal.signal(number, ask)
    except ValueError:  # Not the main thread, which alone may handle signals.
        yield
        return
    try:
        yield
    finally:
        put_back()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts handlers of signals back that what runs inside replaces by its own: Ray's ends a process at SIGTERM."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)


class Noted:
    """Notes SIGINT and SIGTERM that come between searches, and then does what was done before.

    That is to raise KeyboardInterrupt, in whatever runs. In a destructor, or in a callback that C calls, Python prints
    and drops it, and what was to end would go on.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        self.came = False
        """Whether one has come that nobody has heard of."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Noted:
        self.came = False
        with suppress(ValueError):  # not the main thread, which alone may handle signals
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if callable(before) and before != self._note:  # neither ignored nor left to the system
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)

    def check(self) -> None:
        """Raises Interrupted if one has come that nobody has heard of."""
        if self.came:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self._before[signal.Signals(number)](number, frame)
