import io
import time
from datetime import timedelta

import pytest
from rich.console import Console, RenderableType
from shown_stage import BEGIN, STAGE, snapshot, trained, trial

from ensemble_tune.frame import duration, frame, stage_line, trial_line, waits
from ensemble_tune.snapshot import Snapshot
from ensemble_tune.tune.record import Status
from ensemble_tune.waits import Wait


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is told by the clock on the wall."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def text(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def shown(of: Snapshot, width: int = 100, height: int = 30) -> list[str]:
    return text(frame(of, "runs/camvid", width=width, height=height), width)


def test_no_status_is_left_out_of_the_counts() -> None:
    counts = shown(snapshot(*(trained(number, status, 10, 0.3) for number, status in enumerate(Status))))[2]
    words = ("running", "done", "stopped", "paused", "failed", "out of memory", "lost")
    assert counts.split() == ", ".join(f"1 {word}" for word in words).split() and len(words) == len(Status)


def test_a_stage_on_a_wide_terminal() -> None:
    assert shown(snapshot(*STAGE)) == [
        "Base models  runs/camvid",
        "trials   ━━━━━━━━━                 3 of 8",
        "         2 running, 1 done, 1 stopped, 1 paused, 1 failed",
        "best     base-0000  miou 0.4500  epoch 30 of 30",
        "         encoder resnet18",
        "running  base-0004  ━━━━━━━━━━━━              15/30  miou 0.4100  unet resnet82",
        "         base-0005                             0/30            -  unet resnet98",
        "latest   base-0002  failed   the loss is nan",
        "         base-0001  stopped  miou 0.2000  epoch 10/10  1 min 40 s",
        "         base-0000  done     miou 0.4500  epoch 30/30  5 min",
        "slots    2 of 2 in use, 1 trial waits",
        "time     10 min so far, ends in about 4 min (03:18)",
    ]


def test_the_best_of_a_stage_that_searches_nothing_is_told_as_the_others_are() -> None:
    assert shown(snapshot(*STAGE, stage="fold"))[3:5] == [
        "best     base-0000  miou 0.4500  epoch 30 of 30",
        "         unet resnet18",
    ]


def test_a_stage_on_a_narrow_terminal_loses_no_line_to_wrapping() -> None:
    lines = shown(snapshot(*STAGE), width=60)
    assert lines[5:9] == [
        "running  base-0004  ━━━━━━        15/30  miou 0.4100",
        "         base-0005                 0/30            -",
        "latest   base-0002  failed   the loss is nan",
        "         base-0001  stopped  miou 0.2000  10/10  1 min 40 s",
    ]
    assert max(map(len, lines)) <= 60


def test_limits_gpus_and_silence_are_told_where_there_are_any() -> None:
    limit = {"trials": 8.0, "hours": 2.0, "gpu_hours": 3.0, "cost": 50.0, "price": 3.0, "patience": 20.0}
    use = {"nodes": 2.0, "gpus": 0.5, "devices": 1.0}
    goal = {"metric": "miou", "mode": "max", "target": "miou=0.6"}
    now = snapshot(trial(0), limit=limit, use=use, goal=goal, node_hours=1.0, gpu_hours=0.5, minutes=12)
    assert shown(now, width=140)[-5:] == [
        "slots    1 of 2 in use, 0.5 of 1 GPU",
        "time     12 min so far, ends in about 1 h 48 min (05:04)",
        "limits   1 h 48 min of 2 h left, 2.5 of 3 GPU-hours left, 47.00 of a cost of 50 left, "
        "ends at miou=0.6, ends after 20 trials without a new",
        "         best",
        "         no sign of life for 2 min from process 1234 on host",
    ]


def test_before_anything_is_known_nothing_is_made_up() -> None:
    assert shown(snapshot(limit={}, use={}, minutes=0.1)) == [
        "Base models  runs/camvid",
        "trials",
        "slots    workers start",
        "time     6 s so far",
    ]


def test_what_has_ended_says_when_and_why() -> None:
    ended = snapshot(
        trained(0, Status.FINISHED, 30, 0.45), ended=BEGIN + timedelta(minutes=9), reason="all trials have ended"
    )
    lines = shown(ended)
    assert lines[-1] == "time     9 min; ended 1 min ago: all trials have ended"
    assert not any(line.startswith("slots") for line in lines)


def test_more_trials_than_lines_are_counted() -> None:
    lines = shown(snapshot(*map(trial, range(40)), slots=40), height=24)
    assert "         and 32 more" in lines and len(lines) < 24


def test_a_stage_of_anyone_s_own_is_named_after_itself() -> None:
    assert shown(snapshot(stage="search"))[0] == "Search  runs/camvid"


def test_a_stage_and_a_trial_in_a_line() -> None:
    assert stage_line(snapshot(*STAGE[:3])) == (
        "Base models: 1 done, 1 stopped, 1 failed in 10 min; best base-0000 miou 0.4500"
    )
    assert trial_line(STAGE[0], "miou") == "base-0000  finished  miou 0.4500 (epoch 30 of 30)  300 s"
    assert trial_line(STAGE[2], "miou") == "base-0002  failed  0 s  the loss is nan"


def test_waits_are_shown_once_a_person_notices_them() -> None:
    now = time.monotonic()
    current = [Wait("decoding train", 200, 50, now - 4), Wait("loading", since=now - 3), Wait("quick", 9, 1, now)]
    counted, unknown = text(waits(current, width=60), 60)
    assert counted.split() == ["decoding", "train", "━━━", "50", "of", "200", "4", "s"]
    assert unknown.startswith("loading") and unknown.endswith("3 s")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3660, "1 h 01 min"),
        (26 * 3600, "1 d 2 h"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float, words: str) -> None:
    assert duration(seconds) == words
