import math

import pytest

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.record import Mode
from ensemble_tune.tune.scheduler import (
    SCHEDULERS,
    Decision,
    MedianStopping,
    PromotingHalving,
    Scheduler,
    SuccessiveHalving,
    make_scheduler,
    rungs,
)

GO_ON, PAUSE, STOP = Decision.GO_ON, Decision.PAUSE, Decision.STOP


def trains_on(scheduler: Scheduler, trial: str, epoch: int, score: float) -> bool:
    """Whether a trial that has the slots for itself goes on after this epoch, at once or promoted."""
    decision = scheduler.judge(trial, epoch, score)
    if decision is PAUSE:
        return scheduler.promote(last=True) == trial
    return decision is GO_ON


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", SCHEDULERS)
class TestEveryScheduler:
    def test_a_lone_trial_trains_to_its_end(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=30, mode=mode)
        assert all(trains_on(scheduler, "a", epoch, 0.5) for epoch in range(1, 31))

    def test_a_trial_that_is_the_best_at_every_epoch_is_never_stopped(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=30, mode=mode)
        sign = 1 if mode == "max" else -1
        for epoch in range(1, 31):
            for trial in range(9):
                decision = scheduler.judge(str(trial), epoch, sign * trial)
            assert decision is GO_ON

    def test_the_same_scores_in_the_same_order_give_the_same_decisions(self, name: str, mode: Mode) -> None:
        def decisions() -> list[Decision | str | None]:
            scheduler = make_scheduler(name, max_epochs=20, mode=mode)
            told: list[Decision | str | None] = []
            for epoch in range(1, 21):
                for trial in range(10):
                    told += [scheduler.judge(str(trial), epoch, math.sin(17 * trial + epoch)), scheduler.promote()]
            return told

        assert decisions() == decisions()

    def test_nan_neither_breaks_nor_beats(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=9, mode=mode, grace=1)
        for trial in range(9):
            scheduler.judge(f"good-{trial}", 1, 0.1 * trial)
        decision = scheduler.judge("nan", 1, math.nan)
        assert decision is {"none": GO_ON, "asha-promote": PAUSE}.get(name, STOP)
        promoted = iter(scheduler.promote, None)
        assert "nan" not in list(promoted)
        best = "good-8" if mode == "max" else "good-0"
        assert scheduler.judge(best, 2, math.nan) is GO_ON and scheduler.judge(best, 3, math.nan) is not STOP

    def test_the_last_epoch_stops_nobody(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=3, mode=mode, grace=3)
        last = [scheduler.judge(str(t), 3, t if mode == "min" else -t) for t in range(9)]
        assert set(last) == {GO_ON}

    def test_only_a_trial_that_paused_is_promoted_and_once(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=9, mode=mode, grace=1)
        sign = -1 if mode == "max" else 1  # each worse than all before it
        paused = {str(trial) for trial in range(30) if scheduler.judge(str(trial), 1, sign * trial) is PAUSE}
        promoted = list(iter(scheduler.promote, None))
        assert len(set(promoted)) == len(promoted) and set(promoted) <= paused
        assert bool(promoted) == (name == "asha-promote")


class TestStopping:
    def test_of_nine_trials_a_third_passes_each_rung(self) -> None:
        scheduler = SuccessiveHalving(max_epochs=9, mode="max", grace=1, factor=3)
        # Known by hand: of n that reached the rung, the best max(1, n // 3) go on.
        scores = [0.5, 0.4, 0.6, 0.1, 0.55, 0.56, 0.2, 0.57, 0.58]
        first = [scheduler.judge(str(trial), 1, score) is GO_ON for trial, score in enumerate(scores)]
        assert first == [True, False, True, False, False, True, False, True, True]
        second = [scheduler.judge(str(trial), 2, 0.0) for trial in (0, 2, 5)]
        assert second == [GO_ON] * 3
        third = [scheduler.judge(str(trial), 3, score) for trial, score in ((0, 0.7), (2, 0.8), (5, 0.75))]
        assert third == [GO_ON, GO_ON, STOP]

    def test_a_trial_is_judged_by_its_best_epoch_up_to_the_rung(self) -> None:
        scheduler = SuccessiveHalving(max_epochs=9, mode="max", grace=3, factor=3)
        for epoch, score in ((1, 0.9), (2, 0.2), (3, 0.1)):
            assert scheduler.judge("early", epoch, score) is GO_ON
        scheduler.judge("late", 1, 0.0)
        assert scheduler.judge("late", 3, 0.8) is STOP


