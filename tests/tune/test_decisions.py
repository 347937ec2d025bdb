from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import epoch_record
from simulated import EPOCHS, decide, learning

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.budget import Budget, Meter, Target, Usage
from ensemble_tune.tune.decisions import Decisions
from ensemble_tune.tune.known_first import KnownFirst
from ensemble_tune.tune.record import EpochRecord, Objective, Status, TrialRecord
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.scheduler import SCHEDULERS, Decision, rungs
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.simulator import BEGIN, Simulation, simulate

GRID = SearchSpace.parse("[parameters]\nworth = { choices = [0.1, 0.2, 0.3, 0.4, 0.5] }")


class Died(Exception):  # noqa: N818  # as a process does; no mistake
    """The search was killed."""


class Disk:
    """What outlives a search: every trial's latest record, and every row once."""

    def __init__(self) -> None:
        self.records: dict[str, TrialRecord] = {}
        self.rows: dict[tuple[str, int], EpochRecord] = {}
        self.writes_left: int | None = None

    def put_trial(self, record: TrialRecord) -> None:
        self._write()
        assert not (known := self.records.get(record.trial)) or not known.status.is_end, "a trial ends once"
        self.records[record.trial] = record

    def put_epoch(self, row: EpochRecord) -> None:
        self._write()
        assert (row.trial, row.epoch) not in self.rows, "an epoch is trained once"
        self.rows[row.trial, row.epoch] = row

    def _write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Died
            self.writes_left -= 1

    def read(self) -> list[TrialRecord]:
        """As the conductor does: of a trial that has not ended, its rows are the truth."""
        return [record if record.status.is_end else self._from_rows(record) for record in self.records.values()]

    def _from_rows(self, record: TrialRecord) -> TrialRecord:
        record = replace(record, epochs=0, best_epoch=None, score=None, scores={}, seconds=0.0)
        for row in sorted((row for row in self.rows.values() if row.trial == record.trial), key=lambda row: row.epoch):
            record = record.with_epoch(row, "score", "max", "best")
        return record

    @property
    def seconds(self) -> float:
        """The virtual time of the last row."""
        return max(((row.reported - BEGIN).total_seconds() for row in self.rows.values()), default=0.0)


def run(lives: Sequence[int], slots: int, points: Sequence[float] = (), fails: Any = None, **search: Any) -> Disk:
    """A search that is killed after so many writes in each of its lives, and then left to end."""
    disk = Disk()
    for writes in (*lives, None):
        disk.writes_left = writes
        left = Counter(points) - Counter(r.params["worth"] for r in disk.records.values() if r.sampler == "given")
        given_ = [{"worth": worth} for worth in left.elements()]
        decisions = decide(points=given_, changed=disk.put_trial, **search)
        try:
            decisions.take_up(disk.read(), list(disk.rows.values()))
            simulate(decisions, learning(fails=fails), slots=slots, begin=disk.seconds, on_epoch=disk.put_epoch)
        except Died:
            continue
    return disk


def outcome(disk: Disk) -> list[tuple[Any, ...]]:
    """All that a search came to, apart from when and in how many attempts."""
    trials = [(r.number, r.trial, r.status, r.params, r.seed, r.epochs, r.score) for r in disk.records.values()]
    return sorted(trials) + sorted((row.number, row.epoch, row.scores["score"]) for row in disk.rows.values())


interrupted = st.lists(st.integers(0, 60), max_size=6)


