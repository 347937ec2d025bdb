import threading
import time
from collections.abc import Iterator

import pytest

from ensemble_tune.ensemble.ahead import ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert not threads()


def test_none_is_an_item_like_any_other() -> None:
    assert list(ahead(iter([None, 1, None]))) == [None, 1, None]


def test_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    got = ahead(items())
    assert next(got) == 1
    with pytest.raises(KeyError, match="two"):
        next(got)
    assert not threads()


def test_no_more_than_depth_are_made_ahead() -> None:
    made = []
    got = ahead((made.append(i) for i in range(100)), depth=3)
    next(got)
    deadline = time.monotonic() + 2
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4
    got.close()


def test_thread_ends_when_the_consumer_stops_early() -> None:
    for number in ahead(iter(range(10**9))):
        if number == 3:
            break
    assert not threads()
