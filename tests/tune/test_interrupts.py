import os
import signal
from collections.abc import Iterator

import pytest

from ensemble_tune.tune.interrupts import Interrupted, Noted, handlers_kept, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_does_what_it_did_before(number: signal.Signals) -> None:
    asked: list[bool] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with interruptible(lambda: asked.append(True)):
        os.kill(os.getpid(), number)
        assert asked == [True]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert asked == [True] and signal.getsignal(number) is signal.default_int_handler


def test_a_signal_that_the_process_was_told_to_ignore_is_ignored() -> None:
    """As in the background of a script, or under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked: list[bool] = []
    with Noted(), interruptible(lambda: asked.append(True)):
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_handlers_that_were_there_are_put_back() -> None:
    """Ray replaces the one of SIGTERM by one that ends the process with another status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with handlers_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_a_noted_signal_is_heard_once_it_is_asked_for_and_forgotten_by_the_next_run() -> None:
    noted = Noted()
    for _ in range(2):
        with noted:
            noted.check()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interrupted):
                noted.check()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