class TestKilledAtAnyMoment:
    @settings(max_examples=100, deadline=None)
    @given(lives=interrupted, slots=st.integers(1, 5), trials=st.integers(1, 9), seed=st.integers(0, 9))
    def test_a_search_that_stops_nobody_ends_as_the_unbroken_one(
        self, lives: list[int], slots: int, trials: int, seed: int
    ) -> None:
        killed, unbroken = (
            run(cuts, slots, points=[0.3, 0.7], trials=trials, seed=seed, fails={1: 4}) for cuts in (lives, [])
        )
        assert outcome(killed) == outcome(unbroken)

    @settings(max_examples=200, deadline=None)
    @given(
        lives=interrupted,
        slots=st.integers(1, 5),
        trials=st.integers(1, 25),
        seed=st.integers(0, 99),
        name=st.sampled_from(["asha", "asha-promote", "median"]),
        factor=st.integers(2, 3),
    )
    def test_no_epoch_is_lost_or_trained_twice_and_the_best_go_on(
        self, lives: list[int], slots: int, trials: int, seed: int, name: str, factor: int
    ) -> None:
        disk = run(lives, slots, scheduler=name, trials=trials, seed=seed, factor=factor)
        assert sorted(record.number for record in disk.records.values()) == list(range(trials))
        curves = {}
        for record in disk.records.values():
            fresh = replace(record, epochs=0)
            expected = [scores["score"] for scores, _ in learning()(fresh)][: record.epochs]
            curves[record.trial] = [row.scores["score"] for row in disk.rows.values() if row.trial == record.trial]
            assert curves[record.trial] == expected
            assert (record.score, record.status.is_end) == (max(expected), True)
            assert record.status is (Status.FINISHED if record.epochs == EPOCHS else Status.STOPPED)
        assert any(record.status is Status.FINISHED for record in disk.records.values())
        if name == "median":
            return
        assert {record.epochs for record in disk.records.values()} <= {*rungs(EPOCHS, 1, factor), EPOCHS}
        for rung in rungs(EPOCHS, 1, factor):
            best = {trial: max(curve[:rung]) for trial, curve in curves.items() if len(curve) >= rung}
            if len(best) >= factor:
                assert len(curves[max(best, key=lambda trial: best[trial])]) > rung
                # Who stops on arrival lets the first one pass, however bad.
                assert name == "asha" or len(curves[min(best, key=lambda trial: best[trial])]) == rung

    @settings(max_examples=100, deadline=None)
    @given(lives=st.lists(st.integers(0, 20), max_size=4), slots=st.integers(1, 4))
    def test_a_grid_is_walked_once(self, lives: list[int], slots: int) -> None:
        disk = Disk()
        for writes in (*lives, None):
            disk.writes_left = writes
            again = grid(changed=disk.put_trial)
            try:
                again.take_up(disk.read(), list(disk.rows.values()))
                done = simulate(again, learning(2), slots=slots, begin=disk.seconds, on_epoch=disk.put_epoch)
            except Died:
                continue
        assert sorted(record.params["worth"] for record in done.records) == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert done.reason == "the space is used up"


def grid(**others: Any) -> Decisions:
    plain = decide()
    sampler = KnownFirst({"worth": 0.3}, make_sampler("grid", GRID, seed=0, objectives=[Objective("score")]))
    goal = replace(plain.goal, sampler="grid")
    return Decisions(goal, sampler=sampler, scheduler=plain._scheduler, trials=99, **others)


@pytest.mark.parametrize("slots", [1, 4, 30])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
class TestEveryScheduler:
    def test_every_trial_ends_exactly_once(self, scheduler: str, slots: int) -> None:
        ends = Counter[str]()
        decisions = decide(
            scheduler, trials=30, changed=lambda record: ends.update([record.trial] * record.status.is_end)
        )
        done = simulate(decisions, learning(fails={3: 1, 5: 2}), slots=slots)
        assert (done.reason, decisions.done, decisions.live) == ("all trials have ended", True, 0)
        assert ends == {record.trial: 1 for record in done.records} and len(ends) == 30
        assert done.records[3].status is Status.FAILED

    def test_trials_are_added_to_a_finished_search(self, scheduler: str, slots: int) -> None:
        rows: list[EpochRecord] = []
        first = simulate(decide(scheduler, trials=10), learning(), slots=slots, on_epoch=rows.append)
        more = decide(scheduler, trials=15)
        more.take_up(first.records, rows)
        done = simulate(more, learning(), slots=slots, begin=first.seconds, on_epoch=rows.append)
        assert done.records[:10] == first.records
        assert [record.number for record in done.records] == list(range(15))
        assert all(record.status.is_end for record in done.records)

    def test_a_finished_search_that_is_taken_up_has_nothing_to_do(self, scheduler: str, slots: int) -> None:
        rows: list[EpochRecord] = []
        first = simulate(decide(scheduler), learning(), slots=slots, on_epoch=rows.append)
        again = decide(scheduler)
        again.take_up(first.records, rows)
        assert again.done and again.next() is None
        assert sorted(again.records.values(), key=lambda record: record.number) == first.records


