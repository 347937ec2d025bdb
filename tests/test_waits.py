import pytest

from ensemble_tune.waits import current_waits, listening, tracked, waiting


def test_a_wait_is_there_for_as_long_as_it_lasts_and_counts_its_steps() -> None:
    seen = []
    for item in tracked("abc", "spelling", 3):
        (wait,) = current_waits()
        seen.append((item, wait.what, wait.done, wait.total))
    assert seen == [("a", "spelling", 0, 3), ("b", "spelling", 1, 3), ("c", "spelling", 2, 3)]
    assert current_waits() == ()


def test_a_wait_that_fails_or_is_given_up_is_over() -> None:
    with pytest.raises(ValueError), waiting("failing"):
        raise ValueError
    left = tracked("abc", "spelling", 3)
    next(left)
    assert len(current_waits()) == 1
    left.close()  # type: ignore[attr-defined]  # a generator
    assert current_waits() == ()


def test_whoever_listens_is_told_of_beginnings_and_ends() -> None:
    told: list[int] = []
    with listening(lambda: told.append(len(current_waits()))), waiting("one"), waiting("two"):
        pass
    with waiting("three"):
        pass
    assert told == [1, 2, 1, 0]
