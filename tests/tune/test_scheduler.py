import math
from typing import Literal

import pytest

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.record import Mode
from ensemble_tune.tune.scheduler import SCHEDULERS, SuccessiveHalving, make_scheduler


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", SCHEDULERS)
class TestEveryScheduler:
    def test_a_lone_trial_trains_to_its_end(self, name: str, mode: Literal["max", "min"]) -> None:
        scheduler = make_scheduler(name, max_epochs=30, mode=mode)
        assert all(scheduler.goes_on("a", epoch, 0.5) for epoch in range(1, 31))

    def test_a_trial_that_is_the_best_at_every_epoch_is_never_stopped(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=30, mode=mode)
        sign = 1 if mode == "max" else -1
        for epoch in range(1, 31):
            for trial in range(9):
                goes_on = scheduler.goes_on(str(trial), epoch, sign * trial)
            assert goes_on

    def test_the_same_scores_in_the_same_order_give_the_same_decisions(self, name: str, mode: Mode) -> None:
        def decisions() -> list[bool]:
            scheduler = make_scheduler(name, max_epochs=20, mode=mode)
            return [scheduler.goes_on(str(t), e, math.sin(17 * t + e)) for e in range(1, 21) for t in range(10)]

        assert decisions() == decisions()

    def test_nan_neither_breaks_nor_beats(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=9, mode=mode, grace=1)
        assert scheduler.goes_on("good", 1, 0.5)
        goes_on = scheduler.goes_on("nan", 1, math.nan)
        assert goes_on == (name == "none")
        assert scheduler.goes_on("good", 2, math.nan) and scheduler.goes_on("good", 3, math.nan)

    def test_the_last_epoch_stops_nobody(self, name: str, mode: Mode) -> None:
        scheduler = make_scheduler(name, max_epochs=3, mode=mode, grace=3)
        assert all(scheduler.goes_on(str(t), 3, t if mode == "min" else -t) for t in range(9))


def test_of_nine_trials_a_third_passes_each_rung() -> None:
    scheduler = SuccessiveHalving(max_epochs=9, mode="max", grace=1, factor=3)
    # Known by hand: of n that reached the rung, the best max(1, n // 3) go on.
    scores = [0.5, 0.4, 0.6, 0.1, 0.55, 0.56, 0.2, 0.57, 0.58]
    first = [scheduler.goes_on(str(trial), 1, score) for trial, score in enumerate(scores)]
    assert first == [True, False, True, False, False, True, False, True, True]
    second = [scheduler.goes_on(str(trial), 2, 0.0) for trial in (0, 2, 5)]
    assert second == [True, True, True]
    third = [scheduler.goes_on(str(trial), 3, score) for trial, score in ((0, 0.7), (2, 0.8), (5, 0.75))]
    assert third == [True, True, False]


def test_min_mode_is_max_mode_upside_down() -> None:
    high, low = (SuccessiveHalving(max_epochs=20, mode=mode, grace=2, factor=2) for mode in ("max", "min"))
    for epoch in range(1, 21):
        for trial in range(6):
            score = math.cos(5 * trial + epoch)
            assert high.goes_on(str(trial), epoch, score) == low.goes_on(str(trial), epoch, -score)


def test_a_trial_is_judged_by_its_best_epoch_up_to_the_rung() -> None:
    scheduler = SuccessiveHalving(max_epochs=9, mode="max", grace=3, factor=3)
    for epoch, score in ((1, 0.9), (2, 0.2), (3, 0.1)):
        assert scheduler.goes_on("early", epoch, score)
    scheduler.goes_on("late", 1, 0.0)
    assert not scheduler.goes_on("late", 3, 0.8)


def test_by_default_there_are_two_rungs() -> None:
    for epochs in (9, 20, 30, 50, 100):
        scheduler = make_scheduler("asha", max_epochs=epochs, mode="max")
        assert isinstance(scheduler, SuccessiveHalving)
        assert len(scheduler._rungs) == 2, (epochs, scheduler._rungs)


@pytest.mark.parametrize(("grace", "factor"), [(0, 3), (1, 1)])
def test_rungs_that_make_no_sense_are_refused(grace: int, factor: int) -> None:
    with pytest.raises(ConfigError, match="grace must be at least 1 and factor at least 2"):
        SuccessiveHalving(max_epochs=9, mode="max", grace=grace, factor=factor)


def test_an_unknown_scheduler_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no scheduler is called 'ahsa'; did you mean 'asha'\?"):
        make_scheduler("ahsa", max_epochs=9, mode="max")