class TestPromotion:
    def test_of_nine_trials_three_pass_the_first_rung_and_one_the_second(self) -> None:
        points = [{"worth": 0.9 - number / 10} for number in range(9)]
        done = simulate(
            decide("asha-promote", sampler=None, points=points),
            lambda record: (({"score": float(record.params["worth"])}, 1.0) for _ in range(record.epochs, EPOCHS)),
            slots=2,
        )
        assert [record.epochs for record in done.records] == [9, 3, 3, 1, 1, 1, 1, 1, 1]
        assert [record.status for record in done.records] == [Status.FINISHED, *[Status.STOPPED] * 8]

    def test_a_trial_that_waits_is_paused_and_told_to_the_sampler(self) -> None:
        decisions = decide("asha-promote", trials=9)
        record = decisions.next()
        assert record is not None
        assert decisions.epoch(row(record, 1)) is Decision.PAUSE
        decisions.end(record.trial)
        assert (decisions.records[record.trial].status, decisions.live) == (Status.PAUSED, 0)

    def test_a_trial_promoted_before_it_has_given_its_place_away_goes_on_afterwards(self) -> None:
        decisions = decide("asha-promote", trials=4)
        first, second, third = (decisions.next() for _ in range(3))
        assert first and second and third
        assert decisions.epoch(row(first, 1, 0.9)) is Decision.PAUSE
        for other, score in ((second, 0.2), (third, 0.1)):
            decisions.epoch(row(other, 1, score))
            decisions.end(other.trial)
        fourth = decisions.next()
        assert fourth is not None and fourth.number == 3  # the first one still holds its place
        decisions.end(first.trial)
        again = decisions.next()
        assert again is not None and (again.trial, again.epochs) == (first.trial, 1)


class TestEnds:
    def reason(self, budget: Budget, *, slots: int = 2, meter: Meter | None = None, trials: int = 99) -> Simulation:
        decisions = decide(trials=trials, budget=budget, meter=meter)
        done = simulate(decisions, learning(seconds=600.0), slots=slots)
        assert decisions.done and not any(record.status is Status.RUNNING for record in done.records)
        return done

    def test_hours(self) -> None:
        done = self.reason(Budget(hours=2.0), meter=Meter(since=0.0, places=2))
        assert (done.reason, done.seconds) == ("2 hours used", 7200.0)

    def test_gpu_hours_count_the_trials_that_hold_a_share(self) -> None:
        done = self.reason(Budget(gpu_hours=2.0), meter=Meter(since=0.0, places=2, gpus=0.5))
        assert (done.reason, done.seconds) == ("2 GPU-hours used", 7200.0)

    def test_cost_counts_machines(self) -> None:
        done = self.reason(Budget(cost=5.9, price=1.5), meter=Meter(since=0.0, places=2, nodes=4))
        assert (done.reason, done.seconds) == ("cost of 5.9 reached at 1.5 a node-hour", 3600.0)

    def test_hours_of_earlier_calls_count(self) -> None:
        done = self.reason(Budget(hours=2.0), meter=Meter(since=0.0, usage=Usage(hours=1.5)))
        assert done.seconds == 1800.0

    def test_a_target(self) -> None:
        done = self.reason(Budget(target=Target("score", 0.5)))
        best = max(done.records, key=lambda record: record.score or 0.0)
        assert done.reason == f"target score=0.5 reached by {best.trial}"
        assert best.status is Status.PAUSED and done.finds[-1].score >= 0.5 > done.finds[-2].score

    def test_patience(self) -> None:
        points = [{"worth": worth} for worth in (0.3, 0.5, 0.1, 0.2, 0.4, 0.9)]
        decisions = decide(sampler=None, points=points, budget=Budget(patience=3))
        done = simulate(decisions, learning(seconds=1.0), slots=1)
        assert done.reason == "no new best in 3 trials"
        assert [record.status for record in done.records[:5]] == [Status.FINISHED] * 5
        assert not any(record.status is Status.FINISHED for record in done.records[5:])

    def test_patience_counts_what_earlier_calls_saw(self) -> None:
        points = [{"worth": worth} for worth in (0.5, 0.1, 0.2)]
        rows: list[EpochRecord] = []
        first = simulate(decide(sampler=None, points=points), learning(), slots=1, on_epoch=rows.append)
        again = decide(trials=5, budget=Budget(patience=2))
        again.take_up(first.records, rows)
        assert again.next() is None and again.reason == "no new best in 2 trials"

    def test_a_target_that_is_no_objective_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"try score=SCORE"):
            decide(budget=Budget(target=Target("accuracy", 0.5)))


