from collections import defaultdict
from datetime import timedelta
from itertools import pairwise

import pytest
from simulated import decide, learning

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.budget import Budget, Meter
from ensemble_tune.tune.record import EpochRecord, Status
from ensemble_tune.tune.scheduler import SCHEDULERS
from ensemble_tune.tune.simulator import BEGIN, Find, simulate

LINE = [{"worth": worth} for worth in (0.1, 0.2, 0.3, 0.4, 0.5)]


def test_trials_on_slots_take_the_time_that_they_take() -> None:
    rows: list[EpochRecord] = []
    done = simulate(decide(sampler=None, points=LINE), learning(epochs=3, seconds=10.0), slots=2, on_epoch=rows.append)
    # Five trials of 30 seconds on two slots: the fifth has a slot of its own for the last 30.
    assert (done.seconds, done.epochs, done.busy) == (90.0, 15, pytest.approx(150 / 180))
    ended = [(record.ended - BEGIN).total_seconds() for record in done.records if record.ended]
    assert ended == [30.0, 30.0, 60.0, 60.0, 90.0]
    assert [row.reported - BEGIN for row in rows if row.number == 4] == [timedelta(seconds=s) for s in (70, 80, 90)]
    assert done.reason == "all trials have ended"


def test_one_more_trial_than_there_are_places_is_proposed_before_a_place_is_free() -> None:
    done = simulate(decide(sampler=None, points=LINE), learning(epochs=3, seconds=10.0), slots=2)
    assert [(record.started - BEGIN).total_seconds() for record in done.records] == [0.0, 0.0, 0.0, 30.0, 30.0]


def test_a_worker_starts_once_a_slot_and_every_trial_pays_its_own_set_up() -> None:
    rows: list[EpochRecord] = []
    done = simulate(
        decide(sampler=None, points=LINE[:3]),
        learning(epochs=1, seconds=10.0),
        slots=1,
        start=100.0,
        between=5.0,
        on_epoch=rows.append,
    )
    assert done.seconds == 100 + 3 * (5 + 10)
    assert [row.seconds.get("start") for row in rows] == [100.0, 0.0, 0.0]
    assert [row.seconds["wait"] for row in rows] == [0.0, 115.0, 15.0]
    assert [row.busy for row in rows] == [15.0, 15.0, 15.0]
    assert done.busy == pytest.approx(45 / 145)


def test_finds_tell_the_best_score_so_far_by_time_and_by_epochs() -> None:
    scores = {0: [0.1, 0.5, 0.3], 1: [0.2, float("nan"), 0.9]}
    done = simulate(
        decide(sampler=None, points=LINE[:2]),
        lambda record: (({"score": score}, 10.0 + record.number) for score in scores[record.number]),
        slots=2,
    )
    assert done.finds == [Find(10.0, 1, 0.1), Find(11.0, 2, 0.2), Find(20.0, 3, 0.5), Find(33.0, 6, 0.9)]


def test_less_is_better_where_the_goal_says_so() -> None:
    done = simulate(
        decide(sampler=None, points=LINE[:1], mode="min"),
        lambda record: (({"score": score}, 1.0) for score in (0.5, 0.7, 0.2)),
        slots=1,
    )
    assert [find.score for find in done.finds] == [0.5, 0.2]


def test_a_trial_that_raises_has_failed_and_frees_its_slot() -> None:
    done = simulate(decide(sampler=None, points=LINE), learning(epochs=3, seconds=10.0, fails={0: 1, 1: 3}), slots=1)
    assert [record.status for record in done.records[:3]] == [Status.FAILED, Status.FAILED, Status.FINISHED]
    assert [record.epochs for record in done.records] == [0, 2, 3, 3, 3]
    assert done.records[0].error == "the loss is nan"
    assert done.seconds == 20 + 3 * 30


@pytest.mark.parametrize("slots", [1, 3, 20])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_trial_trains_twice_at_a_time_and_no_more_trials_than_slots(scheduler: str, slots: int) -> None:
    rows: list[EpochRecord] = []
    simulate(decide(scheduler, trials=40), learning(), slots=slots, on_epoch=rows.append)
    rounded = timedelta(milliseconds=1)  # the clock shows microseconds
    spans = [(row.reported - timedelta(seconds=row.busy) + rounded, row.reported, row) for row in rows]
    for begin, _, row in spans:
        at_once = [other for from_, to, other in spans if from_ <= begin < to]
        assert len(at_once) <= slots
        assert [other.trial for other in at_once].count(row.trial) == 1
    by_worker = defaultdict(list)
    for begin, end, row in spans:
        by_worker[row.worker].append((begin, end))
    assert len(by_worker) <= slots
    assert all(one[1] <= next_[0] for own in by_worker.values() for one, next_ in pairwise(own))


def test_a_promoted_trial_goes_on_where_it_paused_in_a_new_attempt() -> None:
    rows: list[EpochRecord] = []
    simulate(decide("asha-promote", trials=9), learning(), slots=1, on_epoch=rows.append)
    own = defaultdict(list)
    for row in rows:
        own[row.trial].append(row)
    assert all([row.epoch for row in each] == list(range(1, len(each) + 1)) for each in own.values())
    promoted = [[row.attempt for row in each] for each in own.values() if len(each) > 1]
    assert promoted and all(attempts == sorted(attempts) for attempts in promoted)
    assert any(attempts[-1] > 1 for attempts in promoted)


def test_hours_end_a_search_and_what_was_in_progress_is_lost() -> None:
    meter = Meter(since=0.0, places=2)
    decisions = decide(trials=99, budget=Budget(hours=1.0), meter=meter)
    done = simulate(decisions, learning(seconds=700.0), slots=2)
    # Five epochs of 700 seconds fit into an hour.
    assert (done.epochs, done.reason) == (10, "1 hours used")
    assert [record.status for record in done.records] == [Status.PAUSED] * 3
    assert [record.epochs for record in done.records] == [5, 5, 0]


def test_an_interrupted_search_goes_on_at_its_time() -> None:
    rows: list[EpochRecord] = []
    first = simulate(
        decide(trials=3, budget=Budget(hours=1.0), meter=Meter(since=0.0)),
        learning(seconds=1000.0),
        slots=1,
        on_epoch=rows.append,
    )
    again = decide(trials=3)
    again.take_up(first.records, rows)
    second = simulate(again, learning(seconds=1000.0), slots=1, begin=first.seconds, on_epoch=rows.append)
    assert {(row.trial, row.epoch) for row in rows} == {(r.trial, e) for r in second.records for e in range(1, 10)}
    assert len(rows) == 27
    assert second.seconds == 24 * 1000.0
    assert (rows[-1].reported - BEGIN).total_seconds() == first.seconds + second.seconds


def test_the_same_search_twice_is_the_same() -> None:
    one, other = (simulate(decide("asha-promote", trials=30), learning(), slots=4) for _ in range(2))
    assert one == other


def test_less_than_one_slot_is_refused() -> None:
    with pytest.raises(ConfigError, match="slots must be at least 1, but got 0; try 4"):
        simulate(decide(), learning(), slots=0)
