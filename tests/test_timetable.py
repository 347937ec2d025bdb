import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from written_run import base, usual_run

from ensemble_tune.timetable import Timetable
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.session import SessionRecord


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def table(hours: float | None, **before: float) -> tuple[Timetable, Clock]:
    clock = Clock()
    return Timetable(hours, before, clock, clock.now), clock


def trials(*seconds: float) -> list[TrialRecord]:
    return [replace(base(number, 0.5), seconds=own) for number, own in enumerate(seconds)]


def test_without_a_limit_nothing_is_bounded() -> None:
    free, _ = table(None)
    assert (free.left, free.base, free.meta(0.0), free.compare) == (math.inf, None, None, math.inf)
    assert free.members(trials(1e6, 1e6, 1e6, 1e6), 3, folds=3, slots=1) == 3


def test_hours_shrink_with_the_clock_and_with_what_was_used_before() -> None:
    bounded, clock = table(2.0, base=0.5, fold=0.25)
    assert bounded.left == 1.25 and bounded.base == 1.0
    clock.now += 1800
    assert bounded.left == 0.75
    clock.now += 36_000
    assert bounded.left == 0.0 and bounded.meta(0.3) == pytest.approx(0.3, abs=1e-5) and bounded.compare == 0.0


def test_models_are_trained_for_as_long_as_leaves_time_for_several() -> None:
    bounded, _ = table(1.0)
    # 2520 s on one slot for 4 trainings, 630 s each; on two and more for two one after another, 1260 s each.
    assert bounded.epochs(15.0, slots=1) == 42
    assert bounded.epochs(30.0, slots=2) == bounded.epochs(30.0, slots=100) == 42
    assert bounded.epochs(0.1, slots=2) == 60 and bounded.epochs(1e4, slots=2) == 4


def test_fewer_models_are_trained_where_several_would_learn_too_little() -> None:
    bounded, _ = table(1.0)
    assert bounded.epochs(30.0, slots=1) == 40, "two instead of four"
    assert bounded.epochs(60.0, slots=1) == bounded.epochs(60.0, slots=2) == 40, "one after another no more"
    assert bounded.epochs(84.0, slots=1) == bounded.epochs(84.0, slots=2) == 30, "all the time that there is"
    assert table(None)[0].epochs(1e4, slots=1) == 60
    assert bounded.base == 0.5 and bounded.base_alone == 0.88 and table(None)[0].base_alone is None


def test_where_hours_are_few_fewer_models_are_trained_at_once_on_more_cores_each() -> None:
    bounded, _ = table(1.0)

    def few(seconds: float, slots: int, fewest: int = 1, *, anytime: bool = False) -> tuple[int, int]:
        return bounded.few(seconds, slots, fewest=fewest, anytime=anytime)

    assert few(42.0, slots=2) == (2, 40) and few(42.0, slots=2, anytime=True) == (2, 40), "time for 60 epochs on each"
    assert few(43.0, slots=2) == few(43.0, slots=2, fewest=2) == (2, 59), "for enough of one on each"
    assert few(43.0, slots=2, anytime=True) == (2, 117), "more than the hours hold: they cut it off"
    assert few(64.0, slots=2) == (1, 56) and few(64.0, slots=3) == (1, 68), "on two cores, and on three"
    assert few(64.0, slots=2, fewest=2) == (2, 39), "GPUs are not shared out"
    assert few(64.0, slots=8) == (4, 56) and few(100.0, slots=8) == (2, 50), "two cores each, then four"
    assert few(1e4, slots=64) == (8, 4), "no more than 8 cores each"
    assert few(64.0, slots=2, anytime=True) == (1, 111)
    assert table(None)[0].few(1e4, 2, fewest=1, anytime=True) == (2, 60)


def test_as_many_members_as_their_folds_can_be_trained_in_time() -> None:
    bounded, clock = table(1.0)
    clock.now += 1800  # half an hour is left, 70% of it for folds: 1260 s on each of 2 slots

    def of(*seconds: float, slots: int = 2) -> int:
        return bounded.members(trials(*seconds), 3, folds=3, slots=slots)

    assert of(400, 400, 400) == 3, "each is trained on two thirds three times: 800 s, 2400 of 2520"
    assert of(500, 500, 500) == 2 and of(1000, 500, 1) == 1 and of(2000, 1, 1) == 0
    assert of(1800, 1800, 1800, slots=9) == of(1800, 1800, 1800, slots=100) == 3, "1200 s each, all side by side"
    assert of(2000, 2000, 2000, slots=100) == 0, "a single one takes longer than there is"
    assert bounded.members(trials(1), 1, folds=3, slots=2) == 1
    for seconds, wanted, holds in (
        ([500, 500], 2, True),
        ([1000, 500], 2, False),
        ([1000], 1, True),
        ([2000], 1, False),
    ):
        assert bounded.holds_fits(trials(*seconds), wanted, folds=3, slots=2) == holds


def test_whether_fusions_will_be_fitted_is_known_before_the_base_search() -> None:
    bounded, _ = table(1.0)  # half an hour after the base search, 70% of it for folds: 1260 s on each of 2 slots
    assert bounded.will_hold_fits(630, 3, folds=3, slots=2) and not bounded.will_hold_fits(631, 3, folds=3, slots=2)
    assert bounded.will_hold_fits(1260, 1, folds=3, slots=2) and not bounded.will_hold_fits(1261, 1, folds=3, slots=2)
    assert table(None)[0].will_hold_fits(1e9, 3, folds=3, slots=1)


def test_going_on_finds_the_same_members() -> None:
    first, clock = table(1.0)
    clock.now += 1800
    chosen = first.members(trials(400, 400, 400), 3, folds=3, slots=2)
    again, _ = table(1.0, base=0.5, fold=0.3)
    assert again.members(trials(400, 400, 400), 3, folds=3, slots=2) == chosen == 3
    overspent, _ = table(1.0, base=0.5, fold=0.45, meta=0.1, compare=0.1, final=0.5)
    assert overspent.members(trials(400, 400, 400), 3, folds=3, slots=2) == 3
    late, _ = table(1.0, base=0.95, fold=0.45)
    assert late.members(trials(400, 400, 400), 3, folds=3, slots=2) == 0


def test_a_runs_ledger_tells_what_it_used(tmp_path: Path) -> None:
    ledger = Ledger(usual_run(tmp_path) / LEDGER)
    ledger.open()
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number, (stage, hours) in enumerate([("base", 1.0), ("base", 0.5), ("meta", 0.25)], start=1):
        ended = began + timedelta(hours=hours)
        ledger.put_session(
            SessionRecord(
                stage=stage,
                session=number,
                started=began,
                updated=ended,
                ended=ended,
                reason="",
                slots=2,
                host="a",
                pid=1,
            )
        )
    ledger.close()
    found = Timetable.of_run(tmp_path, 4.0)
    assert found.before == pytest.approx({"base": 1.5, "meta": 0.25})
    assert found.left == pytest.approx(2.25, abs=0.01)
    assert Timetable.of_run(tmp_path / "nowhere", 4.0).before == {}
