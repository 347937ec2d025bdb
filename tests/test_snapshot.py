import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console
from shown_stage import BEGIN, GOAL, STAGE, session, snapshot, trained, trial

from ensemble_tune.frame import frame
from ensemble_tune.snapshot import UNBOUNDED_TRIALS, Follower
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import Status


def test_the_best_may_still_run_and_the_mode_says_what_best_is() -> None:
    records = (trained(0, Status.FINISHED, 3, 0.4), trained(1, Status.RUNNING, 2, 0.5), trained(2, Status.LOST, 2, 0.9))
    assert snapshot(*records).best == records[1]
    assert snapshot(*records, goal={**GOAL, "mode": "min"}).best == records[0]
    assert snapshot().best is None


def test_of_trials_without_an_epoch_the_last_ones_wait() -> None:
    now = snapshot(*STAGE)
    assert [record.number for record in now.running] == [4, 5] and now.waiting == 1
    assert snapshot(*STAGE, use={}).waiting == 0  # nobody has counted the slots yet


def test_parameters_that_all_trials_share_tell_nothing() -> None:
    assert snapshot(*STAGE).telling_params(STAGE[1]) == {"encoder": "resnet34"}
    assert snapshot(STAGE[1]).telling_params(STAGE[1]) == STAGE[1].params


def test_a_trial_has_the_epochs_of_its_own_parameters_first() -> None:
    assert snapshot().epochs_of(trial(0)) == 30
    assert snapshot().epochs_of(trial(0, params={"epochs": 30, "stop_epoch": 7})) == 7
    assert snapshot().epochs_of(trial(0, params={})) == 30
    assert snapshot(limit={}).epochs_of(trial(0, params={})) is None
    assert snapshot().epochs_of(trial(0, params={"epochs": 2}, epochs=3)) == 3


def test_what_is_left_follows_from_what_trials_have_taken() -> None:
    # Three trials of 150 s on average ended or paused so far; one has 5 epochs of 10 s to go, six are to come or begin.
    records = [trained(n, Status.FINISHED, 15, 0.4) for n in range(3)] + [trained(3, Status.RUNNING, 10, 0.1), trial(4)]
    assert snapshot(*records).seconds_left == pytest.approx((50 + 150 + 3 * 150) / 2)
    # Nothing has ended yet: each is taken to last all its 30 epochs.
    assert snapshot(records[3]).seconds_left == pytest.approx((200 + 7 * 300) / 2)
    assert snapshot(trial(0)).seconds_left is None


def test_the_tightest_limit_ends_a_search() -> None:
    limit = {"trials": float(UNBOUNDED_TRIALS), "hours": 1.0}
    assert snapshot(*STAGE, limit=limit).trials is None
    assert snapshot(*STAGE, limit=limit, before=Usage(hours=0.5)).seconds_left == pytest.approx(20 * 60)
    gpus = {"limit": {**limit, "gpu_hours": 2.0}, "use": {"gpus": 4.0, "nodes": 1.0}, "gpu_hours": 1.0}
    assert snapshot(*STAGE, **gpus).seconds_left == pytest.approx(15 * 60)
    cost = {"limit": {**limit, "cost": 10.0, "price": 5.0}, "use": {"nodes": 4.0}, "node_hours": 1.0}
    assert snapshot(*STAGE, **cost).seconds_left == pytest.approx(15 * 60)
    spent = snapshot(*STAGE, limit=limit, before=Usage(hours=7))
    assert spent.seconds_left == 0 and spent.budget[0].left == 0


@pytest.mark.parametrize("hours", [1e8, 1e308])
def test_no_end_is_expected_of_a_limit_that_nobody_will_see(hours: float) -> None:
    limit = {"trials": float(UNBOUNDED_TRIALS), "hours": hours}
    now = snapshot(*STAGE, limit=limit)
    assert now.expected_end is None and now.to_json()["expected_end"] is None
    shown = frame(now, "runs/a", width=100, height=40)
    Console(file=io.StringIO(), width=100).print(shown)
    assert snapshot(*STAGE, limit=limit | {"hours": 1e5}).expected_end is not None


def test_all_of_it_is_json() -> None:
    odd = trial(7, Status.FINISHED, scores={"miou": 0.5, "iou.pole": math.nan}, score=0.5, best_epoch=1, epochs=1)
    found = json.loads(json.dumps(snapshot(*STAGE, odd).to_json(), allow_nan=False))
    assert found["trials"] == {
        "in_all": 8, "running": 3, "paused": 1, "finished": 2, "stopped": 1, "failed": 1, "out_of_memory": 0, "lost": 0
    }  # fmt: skip
    assert found["best"]["trial"] == "base-0007" and found["best"]["scores"] == {"miou": 0.5, "iou.pole": None}
    assert [each["trial"] for each in found["live"]] == ["base-0004", "base-0005", "base-0006"]
    assert found["elapsed_seconds"] == 600 and found["expected_end"].startswith("2026-01-02T03:")


def test_a_follower_keeps_the_stage_it_was_told_of_last() -> None:
    follower = Follower()
    assert follower.snapshot() is None and not follower.goes_on
    follower.begins(session(), STAGE[:1], Usage(hours=1))
    follower.trial(STAGE[1])
    follower.session(replace(session(), slots=5))
    now = follower.snapshot()
    assert now is not None and follower.goes_on
    assert (now.records, now.session.slots, now.before.hours) == (STAGE[:2], 5, 1)
    follower.begins(session(stage="meta"), (), Usage())
    follower.ends(session(stage="meta", ended=BEGIN))
    now = follower.snapshot()
    assert now is not None and not follower.goes_on and now.records == () and now.session.ended == BEGIN
