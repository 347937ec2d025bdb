from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from compared import candidate
from searched_run import STARTED
from tiny_run import Finished
from written_run import base, meta, usual_run, write_run

from ensemble_tune.comparison import NO_GAIN, compare
from ensemble_tune.ensemble.bootstrap import gain, mean_iou
from ensemble_tune.errors import ConfigError, RunError, quoted
from ensemble_tune.report.answer import Answer, answer
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told
from ensemble_tune.tune.record import Status


def tiles(found: Answer) -> dict[str, tuple[str, str]]:
    return {tile.label: (tile.value, tile.note) for tile in found.tiles}


def test_what_else_runs_for_an_image_is_said(tmp_path: Path) -> None:
    mirrored = meta(0, 0.52, "mean", "1+2", deploy="refit", flip=True)
    view = RunView.of(write_run(tmp_path, base(0, 0.4), base(1, 0.5), mirrored))
    assert answer(view).title == "mean of 2 models, mirrored too"


def test_the_best_fusion_comes_first_with_its_members(tmp_path: Path) -> None:
    found = answer(RunView.of(usual_run(tmp_path)))
    assert found.title == "plain of 2 models, each by its 5 fold models"
    assert found.members == (
        "base-0001  linknet resnet34, mIoU on val 0.500",
        "base-0000  linknet resnet18, mIoU on val 0.400",
    )
    assert tiles(found)["mIoU on val"][0] == "0.600"
    assert tiles(found)["trials"] == ("7", "6 finished, 1 failed")
    assert any("not cross-fitted" in note for note in found.notes)


def test_what_a_final_training_measured_comes_with_intervals(finished: Finished) -> None:
    view = RunView.of(finished.out)
    assert view.final is not None
    evidence = view.final.evidence
    found = tiles(answer(view))
    own = mean_iou(evidence["ensemble"])
    assert found["mIoU on test"] == (
        f"{view.final.scores['miou']:.3f}",
        f"95% interval {own.low:.3f} to {own.high:.3f}",
    )
    assert next(iter(found)) == "mIoU on test"
    others = {"mean": "over the mean of its models", "member-1": "over its best model"}
    for name in evidence.keys() & others.keys():
        over = gain([evidence["ensemble"]], [evidence[name]])
        assert found[others[name]][0] == f"{100 * over.value:+.1f} points"
    assert "95% interval" in found["mIoU, cross-fitted"][1]


def test_what_was_measured_on_val_is_said_to_flatter_and_has_no_gains(finished: Finished) -> None:
    view = RunView.of(finished.out)
    assert view.final is not None
    on_val = replace(view, final=replace(view.final, split="val"))
    found = tiles(answer(on_val))
    assert found["mIoU on val"][1] == "chose it, so it flatters" and "mIoU on test" not in found
    assert not {"over the mean of its models", "over its best model"} & set(found)
    alone = answer(replace(on_val, stages=()))
    assert tiles(alone)["mIoU on val"] == (f"{view.final.scores['miou']:.3f}", "chose it, so it flatters")
    single = replace(view.final, manifest=replace(view.final.manifest, bases=view.final.manifest.bases[:1]))
    assert answer(replace(view, stages=(), final=single)).title == "a single model"


def test_a_gain_whose_interval_spans_zero_is_called_none(tmp_path: Path) -> None:
    one, mean = candidate("best single", 0.6, trial="meta-0001"), candidate("mean", 0.602, 4, trial="meta-0000")
    view = RunView.of(usual_run(tmp_path))
    unsure = answer(replace(view, comparison=compare([one, mean])))
    assert unsure.title == "the best single model, by its 5 fold models"
    assert any(note.startswith("mean scores +0.2 points over") and NO_GAIN in note for note in unsure.notes)
    better = candidate("plain", 0.7, 2, trial="meta-0003")
    sure = answer(replace(view, comparison=compare([one, mean, better])))
    assert "Not compared" not in "".join(sure.notes)
    simpler, worse = replace(mean, val=better.val), replace(better, val=mean.val)
    dearer = replace(candidate("group_eca", 0.65, 4, trial="meta-0001"), val=better.val)
    for unlike, taken in (([simpler, worse], "mean"), ([simpler, worse, dearer], "group_eca")):
        found = compare(unlike)
        assert found.chosen.name == taken and found.highest.name == "plain"
        (note,) = (n for n in answer(replace(view, comparison=found)).notes if n.startswith("plain scores +"))
        lost = 100 * (found.highest.val.miou - found.chosen.val.miou)
        assert lost < 0 and f"but {lost:+.1f} on val" in note and note.endswith(f": {taken} is taken.")
    hurried = answer(replace(view, comparison=compare([one, mean], left_out=["linear"])))
    assert any(note.startswith("Not compared") and note.endswith("a fit failed: linear.") for note in hurried.notes)
    assert NO_GAIN not in "".join(sure.notes) and NO_GAIN not in tiles(sure)["over mean"][1]


