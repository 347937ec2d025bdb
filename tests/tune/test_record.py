import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import epoch_record, trial_record

from ensemble_tune.tune.record import EpochRecord, Mode, Status, best_epoch, best_of, rank, trial_name

_scores = st.dictionaries(st.text("abc.", min_size=1, max_size=5), st.floats(), max_size=4)


@given(_scores, st.integers(1, 10**6))
def test_an_epoch_survives_json(scores: dict[str, float], epoch: int) -> None:
    row = epoch_record(3, epoch, scores)
    back = EpochRecord.from_json(json.loads(json.dumps(row.to_json())))
    assert replace(back, scores={}) == replace(row, scores={})
    assert {k: repr(v) for k, v in back.scores.items()} == {k: repr(abs(v) if v != v else v) for k, v in scores.items()}


def test_what_an_epoch_took_of_a_gpu_survives_json_and_may_be_missing() -> None:
    row = replace(epoch_record(0, 1), gpu={"share": 0.25, "measured": 4e9, "card": "3f/0"})
    written = row.to_json()
    assert EpochRecord.from_json(json.loads(json.dumps(written))) == row
    del written["gpu"]  # as earlier versions wrote it
    assert EpochRecord.from_json(written) == replace(row, gpu={})


@pytest.mark.parametrize(
    "damage", [{"scores": 3}, {"epoch": "x"}, {"reported": "today"}, {"seconds": None}, {"trial": ...}]
)
def test_a_damaged_epoch_is_told_by_the_error_that_its_reader_expects(damage: dict[str, object]) -> None:
    row = epoch_record(0, 1).to_json() | damage
    if row["trial"] is ...:
        del row["trial"]
    with pytest.raises(ValueError):
        EpochRecord.from_json(row)


def after(scores: list[float], mode: Mode = "max", worth: str = "best") -> tuple[int | None, float | None]:
    record = trial_record(0, status=Status.RUNNING)
    for epoch, score in enumerate(scores, start=1):
        record = record.with_epoch(epoch_record(0, epoch, {"miou": score}), "miou", mode, worth)  # type: ignore[arg-type]
    assert record.epochs == len(scores) and record.seconds == 1.5 * len(scores)
    return record.best_epoch, record.score


def test_a_trial_is_worth_its_best_epoch_and_the_first_of_equals() -> None:
    assert after([0.1, 0.3, 0.3, 0.2]) == (2, 0.3)
    assert after([0.4, 0.3, 0.3, 0.5], "min") == (2, 0.3)


def test_a_trial_has_the_figures_of_its_epochs_and_the_most_that_was_measured() -> None:
    record = trial_record(0, status=Status.RUNNING).with_gpu({"ran_out": 0.25})
    for epoch, measured in enumerate((4e9, 5e9, 3e9), start=1):
        row = replace(epoch_record(0, epoch), gpu={"share": 0.5, "measured": measured, "card": "3f/0"})
        record = record.with_epoch(row, "miou", "max", "best")
    assert record.gpu == {"ran_out": 0.25, "share": 0.5, "measured": 5e9}


def test_nan_is_never_the_best() -> None:
    assert after([math.nan, 0.1, math.nan]) == (2, 0.1)
    assert after([math.nan, math.nan]) == (None, None)


def test_a_given_training_is_worth_its_last_epoch() -> None:
    assert after([0.9, 0.1], worth="last") == (2, 0.1)
    assert after([0.9, math.nan], worth="last") == (2, None)


def test_an_epoch_without_the_metric_counts_as_nan() -> None:
    record = trial_record(0, status=Status.RUNNING).with_epoch(epoch_record(0, 1, {"loss": 1.0}), "miou", "max", "best")
    assert record.score is None and record.epochs == 1


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_rows_and_records_agree_on_the_best_epoch(scores: list[float]) -> None:
    rows = [epoch_record(0, epoch, {"miou": score}) for epoch, score in enumerate(scores, start=1)]
    for mode in ("max", "min"):
        assert best_epoch(rows, "miou", mode) == after(scores, mode)[0]


def test_the_best_come_first_and_failed_or_unscored_trials_not_at_all() -> None:
    records = [
        trial_record(0, score=0.2),
        trial_record(1, score=0.9, status=Status.FAILED),
        trial_record(2, score=0.7, status=Status.STOPPED),
        trial_record(3),
        trial_record(4, score=0.7),
        trial_record(5, score=0.8, status=Status.RUNNING),
    ]
    assert [r.number for r in rank(records, "max")] == [5, 2, 4, 0]
    assert [r.number for r in rank(records, "min")] == [0, 2, 4, 5]
    best = best_of(records, "max")
    assert best is not None and best.number == 2
    assert best_of(records[3:4], "max") is None


def test_a_record_knows_its_point() -> None:
    record = trial_record(0, params={"a": 1, "b": "x"}, seed=5)
    assert record.is_of({"a": 1, "b": "x"}) and record.is_of({"b": "x", "a": 1.0, "seed": 5})
    assert not record.is_of({"a": 1}) and not record.is_of({"a": 1, "b": "x", "seed": 6})
    assert not record.is_of({"a": 1, "b": "x", "c": 2})


def test_only_trials_with_a_score_ended_well() -> None:
    assert trial_record(0, score=0.0).ended_well and trial_record(0, score=0.1, status=Status.STOPPED).ended_well
    assert not trial_record(0).ended_well and not trial_record(0, score=0.1, status=Status.FAILED).ended_well
    assert not trial_record(0, score=0.1, status=Status.RUNNING).ended_well


def test_names_sort_as_numbers() -> None:
    assert trial_name("base", 7) == "base-0007"
