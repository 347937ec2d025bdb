import math

import pytest
from records import trial_record

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.budget import Budget, Meter, Progress, Target, Usage
from ensemble_tune.tune.record import Objective, Status

MIOU, TIME = Objective("miou"), Objective("milliseconds", "min")


@pytest.mark.parametrize("text", ["miou", "miou=", "=0.6", "miou=high", "miou=nan", "miou=inf"])
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"a target must be NAME=SCORE, but got .*; try miou=0\.6"):
        Target.parse(text)


def test_a_target_is_read_and_told() -> None:
    assert Target.parse("miou=0.6") == Target("miou", 0.6) and str(Target.parse(" loss = 1e-3 ")) == "loss=0.001"


@pytest.mark.parametrize("name", ["hours", "gpu_hours", "patience"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be above 0, but got {value:g}; leave it"):
        Budget(**{name: value})


@pytest.mark.parametrize("given", [{"cost": 5.0}, {"price": 2.0}])
def test_a_cost_without_a_price_means_nothing(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--cost needs --price"):
        Budget(**given)  # type: ignore[arg-type]


def test_only_what_is_made_better_may_be_a_target() -> None:
    with pytest.raises(ConfigError, match=r"but got loss=1; try miou=SCORE"):
        Budget(target=Target("loss", 1.0)).check([MIOU, TIME])
    Budget(target=Target("milliseconds", 5.0)).check([MIOU, TIME])


@pytest.mark.parametrize(
    ("budget", "below", "at", "reason"),
    [
        (Budget(hours=2), Usage(hours=1.99), Usage(hours=2.0), "2 hours used"),
        (Budget(gpu_hours=3), Usage(gpu_hours=2.9), Usage(gpu_hours=3.0), "3 GPU-hours used"),
        (
            Budget(cost=10, price=4),
            Usage(node_hours=2.4),
            Usage(node_hours=2.5),
            "cost of 10 reached at 4 a node-hour",
        ),
    ],
)
def test_a_limit_holds_from_the_moment_it_is_reached(budget: Budget, below: Usage, at: Usage, reason: str) -> None:
    assert budget.used_up(below) is None and budget.used_up(at) == reason
    assert Budget().used_up(at) is None


def test_the_most_that_a_search_may_cost_is_said() -> None:
    assert Budget().at_most(trials=30, max_epochs=50, slots=1) == "at most 30 trials x 50 epochs on 1 slot"
    whole = Budget(hours=2, gpu_hours=8, cost=50, price=3, target=Target("miou", 0.6), patience=9)
    assert whole.at_most(trials=30, max_epochs=50, slots=4) == (
        "at most 30 trials x 50 epochs on 4 slots, 2 hours, 8 GPU-hours, a cost of 50; ends early at miou=0.6 or after "
        "9 trials without a new best"
    )


def test_a_meter_counts_machines_and_the_shares_that_trials_hold() -> None:
    meter = Meter(usage=Usage(hours=1.0, node_hours=3.0, gpu_hours=0.5), nodes=3, gpus=0.25, places=4, since=100.0)
    meter.advance(100.0 + 3600, live=2)
    assert meter.usage == Usage(hours=2.0, node_hours=6.0, gpu_hours=1.0)
    meter.advance(100.0 + 7200, live=5)  # one waits for a place
    assert meter.usage == Usage(hours=3.0, node_hours=9.0, gpu_hours=2.0)
    meter.held, meter.devices = 0.6, 2.0  # shares of their own
    meter.advance(100.0 + 10_800, live=5)
    assert meter.usage.gpu_hours == pytest.approx(2.6)
    meter.held = 9.0  # most of them wait for machines that are asked for
    meter.advance(100.0 + 14_400, live=5)
    assert meter.usage.gpu_hours == pytest.approx(4.6)
    meter.held, meter.usage = None, Usage(hours=3.0, node_hours=9.0, gpu_hours=2.0)
    meter.advance(100.0, live=4)  # a clock that was set back
    assert meter.usage == Usage(hours=3.0, node_hours=9.0, gpu_hours=2.0)


def test_patience_counts_trials_proposed_after_the_best() -> None:
    progress = Progress(Budget(patience=2), [MIOU])
    for number, score in ((0, 0.3), (2, 0.2), (4, 0.4), (3, 0.1), (6, 0.4), (6, 0.4)):
        # The last one had paused, went on, and ended: one trial.
        progress.left(trial_record(number, score=score))
        assert progress.reason is None
    progress.left(trial_record(5, score=0.1))
    assert progress.reason == "no new best in 2 trials"


def test_trials_that_failed_say_nothing_of_progress() -> None:
    progress = Progress(Budget(patience=2), [MIOU])
    progress.left(trial_record(0, score=0.9, status=Status.FAILED))
    for number, status in ((1, Status.FINISHED), (2, Status.LOST), (3, Status.FAILED), (4, Status.STOPPED)):
        progress.left(trial_record(number, score=0.5 - number / 10, status=status))
    progress.left(trial_record(5, score=None, status=Status.FAILED))
    assert progress.reason is None
    progress.left(trial_record(6, score=0.0))
    assert progress.reason == "no new best in 2 trials"


def test_a_target_counts_at_any_epoch_and_by_its_own_direction() -> None:
    progress = Progress(Budget(target=Target("milliseconds", 5.0)), [MIOU, TIME])
    progress.epoch("base-0001", {"milliseconds": 5.1})
    progress.epoch("base-0001", {"miou": 9.0, "milliseconds": math.nan})
    assert progress.reason is None
    progress.epoch("base-0002", {"milliseconds": 5.0})
    progress.epoch("base-0003", {"milliseconds": 1.0})
    assert progress.reason == "target milliseconds=5 reached by base-0002"