class TestRows:
    def test_epochs_are_judged_again_in_the_order_in_which_they_were_reported(self) -> None:
        live = decide("asha", trials=2)
        better, worse = live.next(), live.next()
        assert better and worse
        early, late = row(worse, 1, 0.2), replace(row(better, 1, 0.8), reported=BEGIN + timedelta(seconds=9))
        assert (live.epoch(early), live.epoch(late)) == (Decision.GO_ON, Decision.GO_ON)
        again = decide("asha", trials=2)
        again.take_up(list(live.records.values()), [late, early])
        assert [record.status for record in again.records.values()] == [Status.RUNNING] * 2

    def test_a_row_of_a_replaced_attempt_changes_nothing(self) -> None:
        decisions = decide(trials=1)
        record = decisions.next()
        assert record is not None
        decisions.epoch(row(record, 1, attempt=2))
        before = dict(decisions.records)
        late = row(record, 2, attempt=1)
        assert not decisions.is_new(late)
        decisions.epoch(late)
        assert decisions.records == before
        assert decisions.is_new(row(record, 2, attempt=2))

    def test_an_epoch_counts_once(self) -> None:
        decisions = decide(trials=1)
        record = decisions.next()
        assert record is not None
        for _ in range(2):
            decisions.epoch(row(record, 1))
        assert decisions.records[record.trial].seconds == 1.0

    def test_a_trial_that_ended_is_told_to_stop(self) -> None:
        decisions = decide(trials=2)
        record = decisions.next()
        assert record is not None
        decisions.end(record.trial, status=Status.LOST, error="its worker died")
        assert decisions.epoch(row(record, 1)) is Decision.STOP
        assert decisions.records[record.trial].status is Status.LOST


def row(record: TrialRecord, epoch: int, score: float = 0.5, *, attempt: int = 1) -> EpochRecord:
    return EpochRecord(
        trial=record.trial,
        stage=record.stage,
        number=record.number,
        attempt=attempt,
        epoch=epoch,
        scores={"score": score},
        seconds={"train": 1.0},
        reported=BEGIN + timedelta(seconds=epoch),
    )


def test_trials_of_another_search_are_neither_promoted_nor_counted() -> None:
    first = decide("asha-promote", trials=9, grace=3)
    rows: list[EpochRecord] = []
    simulate(first, learning(), slots=2, on_epoch=rows.append)
    paused = [replace(record, status=Status.PAUSED, ended=None) for record in first.records.values()]
    again = decide(
        "asha-promote", trials=2, belongs=lambda record: record.number >= 9, budget=Budget(target=Target("score", 0.01))
    )
    again.take_up(paused, rows)
    assert again.reason is None
    started = [again.next(), again.next()]
    assert [record.number for record in started if record] == [9, 10]
    assert again.next() is None and all(again.records[r.trial].status is Status.PAUSED for r in paused)


def test_patience_does_not_keep_a_search_from_being_extended() -> None:
    budget = Budget(patience=100)
    first = decide("asha-promote", trials=30, budget=budget)
    rows: list[EpochRecord] = []
    simulate(first, learning(), slots=2, on_epoch=rows.append)
    again = decide("asha-promote", trials=60, budget=budget)
    again.take_up(list(first.records.values()), rows)
    assert again.reason is None and again.next() is not None


def test_a_trial_that_was_interrupted_after_its_last_epoch_has_finished() -> None:
    decisions = decide(trials=2, last_epoch=EPOCHS)
    first, second = decisions.next(), decisions.next()
    assert first is not None and second is not None
    for epoch in range(1, EPOCHS + 1):
        decisions.epoch(epoch_record(0, epoch, {"score": 0.5}))
    decisions.epoch(epoch_record(1, 1, {"score": 0.5}))
    decisions.interrupt("enough")
    assert [decisions.records[r.trial].status for r in (first, second)] == [Status.FINISHED, Status.PAUSED]


def test_where_the_promoted_trial_fails_the_next_best_is_trained_to_the_end() -> None:
    rows: list[EpochRecord] = []
    simulate(decide("asha-promote", trials=4), learning(), slots=1, on_epoch=rows.append)
    best = max((row for row in rows if row.epoch == 1), key=lambda row: row.scores["score"]).number
    decisions = decide("asha-promote", trials=4)
    simulate(decisions, learning(fails={best: 2}), slots=1)
    statuses = [record.status for record in decisions.records.values()]
    assert statuses.count(Status.FAILED) == 1 and statuses.count(Status.FINISHED) == 1
