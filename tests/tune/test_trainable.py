import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from counting_trial import CountingTrial, alone
from records import trial_record

from ensemble_tune.trial import Checkpoint, EpochResult, Params, Trial
from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.decisions import Goal
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.trainable import REPORT, RayTrial, Report
from ensemble_tune.tune.trial_folder import TrialFolder, rows_of

pytestmark = pytest.mark.usefixtures("no_ray")

ALONE = Placement(share=Resources(gpus=0))
PARAMS = {"rate": 0.5, "epochs": 4, "seed": 3}


def assigned(number: int, params: Params, **values: float) -> Assignment:
    params = dict(params)
    seed = int(params.pop("seed"))
    return Assignment(trial_record(number, status=Status.RUNNING, params=params, seed=seed), **values)


def worker(tmp_path: Path, trial: Trial = CountingTrial(), params: Params = PARAMS) -> RayTrial:  # noqa: B008
    """A worker without Ray around it."""
    made = object.__new__(RayTrial)
    goal = Goal(stage="base", metric="score", keep=1)
    assignment = assigned(0, params)
    made.setup({"assignment": assignment, "shared": (trial, goal, tmp_path), "placement": ALONE})
    return made


def step(made: RayTrial) -> Report:
    result = made.step()
    report = result[REPORT]
    assert isinstance(report, Report) and result["done"] == report.ended
    return report


def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "base-0000")


def test_every_reported_row_has_its_checkpoint(tmp_path: Path) -> None:
    made = worker(tmp_path)
    for epoch in (1, 2, 3, 4):
        report = step(made)
        (row,) = report.rows
        checkpoint, rows = folder(tmp_path).history()
        assert not report.ended and row.epoch == epoch and row.attempt == 1
        assert checkpoint is not None and checkpoint.epoch == epoch == len(rows)
    last = step(made)
    assert last == Report(ended=True, node=last.node) and last.node


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    made = worker(tmp_path, params=PARAMS | {"epochs": 9})
    seen: list[float] = []
    for epoch in range(1, 10):
        seen.append(step(made).rows[0].scores["score"])
        best = seen.index(max(seen)) + 1
        kept = {int(path.name[-5:]) for path in (tmp_path / "base-0000").glob("attempt-*/epoch-*")}
        assert kept == {epoch, best}


def test_a_second_life_goes_on_and_reports_what_the_first_could_not(tmp_path: Path) -> None:
    first = worker(tmp_path)
    step(first)
    step(first)
    second = worker(tmp_path)
    report = step(second)
    assert [(row.epoch, row.attempt) for row in report.rows] == [(1, 1), (2, 1), (3, 2)]
    record = trial_record(0, params={"rate": 0.5, "epochs": 4}, seed=3, epochs=3)
    assert [(row.epoch, row.scores["score"]) for row in report.rows] == alone(record)


def test_a_life_that_was_replaced_ends_and_changes_nothing(tmp_path: Path) -> None:
    first = worker(tmp_path)
    step(first)
    second = worker(tmp_path)
    step(second)
    report = step(first)
    assert report.error == "attempt 1 of base-0000 was replaced by attempt 2"
    latest = folder(tmp_path).latest()
    assert latest is not None and latest.epoch == 2
    assert [row.epoch for row in step(second).rows] == [3]


@pytest.mark.parametrize(
    ("change", "error"), [({}, "ValueError: line one"), ({"known": True}, "the loss is nan")], ids=["unknown", "known"]
)
def test_a_failure_is_one_line_and_its_traceback_goes_to_the_log(tmp_path: Path, change: Params, error: str) -> None:
    made = worker(tmp_path, params={**PARAMS, "fails": 2, **change})
    assert step(made).error is None
    report = step(made)
    assert report.ended and report.error == error
    assert "Traceback" in report.details and "counting_trial.py" in report.details


def test_a_process_whose_card_broke_ends_with_its_trial(tmp_path: Path) -> None:
    """It would fail one trial after another: to Tune its worker has died, and the trial goes to another one."""

    def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        yield EpochResult(epoch=1, scores={"score": 0.5}, save=lambda folder: None)
        raise RuntimeError(str(params["says"]))

    made = worker(tmp_path, trial, {**PARAMS, "says": "CUDA error: an illegal memory access was encountered"})
    assert not step(made).ended
    with pytest.raises(RuntimeError, match="illegal memory access"):
        made.step()
    full = worker(tmp_path / "full", trial, {**PARAMS, "says": "CUDA error: out of memory"})
    step(full)
    assert step(full).ran_out == "gpu"