class TestPromoting:
    def make(self) -> PromotingHalving:
        return PromotingHalving(max_epochs=9, mode="max", grace=1, factor=3)

    def test_of_nine_trials_the_best_three_are_promoted_though_they_came_first(self) -> None:
        scheduler = self.make()
        promoted = []
        for trial in range(9):  # each worse than all before it
            assert scheduler.judge(str(trial), 1, 0.9 - trial / 10) is PAUSE
            promoted.append(scheduler.promote())
        # Known by hand: the third, sixth and ninth arrival each let one more of the best go on.
        assert promoted == [None, None, "0", None, None, "1", None, None, "2"]
        assert scheduler.promote() is None

    def test_who_is_among_the_best_on_arrival_need_not_wait(self) -> None:
        scheduler = self.make()
        assert [scheduler.judge(name, 1, score) for name, score in (("a", 0.2), ("b", 0.1))] == [PAUSE, PAUSE]
        assert scheduler.judge("c", 1, 0.3) is GO_ON
        assert scheduler.promote() is None

    def test_a_higher_rung_promotes_first(self) -> None:
        scheduler = self.make()
        for trial in range(9):
            scheduler.judge(str(trial), 1, 0.9 - trial / 10)
        for trial in range(3):
            assert scheduler.promote() == str(trial)
            assert scheduler.judge(str(trial), 3, 0.9 - trial / 10) is PAUSE
        for trial in range(9, 12):
            scheduler.judge(str(trial), 1, 0.0)
        assert [scheduler.promote(), scheduler.promote(), scheduler.promote()] == ["0", "3", None]

    def test_a_trial_that_ended_is_not_promoted_but_still_counts(self) -> None:
        scheduler = self.make()
        for trial in range(5):
            scheduler.judge(str(trial), 1, 0.9 - trial / 10)
        scheduler.drop("0")
        assert scheduler.promote() is None
        scheduler.judge("5", 1, 0.0)
        assert (scheduler.promote(), scheduler.promote()) == ("1", None)

    def test_of_too_few_trials_the_best_still_trains_to_the_end_when_nothing_else_is_left(self) -> None:
        scheduler = self.make()
        for name, score in (("a", 0.2), ("b", 0.1)):
            scheduler.judge(name, 1, score)
        assert (scheduler.promote(), scheduler.promote(last=True), scheduler.promote(last=True)) == (None, "a", None)
        scheduler.judge("a", 3, 0.5)
        assert (scheduler.promote(), scheduler.promote(last=True), scheduler.promote(last=True)) == (None, "a", None)

    def test_a_trial_that_trained_on_all_the_same_waits_no_more(self) -> None:
        scheduler = self.make()
        for trial in range(3):
            scheduler.judge(str(trial), 1, 0.9 - trial / 10)
        scheduler.trains_on("0")
        assert (scheduler.promote(), scheduler.promote(last=True)) == (None, None)


class TestMedian:
    def test_a_trial_is_stopped_below_the_median_of_what_the_others_had_on_average(self) -> None:
        scheduler = MedianStopping(max_epochs=9, mode="max", grace=2, least=4)
        # Their means after two epochs: 0.4, 0.5, 0.6, 0.7.
        for trial, scores in enumerate([(0.1, 0.7), (0.4, 0.6), (0.6, 0.6), (0.9, 0.5)]):
            assert [scheduler.judge(str(trial), epoch, score) for epoch, score in enumerate(scores, 1)] == [GO_ON] * 2
        assert [scheduler.judge("low", epoch, score) for epoch, score in ((1, 0.1), (2, 0.45))] == [GO_ON, STOP]
        # Its best counts, not its last.
        assert [scheduler.judge("high", epoch, score) for epoch, score in ((1, 0.65), (2, 0.1))] == [GO_ON, GO_ON]

    def test_nobody_is_stopped_before_enough_others_came(self) -> None:
        scheduler = MedianStopping(max_epochs=9, mode="max", grace=1, least=4)
        assert [scheduler.judge(str(trial), 1, -trial) for trial in range(5)] == [GO_ON] * 4 + [STOP]


@pytest.mark.parametrize("name", ["asha", "asha-promote", "median"])
def test_min_mode_is_max_mode_upside_down(name: str) -> None:
    high, low = (make_scheduler(name, max_epochs=20, mode=mode, grace=2, factor=2) for mode in ("max", "min"))
    for epoch in range(1, 21):
        for trial in range(6):
            score = math.cos(5 * trial + epoch)
            assert high.judge(str(trial), epoch, score) == low.judge(str(trial), epoch, -score)
            assert high.promote() == low.promote()


@pytest.mark.parametrize("kind", [SuccessiveHalving, PromotingHalving])
def test_by_default_there_are_three_rungs(kind: type[SuccessiveHalving] | type[PromotingHalving]) -> None:
    name = "asha" if kind is SuccessiveHalving else "asha-promote"
    for epochs in (20, 30, 50, 100):
        scheduler = make_scheduler(name, max_epochs=epochs, mode="max")
        assert isinstance(scheduler, kind)
        assert len(scheduler._rungs) == 3, (epochs, scheduler._rungs)


@pytest.mark.parametrize(
    ("max_epochs", "grace", "factor", "expected"),
    [
        (19, 8, 2, [8]),
        (24, 8, 2, [8, 16]),
        (27, 1, 3, [1, 3, 9]),
        (10, 1, 3, [1, 3]),
        (10, 9, 3, [9]),
        (9, 9, 3, []),
        (1, 1, 3, []),
    ],
)
def test_no_rung_but_the_first_lies_in_the_last_third(
    max_epochs: int, grace: int, factor: int, expected: list[int]
) -> None:
    assert rungs(max_epochs, grace, factor) == expected


@pytest.mark.parametrize("name", ["asha", "asha-promote"])
@pytest.mark.parametrize(("grace", "factor"), [(0, 3), (1, 1)])
def test_rungs_that_make_no_sense_are_refused(name: str, grace: int, factor: int) -> None:
    with pytest.raises(ConfigError, match="grace must be at least 1 and factor at least 2"):
        make_scheduler(name, max_epochs=9, mode="max", grace=grace, factor=factor)


def test_an_unknown_scheduler_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no scheduler is called 'ahsa'; did you mean 'asha'\?"):
        make_scheduler("ahsa", max_epochs=9, mode="max")