def test_a_final_training_of_another_ensemble_is_not_taken_for_this_one(finished: Finished) -> None:
    view = RunView.of(finished.out)
    assert view.final is not None
    other = replace(view.final, manifest=replace(view.final.manifest, origin={"meta_trial": "meta-0099"}))
    found = answer(replace(view, final=other))
    assert "mIoU on test" not in tiles(found)
    assert "The final training is of meta-0099, not of this one." in found.notes
    assert replace(view, final=other).final_frames == "on test, meta-0099" and view.final_frames == "on test"


def test_what_the_next_step_is(tmp_path: Path, finished: Finished) -> None:
    searched = write_run(tmp_path / "my runs", base(0, 0.4), base(1, 0.5))
    assert answer(RunView.of(searched)).commands == (f"ensemble-tune search meta --data DATA --out '{searched}'",)
    fused = usual_run(tmp_path / "fused")
    assert answer(RunView.of(fused)).commands == (
        f"ensemble-tune export {fused} --to best.toml",
        f"ensemble-tune train best.toml --data DATA --out {fused / 'final'} --run {fused}",
    )
    assert answer(RunView.of(finished.out)).commands == (
        f"ensemble-tune segment {quoted(finished.out / 'final')} IMAGES --out MASKS",
    )
    under_way = replace(RunView.of(finished.out), sessions=_sessions(finished, ended=None, silent=timedelta(seconds=9)))
    assert answer(under_way).commands == (f"ensemble-tune report {quoted(finished.out)}",)


def _sessions(finished: Finished, *, ended: datetime | None, silent: timedelta) -> tuple:  # type: ignore[type-arg]
    last = RunView.of(finished.out).sessions[-1]
    now = datetime.now(UTC)
    return (replace(last, started=now - timedelta(hours=1), updated=now - silent, ended=ended, reason=None),)


def test_a_driver_that_is_not_heard_of_any_more_is_no_running_search(finished: Finished) -> None:
    view = RunView.of(finished.out)
    assert view.standing == "ended"
    alive = replace(view, sessions=_sessions(finished, ended=None, silent=timedelta(seconds=30)))
    dead = replace(view, sessions=_sessions(finished, ended=None, silent=timedelta(minutes=30)))
    assert (alive.standing, dead.standing) == ("running", "interrupted")


def test_time_and_money_of_all_calls_are_summed(searched: RunView) -> None:
    hours = sum((each.updated - each.started).total_seconds() / 3600 for each in searched.sessions)
    assert len(searched.sessions) == 2 and 0 < hours < 1
    found = tiles(answer(searched, price=30.0))
    assert found["took"] == (f"{60 * hours:.1f} min", f"{30 * hours:.2f} at 30 an hour")


def test_a_search_that_runs_shows_the_best_so_far(searched: RunView) -> None:
    found = answer(searched)
    best = searched.searches[0].ranked[0]
    assert found.title == f"{best.trial}: {told(best)}"
    assert tiles(found)["best miou"] == (f"{best.score:.3f}", f"{best.trial} at epoch {best.best_epoch}")
    assert searched.standing == "interrupted" and searched.sessions[0].started == STARTED


def test_a_run_without_a_score_says_so(tmp_path: Path) -> None:
    view = RunView.of(write_run(tmp_path, base(0, None, status=Status.RUNNING)))
    assert answer(view).title == "no trial has a score yet"
    assert view.standing == "interrupted", "no session says that a driver lives"


def test_the_best_of_late_trials_is_a_reason_to_go_on(tmp_path: Path) -> None:
    records = [base(number, 0.3 + 0.01 * number) for number in range(12)]
    assert "trial 12 of 12" in answer(RunView.of(write_run(tmp_path / "late", *records))).notes[-1]
    early = [base(number, 0.5 - 0.01 * number) for number in range(12)]
    assert not answer(RunView.of(write_run(tmp_path / "early", *early))).notes


def test_where_there_is_no_run_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no search is in"):
        RunView.of(tmp_path)
    with pytest.raises(ConfigError, match="no training has ended in"):
        RunView.of(usual_run(tmp_path), tmp_path / "elsewhere")


def test_a_final_training_can_be_anywhere(finished: Finished, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base(0, 0.4), meta(0, 0.4, "mean", "1", members="base-0000"))
    view = RunView.of(run, finished.out / "final")
    assert view.final is not None and view.stage("final") is not None
    alone = RunView.of(finished.out / "final")
    assert alone.final is not None and [stage.name for stage in alone.stages] == ["final"]
    assert next(iter(tiles(answer(alone)))) == "mIoU on test"
