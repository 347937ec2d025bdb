import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from records import epoch_record, trial_record

from ensemble_tune.errors import RunError
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Objective, Status
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.warm_start import WarmStart, read_warm_start

SPACE = SearchSpace.parse("""
[parameters]
kind = { choices = ["wide", "deep"] }
depth = { low = 1, high = 9, when = { kind = "deep" } }
rate = { low = 1e-4, high = 1.0, log = true }
epochs = 20
""")
DEEP: dict[str, Any] = {"kind": "deep", "depth": 3, "rate": 0.1, "epochs": 20}


def write(out: Path, *trials: tuple[Mapping[str, Any], Status, Mapping[int, Mapping[str, float]]]) -> Path:
    """A run's ledger with these trials: params, status, scores by epoch."""
    ledger = Ledger(out / LEDGER)
    ledger.open()
    for number, (params, status, epochs) in enumerate(trials):
        best = max(epochs, default=None)
        score = None if best is None else epochs[best].get("miou")
        scores = {} if best is None else epochs[best]
        ledger.put_trial(
            trial_record(number, status=status, params=params, best_epoch=best, score=score, scores=scores)
        )
        for epoch, values in epochs.items():
            ledger.put_epoch(epoch_record(number, epoch, values))
    ledger.close()
    return out


def read(out: Path, metric: str = "miou", mode: Any = "max") -> WarmStart:
    return read_warm_start(out, SPACE, stage="base", objective=Objective(metric, mode))


SCORES = {1: {"miou": 0.2, "loss": 0.5}, 2: {"miou": 0.4, "loss": 0.7}}


def test_another_run_s_trials_come_with_their_curves(tmp_path: Path) -> None:
    wide = {"kind": "wide", "rate": 0.2, "epochs": 20}
    out = write(
        tmp_path, (DEEP, Status.FINISHED, SCORES), (wide, Status.STOPPED, {1: SCORES[1]}), (DEEP, Status.FAILED, {})
    )
    learned = read(out)
    assert [(record.params, record.status, curve) for record, curve in learned.trials] == [
        (DEEP, Status.FINISHED, {1: 0.2, 2: 0.4}),
        (wide, Status.STOPPED, {1: 0.2}),
        (DEEP, Status.FAILED, {}),
    ]
    assert learned.summary == "learns from 3 trials"


def test_no_trial_of_another_run_has_a_number_of_this_one(tmp_path: Path) -> None:
    out = write(tmp_path, *[(DEEP, Status.FINISHED, SCORES)] * 3)
    assert [record.number for record, _ in read(out).trials] == [-1, -2, -3]


def test_only_trials_that_ended_teach(tmp_path: Path) -> None:
    out = write(tmp_path, *[(DEEP, status, SCORES) for status in Status])
    statuses = {record.status for record, _ in read(out).trials}
    assert statuses == {Status.FINISHED, Status.STOPPED, Status.FAILED, Status.OUT_OF_MEMORY}


def test_unknown_parameters_are_dropped_and_named(tmp_path: Path) -> None:
    more = {"size": 96, "augmentation": 0.5}
    learned = read(write(tmp_path, (DEEP | more, Status.FINISHED, SCORES)))
    assert learned.trials[0][0].params == DEEP and learned.dropped == ("augmentation", "size")
    assert "without augmentation, size" in learned.summary


def test_another_fixed_value_is_named_and_does_no_harm(tmp_path: Path) -> None:
    learned = read(write(tmp_path, (DEEP | {"epochs": 5}, Status.FINISHED, SCORES)))
    assert learned.trials[0][0].params == DEEP and learned.differing == ("epochs",)
    assert "in spite of another epochs" in learned.summary


def test_trials_that_do_not_fit_are_counted_by_the_parameter_that_is_to_blame(tmp_path: Path) -> None:
    without = {name: value for name, value in DEEP.items() if name != "depth"}
    out = write(
        tmp_path,
        (DEEP, Status.FINISHED, SCORES),
        (without, Status.FINISHED, SCORES),
        (without, Status.FAILED, {}),
        (DEEP | {"rate": 3.0}, Status.FINISHED, SCORES),
        (DEEP | {"kind": "long"}, Status.FINISHED, SCORES),
    )
    learned = read(out)
    assert len(learned.trials) == 1
    assert learned.missing == {"depth": 2} and learned.outside == {"rate": 1, "kind": 1}
    assert learned.summary == (
        "learns from 1 trial; 2 without depth; 1 with rate outside this space; 1 with kind outside this space"
    )


def test_the_best_epoch_is_that_of_this_search_s_metric(tmp_path: Path) -> None:
    """The other run sought the highest miou, in epoch 2; the lowest loss was in epoch 1."""
    ((record, curve),) = read(write(tmp_path, (DEEP, Status.FINISHED, SCORES)), "loss", "min").trials
    assert (record.best_epoch, record.score, record.scores["miou"]) == (1, 0.5, 0.2)
    assert curve == {1: 0.5, 2: 0.7}


def test_a_trial_of_nan_alone_stays_one(tmp_path: Path) -> None:
    out = write(tmp_path, (DEEP, Status.FINISHED, {1: {"miou": math.nan}}))
    ((record, curve),) = read(out).trials
    assert (record.score, record.best_epoch) == (None, None) and math.isnan(curve[1])


def test_trials_without_the_metric_are_counted(tmp_path: Path) -> None:
    out = write(tmp_path, (DEEP, Status.FINISHED, {1: {"loss": 0.1}}), (DEEP, Status.FINISHED, SCORES))
    learned = read(out)
    assert len(learned.trials) == 1 and learned.unscored == 1


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_sampler_takes_it_all(tmp_path: Path, name: str) -> None:
    out = write(tmp_path, *[(DEEP, status, SCORES) for status in (Status.FINISHED, Status.STOPPED, Status.FAILED)])
    sampler = make_sampler(name, SPACE, seed=0, objectives=[Objective("miou")])
    for record, curve in read(out).trials:
        sampler.observe(record, curve)
    assert SPACE.contains(sampler.propose(0))


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a warm start reads another run's ledger, but .* has none; give the --out"):
        read(tmp_path)


def test_a_run_without_a_trial_of_use_is_refused_with_the_reason(tmp_path: Path) -> None:
    out = write(tmp_path, (DEEP, Status.RUNNING, {}))
    with pytest.raises(RunError, match="no trial that this search can learn from: no base trial has ended; drop"):
        read(out)
    out = write(tmp_path / "other", (DEEP | {"depth": 30}, Status.FINISHED, SCORES))
    with pytest.raises(RunError, match="learn from: 1 with depth outside this space; drop the warm start"):
        read(out)