def test_a_trial_that_fails_before_its_first_epoch_says_why(tmp_path: Path) -> None:
    def refuses(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        raise ValueError()

    report = step(worker(tmp_path, refuses))
    assert report.error == "ValueError: no message"


def test_a_damaged_checkpoint_is_the_trials_failure(tmp_path: Path) -> None:
    step(worker(tmp_path))
    (rows,) = tmp_path.glob("*/*/*/rows.json")
    rows.write_text("[")
    report = step(worker(tmp_path))
    assert report.error is not None and str(rows) in report.error


def test_a_checkpoint_that_cannot_be_saved_ends_the_search_and_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        raise OSError("no route to host")

    def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        yield EpochResult(epoch=1, scores={}, save=fails)

    report = step(worker(tmp_path, trial))
    assert report.fatal and report.rows == ()
    assert report.error is not None and "must be written, but that failed 4 times (no route to host)" in report.error


def test_any_number_is_a_score(tmp_path: Path) -> None:
    def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        yield EpochResult(epoch=1, scores={"score": np.float32(0.5), "whole": 1})

    (row,) = step(worker(tmp_path, trial)).rows
    assert {name: (type(score), score) for name, score in row.scores.items()} == {
        "score": (float, 0.5),
        "whole": (float, 1.0),
    }


def test_seconds_account_for_all_of_a_worker_s_time(tmp_path: Path) -> None:
    def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        time.sleep(0.05)
        for epoch in (1, 2):
            yield EpochResult(epoch=epoch, scores={}, seconds={"train": 0.02}, save=lambda folder: time.sleep(0.03))

    made = worker(tmp_path, trial, {**PARAMS, "epochs": 2})
    began = time.perf_counter()
    (first,) = step(made).rows
    (second,) = step(made).rows
    whole = time.perf_counter() - began
    assert set(first.seconds) == {"wait", "start", "set_up", "train", "checkpoint"}
    assert set(second.seconds) == {"other", "train", "checkpoint"}
    assert first.seconds["train"] == 0.02 and first.seconds["set_up"] >= 0.03 and first.seconds["checkpoint"] >= 0.03
    assert first.busy + second.busy == pytest.approx(whole, abs=0.02)
    assert first.worker.endswith(f"/{os.getpid()}")
    latest = folder(tmp_path).latest()
    assert latest is not None and "checkpoint" not in rows_of(latest)[-1].seconds


def test_a_trial_says_how_long_it_waited_and_what_its_worker_took_to_start(tmp_path: Path) -> None:
    now = time.time()
    made = object.__new__(RayTrial)
    shared = (CountingTrial(), Goal(stage="base", metric="score", keep=1), tmp_path)
    made.setup({"assignment": assigned(0, PARAMS, proposed=now - 5), "shared": shared, "placement": ALONE})
    (row,) = step(made).rows
    # This process is older than the proposal, or was started for it after at most 5 seconds.
    assert row.seconds["wait"] + row.seconds["start"] == pytest.approx(5, abs=0.5)
    assert 0 < row.seconds["start"] <= 5.5
    made.reset_config({"assignment": assigned(1, PARAMS, proposed=now - 7), "shared": shared, "placement": ALONE})
    (row,) = step(made).rows
    assert row.seconds["start"] == 0 and row.seconds["wait"] == pytest.approx(7, abs=0.5)


def test_the_next_trial_in_a_process_ends_the_one_before(tmp_path: Path) -> None:
    events: list[str] = []

    def trial(params: Params, resume: Checkpoint | None) -> Iterator[EpochResult]:
        try:
            for epoch in range(1, 9):
                yield EpochResult(epoch=epoch, scores={"score": float(params["rate"])})
        finally:
            events.append(f"closed {params['rate']}")

    made = worker(tmp_path, trial)
    step(made)
    shared = (trial, Goal(stage="base", metric="score", keep=1), tmp_path)
    assert made.reset_config({"assignment": assigned(1, {**PARAMS, "rate": 0.7}), "shared": shared, "placement": ALONE})
    assert events == ["closed 0.5"]
    (row,) = step(made).rows
    assert (row.trial, row.number, row.epoch, row.attempt, row.scores["score"]) == ("base-0001", 1, 1, 1, 0.7)
    made.cleanup()
    assert events == ["closed 0.5", "closed 0.7"]
