import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from tiny_run import Finished

from ensemble_tune.report.run_view import RunView
from ensemble_tune.report.timeline import Bar, Clock, bars, busy_share, slots, timeline_plot
from ensemble_tune.tune.record import EpochRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(trial: str, epoch: int, at: float, seconds: Mapping[str, float], *, attempt: int = 1) -> EpochRecord:
    return EpochRecord(
        trial=trial,
        stage="base",
        number=0,
        attempt=attempt,
        epoch=epoch,
        scores={},
        seconds=seconds,
        reported=NOON + timedelta(seconds=at),
        worker="a",
    )


def since_noon(found: list[Bar]) -> list[tuple[str, str, float, float]]:
    noon = NOON.timestamp()
    return [(bar.what, bar.kind, bar.start - noon, bar.end - noon) for bar in found]


def test_epochs_that_follow_each_other_are_one_bar() -> None:
    rows = [
        row("one", 1, 10, {"wait": 3.0, "start": 2.0, "train": 8.0, "checkpoint": 1.0}),
        row("one", 2, 20, {"train": 9.0, "checkpoint": 1.0}),
        row("one", 3, 60, {"train": 9.0}, attempt=2),
    ]
    assert since_noon(bars(rows)) == [
        ("one", "a worker starts", 0, 2),
        ("one", "base", 2, 21),
        ("one", "base", 51, 60),
    ]


def test_a_worker_keeps_its_slot_and_a_new_one_takes_the_first_that_is_free() -> None:
    def bar(start: float, end: float, worker: str) -> Bar:
        return Bar(start=start, end=end, worker=worker, kind="base", what="")

    found = [bar(0, 10, "a"), bar(1, 5, "b"), bar(6, 9, "b"), bar(11, 20, "c"), bar(12, 15, "b"), bar(13, 14, "d")]
    assert slots(found) == [0, 1, 1, 0, 1, 2]


def test_the_night_between_two_calls_takes_no_room() -> None:
    clock = Clock([(100, 200), (150, 220), (1000, 1100)])
    assert [clock(moment) for moment in (100, 220, 600, 1000, 1050, 2000)] == [0, 120, 120, 120, 170, 220]
    assert clock.cuts == [120]


def test_idle_time_is_told(searched: RunView) -> None:
    found = bars([row for own in searched.searches[0].rows.values() for row in own])
    there = sum(2 * (each.updated - each.started).total_seconds() for each in searched.sessions)
    trained = sum(own.seconds for own in searched.searches[0].trials)
    assert busy_share(found, searched.sessions) == pytest.approx(trained / there)
    plot = timeline_plot(searched)
    assert plot is not None and f"busy for {trained / there:.0%}" in plot.told
    figure = json.loads(plot.figure)
    assert {trace["name"] for trace in figure["data"]} == {"base", "a worker starts"}
    assert {place for trace in figure["data"] for place in trace["y"]} == {1, 2}
    assert len(figure["layout"]["shapes"]) == 1, "the night"


def test_a_real_run_has_a_bar_for_every_life_of_a_trial(finished: Finished) -> None:
    view = RunView.of(finished.out)
    plot = timeline_plot(view)
    assert plot is not None
    figure = json.loads(plot.figure)
    kinds = {trace["name"] for trace in figure["data"]}
    assert {"base", "fold", "meta", "compare", "final", "a worker starts"} == kinds
    lives = {(row.trial, row.attempt) for stage in view.stages for own in stage.rows.values() for row in own}
    shown = sum(len(trace["x"]) for trace in figure["data"] if trace["name"] != "a worker starts")
    assert shown >= len(lives)
