"""What the figures show of a search: their data, not their looks."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from compared import candidate
from searched_run import EPOCHS, STARTED, searched_run, searched_trials
from tiny_run import Finished
from written_run import base, usual_run, write_run

from ensemble_tune.comparison import NO_GAIN, compare
from ensemble_tune.report.compromise import compromise_plot
from ensemble_tune.report.confusion import confusion_plot
from ensemble_tune.report.curves import curves_plot
from ensemble_tune.report.fusions import class_gains_plot, class_plots, fusion_table, gains_plot
from ensemble_tune.report.members import member_table
from ensemble_tune.report.plot import Plot
from ensemble_tune.report.run_view import RunView, StageView
from ensemble_tune.report.trial_table import trial_tables
from ensemble_tune.report.tuning import study_of, tuning_plots
from ensemble_tune.tune.aim import join_objectives
from ensemble_tune.tune.ledger import LEDGER
from ensemble_tune.tune.pareto import front
from ensemble_tune.tune.record import Objective, Status

STAGES = {"base": slice(0, 9_700), "meta": slice(9_700, None)}


def traces(plot: Plot | None) -> dict[str, dict[str, Any]]:
    assert plot is not None
    return {trace.get("name", str(place)): trace for place, trace in enumerate(json.loads(plot.figure)["data"])}


def test_stopped_trials_have_lines_of_their_own_that_end_early(searched: RunView) -> None:
    stage = searched.searches[0]
    found = traces(curves_plot(stage))
    assert {"finished", "stopped early", "failed", "paused", "running", f"best: {stage.ranked[0].trial}"} <= set(found)
    for name, epochs in (("finished", EPOCHS), ("stopped early", EPOCHS // 2), ("running", EPOCHS // 2)):
        assert max(epoch for epoch in found[name]["x"] if epoch) == epochs
    stopped = {trial.trial for trial in stage.trials if trial.status is Status.STOPPED}
    assert set(found["stopped early"]["text"]) - {None} == stopped - {stage.ranked[0].trial}


def test_no_status_is_left_out_of_the_curves(tmp_path: Path) -> None:
    trials = (base(number, 0.1 + 0.1 * number, status=status) for number, status in enumerate(Status))
    view = RunView.of(write_run(tmp_path, *trials))
    (plot,) = (curves_plot(stage) for stage in view.searches)
    names = ("finished", "stopped early", "paused", "running", "failed", "out of memory", "lost")
    assert plot is not None and all(f"1 {name}" in plot.told for name in names) and len(names) == len(Status)


def test_of_too_many_curves_the_best_stay(tmp_path: Path) -> None:
    view = RunView.of(searched_run(tmp_path, 420, epochs=2))
    plot = curves_plot(view.searches[0])
    assert plot is not None and "120 curves between the best and the worst are left out" in plot.told
    shown = {name for trace in json.loads(plot.figure)["data"] for name in trace.get("text", ())} - {None}
    assert len(shown) == 300
    assert {trial.trial for trial in view.searches[0].ranked[:150]} <= shown


def test_a_study_in_memory_holds_the_trials_at_their_best(searched: RunView) -> None:
    study = study_of(searched.searches[0])
    assert study is not None
    scored = [trial for trial in searched.searches[0].trials if trial.status is not Status.FAILED]
    assert [trial.value for trial in study.trials] == [trial.score for trial in scored]
    assert {name for trial in study.trials for name in trial.params} == {
        "architecture",
        "learning_rate",
        "decoder_attention",
    }
    assert study.trials[0].distributions["learning_rate"].log
    assert all(("decoder_attention" in t.params) == (t.params["architecture"] == "unet") for t in study.trials)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 2**63 - 1])
def test_a_parameter_beyond_any_axis_is_left_out(tmp_path: Path, value: float) -> None:
    trials = [base(number, 0.1 + 0.1 * number) for number in range(3)]
    odd = [replace(each, params={**each.params, "rate": value if each.number else 0.5}) for each in trials]
    study = study_of(RunView.of(write_run(tmp_path, *odd)).searches[0])
    assert study is not None and {name for trial in study.trials for name in trial.params} == {"encoder"}


def test_a_best_trial_without_epochs_has_no_curve(tmp_path: Path) -> None:
    run = usual_run(tmp_path / "run")
    for part in (run / LEDGER / "epochs").glob("meta-*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.filter(pc.not_equal(table["trial"], "meta-0003")), part)
    stage = RunView.of(run).searches[1]
    assert stage.ranked[0].trial == "meta-0003"
    found = traces(curves_plot(stage))
    assert "finished" in found and not [name for name in found if name.startswith("best")]


def test_the_parameter_that_matters_comes_first(searched: RunView) -> None:
    plots = {plot.name: plot for plot in tuning_plots(searched.searches[0])}
    importance = next(iter(traces(plots["importance-base"]).values()))
    assert importance["y"][-1] == "learning_rate" and importance["x"][-1] == max(importance["x"])
    assert {"parallel-base", "slice-base-learning_rate", "slice-base-architecture"} <= set(plots)
    (shown,) = traces(plots["slice-base-learning_rate"]).values()
    assert len(shown["x"]) == len(searched.searches[0].ranked)


def test_the_slices_of_ten_thousand_trials_fit_a_page(searched: RunView) -> None:
    chance = random.Random(0)
    trials = [
        replace(base(number, chance.random()), params={f"parameter_{place}": chance.random() for place in range(6)})
        for number in range(10_000)
    ]
    stage = replace(searched.searches[0], trials=tuple(trials))
    plots = tuning_plots(stage)
    slices = [plot for plot in plots if plot.name.startswith("slice-")]
    assert len(slices) == 6 and sum(len(plot.figure) for plot in plots) < 1.5e6
    for plot in slices:
        assert "8500 trials between the best and the worst are left out" in plot.told
        (shown,) = traces(plot).values()
        assert len(shown["x"]) == 1500 and {trial.trial for trial in stage.ranked[:750]} <= set(shown["text"])
        assert list(shown["text"]) == sorted(shown["text"], key=lambda name: int(name.partition("-")[2]))


def test_where_nothing_was_varied_there_is_nothing_to_tell(tmp_path: Path) -> None:
    alike = [replace(base(number, 0.4), params={"x": 1}) for number in range(9)]
    assert not tuning_plots(RunView.of(write_run(tmp_path / "alike", *alike)).searches[0])
    few = RunView.of(usual_run(tmp_path / "few")).searches[0]
    assert [plot.name for plot in tuning_plots(few)] == ["parallel-base", "slice-base-encoder"]


def test_gains_stand_beside_every_simpler_fusion(finished: Finished) -> None:
    comparison = RunView.of(finished.out).comparison
    assert comparison is not None
    found = traces(gains_plot(comparison))
    for fusion in comparison.fusions:
        for gain in fusion.gains:
            trace = found[f"over {gain.over}"]
            place = trace["y"].index(fusion.name)
            assert trace["x"][place] == pytest.approx(100 * gain.miou.value, rel=1e-3)
            assert trace["error_x"]["array"][place] == pytest.approx(100 * (gain.miou.high - gain.miou.value), rel=1e-3)
    table = fusion_table(RunView.of(finished.out))
    assert table is not None and table.chosen is not None
    assert [row[0] for row in table.rows] == [fusion.name for fusion in comparison.fusions]
    assert table.rows[table.chosen][0] == comparison.chosen.name


def test_a_gain_whose_interval_spans_zero_is_called_none(searched: RunView) -> None:
    comparison = compare([candidate("best single", 0.6), candidate("mean", 0.7, 1), candidate("weighted", 0.7, 2)])
    table = fusion_table(replace(searched, comparison=comparison))
    assert table is not None
    over = {row[0]: dict(zip(table.head, row, strict=True))["over mean, points"] for row in table.rows}
    assert over["mean"] == "" and over["weighted"].endswith(f"), {NO_GAIN}")
    assert NO_GAIN not in "".join(table.rows[1]), "the mean is measurably better than one"
    shown = traces(gains_plot(comparison))
    assert NO_GAIN in shown["over mean"]["text"][0] and NO_GAIN not in "".join(shown["over best single"]["text"])


def test_gains_of_small_objects_and_of_each_class_are_shown_with_their_intervals(searched: RunView) -> None:
    comparison = compare([candidate("best single", 0.6), candidate("mean", 0.7, 1), candidate("linear", 0.75, 2)])
    table = fusion_table(replace(searched, comparison=comparison))
    assert table is not None
    linear = dict(zip(table.head, table.rows[2], strict=True))
    gain = comparison.fusions[2].over("mean")
    low, high = (f"{100 * bound:+.1f}" for bound in (gain.small_miou.low, gain.small_miou.high))
    assert linear["small objects over mean, points"].endswith(f"({low} to {high})")
    plots = {plot.name: plot for plot in class_plots(replace(searched, comparison=comparison))}
    shown = traces(plots["class-gains"])["over mean"]
    assert set(shown["y"]) == {"sky", "road", "pole", "small objects"}, "a class that is not there has no gain"
    for name, interval in (("road", gain.ious["road"]), ("small objects", gain.small_miou)):
        place = shown["y"].index(name)
        assert shown["x"][place] == pytest.approx(100 * interval.value, rel=1e-3)
        assert shown["error_x"]["array"][place] == pytest.approx(100 * (interval.high - interval.value), rel=1e-3)
        assert shown["error_x"]["arrayminus"][place] == pytest.approx(100 * (interval.value - interval.low), rel=1e-3)
    assert class_gains_plot(compare([candidate("mean", 0.7)])) is None, "there is nothing simpler"


def test_members_are_shown_with_what_they_cost_and_how_they_differ(finished: Finished, tmp_path: Path) -> None:
    view = RunView.of(finished.out)
    table = member_table(view)
    assert table is not None and view.comparison is not None and view.comparison.disagreement is not None
    for member, row in zip(view.comparison.members, table.rows, strict=True):
        shown = dict(zip(table.head, row, strict=True))
        assert shown["member"] == member["trial"] and shown["mIoU on val"] == f"{member['miou']:.3f}"
        assert shown["seconds of training"] == f"{member['train_seconds']:.0f}"
        assert (
            shown["MB of memory"] == f"{member['memory']:.0f}" and shown["weight"] == f"{member.get('weight', 0):.2f}"
        )
    assert f"different classes to {view.comparison.disagreement:.1%} of val" in table.told
    uncompared = member_table(RunView.of(usual_run(tmp_path)))
    assert uncompared is not None and [row[0] for row in uncompared.rows] == ["base-0001", "base-0000"]
    assert uncompared.rows[0][4:8] == ("-",) * 4 and "different classes" not in uncompared.told


def test_without_a_comparison_the_best_of_each_kind_is_shown(tmp_path: Path) -> None:
    table = fusion_table(RunView.of(usual_run(tmp_path)))
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("plain", "meta-0003", "0.600"),
        ("mean", "meta-0000", "0.520"),
        ("best single", "meta-0001", "0.500"),
    ]


def test_classes_are_shown_on_the_frames_that_chose_nothing_and_cross_fitted(finished: Finished) -> None:
    view = RunView.of(finished.out)
    plots = {plot.name: plot for plot in class_plots(view)}
    assert {"classes-final", "classes"} <= set(plots) <= {
        "classes-final",
        "classes",
        "class-gains",
    } and view.final is not None
    shown = traces(plots["classes-final"])
    assert {"ensemble", "mean", "its best model"} >= set(shown)
    by_class = dict(zip(shown["ensemble"]["y"], shown["ensemble"]["x"], strict=True))
    assert by_class["car"] == pytest.approx(view.final.scores["iou.car"], rel=1e-4)


def test_the_confusion_matrix_has_shares_of_the_truth(finished: Finished) -> None:
    view = RunView.of(finished.out)
    assert view.final is not None
    (heat,) = traces(confusion_plot(view)).values()
    assert np.nansum(np.array(heat["z"], float), axis=1) == pytest.approx([100, 100, 100], abs=0.3)
    counts = view.final.evidence["ensemble"].confusions.sum(0)
    assert heat["z"][1][1] == pytest.approx(100 * counts[1, 1] / counts[1].sum(), abs=0.06)
    before = confusion_plot(replace(view, final=None))
    assert before is not None and "cross-fitted on the training frames" in before.told
    assert confusion_plot(replace(view, final=None, comparison=None)) is None


def test_the_front_is_of_those_that_none_beats(searched: RunView) -> None:
    found = traces(compromise_plot(searched))
    assert set(found) == {"base models", "front", "knee"}
    times, scores = found["front"]["x"], found["front"]["y"]
    assert times == sorted(times, reverse=True) and scores == sorted(scores, reverse=True)
    assert compromise_plot(replace(searched, stages=())) is None


def test_a_base_model_alone_stands_on_the_front_beside_fusions(tmp_path: Path) -> None:
    costs = {"base-0003": 1.0, "meta-0001": 5.0, "meta-0003": 20.0}
    records = [*RunView.of(usual_run(tmp_path)).stages[0].trials, base(3, 0.35)]
    records += RunView.of(tmp_path).stages[1].trials
    timed = [
        replace(each, scores={**each.scores, "milliseconds": costs.get(each.trial, 30.0)})
        for each in records
        if each.ended_well
    ]
    plot = compromise_plot(RunView.of(write_run(tmp_path, *timed)))
    shown = traces(plot)
    assert plot is not None and shown["front"]["x"] == [20.0, 5.0, 1.0] and "3 of 7," in plot.told
    assert [text.partition(":")[0] for text in shown["front"]["text"]] == ["meta-0003", "meta-0001", "base-0003"]


def test_the_more_parameters_the_larger_the_mark(searched: RunView, tmp_path: Path) -> None:
    sizes = (1.0, 4.0, 16.0)
    records = [
        replace(record := base(number, 0.4), scores={**record.scores, "milliseconds": 5.0 + number, "parameters": size})
        for number, size in enumerate(sizes)
    ]
    plot = compromise_plot(RunView.of(write_run(tmp_path, *records)))
    shown = traces(plot)["base models"]
    assert plot is not None and "The larger a mark, the more parameters." in plot.told
    told = dict(zip(shown["customdata"], shown["marker"]["size"], strict=True))
    assert told == {", 1.0 M parameters": 6.0, ", 4.0 M parameters": 11.0, ", 16.0 M parameters": 22.0}
    alike = traces(compromise_plot(searched))["base models"]
    assert set(alike["marker"]["size"]) == {8.0}, "nobody counted them"


def test_the_front_is_of_what_the_search_went_after(searched: RunView) -> None:
    after = (Objective("small_miou"), Objective("iou.road", "max"))
    sessions = tuple(
        replace(session, goal={"metric": "small_miou", "mode": "max", "objectives": join_objectives(after)})
        for session in searched.sessions
    )
    plot = compromise_plot(replace(searched, sessions=sessions))
    assert plot is not None and plot.title == "Pareto front: small_miou against iou.road"
    assert "up and right is better" in plot.told and "1 of " in plot.told, "the best in one is the best in the other"
    best = front(searched.searches[0].trials, after)[0]
    shown = traces(plot)["front"]
    assert shown["y"] == [pytest.approx(best.scores["small_miou"], rel=1e-4)]
    assert shown["x"] == [pytest.approx(best.scores["iou.road"], rel=1e-4)]
    foreign = tuple(replace(session, goal={"objectives": ":min; "}) for session in searched.sessions)
    assert compromise_plot(replace(searched, sessions=foreign)) == compromise_plot(searched)


def test_every_trial_is_in_a_table_the_best_first(searched: RunView) -> None:
    (table,) = trial_tables(searched)
    assert len(table.rows) == 24 and not table.left_out
    assert table.head == (
        *("trial", "status", "miou", "small_miou", "best epoch", "epochs", "seconds"),
        *("architecture", "decoder_attention", "learning_rate", "error"),
    )
    scores = [float(row[2]) for row in table.rows if row[1] != "failed"]
    assert scores == sorted(scores, reverse=True)
    lacking = [row for row in table.rows if row[7] != "unet"]
    assert lacking and all(row[8] == "-" for row in lacking)


def test_every_one_of_ten_thousand_trials_is_in_the_table(searched: RunView, tmp_path: Path) -> None:
    """Some are there at once, the others wait in two megabytes at most: the page's own share of eight."""
    trials = [record for record, _ in searched_trials(STARTED, 10_000, 2)[0]]
    stages = [StageView.of(name, trials[part], {}, tmp_path) for name, part in STAGES.items()]
    tables = trial_tables(replace(searched, stages=tuple(stages)))
    assert [table.stage for table in tables] == ["base", "meta"] and not any(table.left_out for table in tables)
    assert sum(len(table.rows) for table in tables) == 500 and sum(len(table.more.encode()) for table in tables) < 2e6
    for table, stage in zip(tables, stages, strict=True):
        names = [row[0] for row in (*table.rows, *json.loads(table.more))]
        assert len(names) == len(set(names)) == len(stage.trials) == len(table.rows) + table.waiting
        assert names[: len(stage.ranked)] == [trial.trial for trial in stage.ranked] and "<" not in table.more


def test_of_too_many_trials_the_best_are_in_the_table(searched: RunView, tmp_path: Path) -> None:
    trials = [record for record, _ in searched_trials(STARTED, 30_000, 2)[0]]
    (table,) = trial_tables(replace(searched, stages=(StageView.of("base", trials, {}, tmp_path),)))
    assert len(table.more.encode()) <= 2e6 and 0 < table.left_out == 30_000 - len(table.rows) - table.waiting
    shown = {row[0] for row in (*table.rows, *json.loads(table.more))}
    assert shown >= {trial.trial for trial in sorted(trials, key=lambda trial: -(trial.score or 0))[:5000]}
