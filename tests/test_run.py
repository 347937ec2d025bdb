import json
import math
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tiles import SIZE
from tiny_run import (
    BASE_TRIALS,
    FOLDS,
    META_TRIALS,
    STRATEGY,
    Finished,
    assert_whole,
    epochs_of,
    run_tiny,
    settings,
    trials_of,
    write_spaces,
)

from ensemble_tune.base_search import epoch_seconds, is_anytime, search_base
from ensemble_tune.comparison import current_comparison
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.errors import RunError
from ensemble_tune.export import export_best
from ensemble_tune.final_training import _fusion_before, train
from ensemble_tune.library import ended_base_trials, keep_library
from ensemble_tune.meta_search import search_meta
from ensemble_tune.run import _more_cores, run_all
from ensemble_tune.strategy import Strategy
from ensemble_tune.timetable import Timetable
from ensemble_tune.tune.budget import Budget, Target
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, rank
from ensemble_tune.tune.usable_cores import usable_cores


def test_ctrl_c_in_any_stage_loses_and_doubles_nothing(finished: Finished) -> None:
    for out in (finished.out, finished.out / "final"):
        assert_whole(out)
    counts = {stage: len(trials_of(finished.out, stage)) for stage in ("base", "fold", "meta")}
    assert counts == {"base": BASE_TRIALS, "fold": BASE_TRIALS * (FOLDS + 1), "meta": META_TRIALS + 6}
    assert max(row.attempt for row in epochs_of(finished.out)) > 1, "no trial was interrupted"


def test_an_interrupted_command_says_that_it_goes_on(finished: Finished) -> None:
    assert finished.status == 130, finished.told
    assert finished.told.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in finished.told and "error" not in finished.told


_LINES = re.compile(
    r"""(base|meta)\ search:\ at\ most\ \d+\ trials\ x\ \d+\ epochs\ on\ \d+\ slots
    |(base|fold|meta|compare|final)-\d{4}\ \ finished\ \ miou\ 0\.\d{4}\ \(epoch\ \d+\ of\ \d+\)\ \ \d+\ s
    |(base|meta)\ search\ ends:\ all\ trials\ have\ ended
    |members:\ base-\d{4}\ \(miou\ .*
    |next:\ ensemble-tune\ segment\ .*
    |interrupted;\ the\ same\ command\ goes\ on\ from\ here""",
    re.VERBOSE,
)
"""All that a run has to say in a pipe."""


def test_a_run_says_nothing_that_is_not_its_own(finished: Finished) -> None:
    """No banner, no warning, no log line of Ray, Optuna, torch or anybody."""
    stray = [line for line in finished.told.splitlines() if not _LINES.fullmatch(line)]
    assert stray == [] and finished.told


def test_one_call_goes_from_frames_to_a_measured_ensemble(finished: Finished) -> None:
    manifest = EnsembleManifest.load(finished.out / "best.toml")
    comparison = current_comparison(finished.out, rank(trials_of(finished.out, "meta"), "max"))
    assert comparison is not None and manifest.origin["meta_trial"] == comparison.chosen.trial
    chosen = {trial.trial: trial for trial in trials_of(finished.out, "meta")}[comparison.chosen.trial]
    assert manifest.scores["fusion_miou"] == chosen.score
    assert manifest.scores["crossfit_miou"] == comparison.chosen.crossfit.miou
    assert {trial.stage for trial in trials_of(finished.out / "final")} == {"final"}
    for file in ("metrics.json", "ensemble/ensemble.toml", "masks/d_000.png", "overlays/d_000.jpg"):
        assert (finished.out / "final" / file).exists()


def test_the_same_call_again_trains_nothing(finished: Finished, tiles: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "again")
    out = tmp_path / "again" / "run"
    before = [trials_of(folder) for folder in (out, out / "final")]
    started = time.monotonic()
    run_tiny(tiles, tmp_path / "again")
    assert time.monotonic() - started < 15
    assert [trials_of(folder) for folder in (out, out / "final")] == before


def test_a_final_training_in_a_run_trains_nothing_again(finished: Finished) -> None:
    """The search has trained the members and the fusion on the very same frames."""
    trials = trials_of(finished.out / "final")
    assert {trial.trial: 1 for trial in trials} == Counter(row.trial for row in epochs_of(finished.out / "final"))
    assert any("fold" in trial.params for trial in trials)


def test_a_fusion_of_members_that_are_trained_otherwise_is_trained_again(finished: Finished) -> None:
    manifest = EnsembleManifest.load(finished.out / "best.toml")
    again = _fusion_before(finished.out, manifest)
    assert (again is not None) == (manifest.fusion.trained)
    assert _fusion_before(finished.out, manifest.with_settings(learning_rate=0.5)) is None


def test_a_final_training_in_a_run_repeats_no_fold(finished: Finished) -> None:
    """Fold models that only predict for the fusion were trained by the search, and their predictions are used."""
    manifest = EnsembleManifest.load(finished.out / "best.toml")
    folds = {trial.params.get("fold") for trial in trials_of(finished.out / "final")} - {None}
    assert manifest.deploy == "refit" and folds == {0}


def test_stage_2_chooses_its_members_from_as_many_models_as_stage_1_keeps(
    finished: Finished, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*given: object) -> None:
        raise RunError(f"members of {given[-1]}")

    shutil.copytree(finished.folder, tmp_path / "again")
    monkeypatch.setattr("ensemble_tune.meta_search.choose_members", chosen)
    with pytest.raises(RunError, match="members of 30"):
        run_tiny(tiles, tmp_path / "again", strategy=replace(STRATEGY, keep=30))


def test_fold_models_that_stand_for_members_are_trained_once(finished: Finished, tiles: Path, tmp_path: Path) -> None:
    """They scored the ensemble on val, and are what is deployed; an export of another fusion costs them nothing."""
    shutil.copytree(finished.folder, tmp_path / "again")
    own = settings(tiles, tmp_path / "again" / "run", finished.folder / "cache")
    space = write_spaces(tmp_path / "spaces")[1]
    space.write_text(space.read_text() + 'deploy = { choices = ["refit", "folds"] }\n')
    search_meta(own, space=space, trials=0, epochs=8)
    keep_library(own, own.stage_data(), ended_base_trials(own.out, own.stage_data()), size=12)
    mean = next(t for t in trials_of(own.out, "meta") if (t.params["kind"], t.params["deploy"]) == ("mean", "folds"))
    manifest = export_best(own.out, tmp_path / "mean.toml", rule=mean.trial)
    final = replace(own, out=tmp_path / "final")
    result = train(manifest, final, run=own.out)
    models = [trial for trial in trials_of(final.out) if "fold" in trial.params]
    assert len(models) == FOLDS * BASE_TRIALS and result.split == "test"
    assert all("train" not in row.seconds for row in epochs_of(final.out))
    searched = {(t.params["member"], t.params["fold"]): t for t in trials_of(own.out, "fold")}
    for model in models:
        name = manifest.trials[int(model.params["member"]) - 1]
        of_search = searched[name, model.params["fold"]]
        assert model.scores == {score: of_search.scores[score] for score in model.scores} and model.scores


def test_what_was_exported_scores_in_the_final_training_as_it_did_in_the_search(finished: Finished) -> None:
    """The refit members of the final training are the models that the search scored, bit for bit."""
    members = [trial for trial in trials_of(finished.out / "final") if "fold" in trial.params]
    manifest = EnsembleManifest.load(finished.out / "best.toml")
    searched = {trial.trial: trial for trial in trials_of(finished.out, "base")}
    assert len(members) == len(manifest.trials) > 0
    for member, name in zip(members, manifest.trials, strict=True):
        assert "miou" in member.scores
        exact = set(member.scores) - {MILLISECONDS}
        assert {k: member.scores[k] for k in exact} == {k: searched[name].scores[k] for k in exact}


def test_where_hours_hold_no_fold_trainings_means_alone_are_compared(
    finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    """Then nothing is trained on folds."""
    out = tmp_path / "run"
    base = write_spaces(tmp_path / "spaces")[0]
    said: list[str] = []
    own = replace(settings(tiles, out, finished.folder / "cache"), say=said.append)
    search_base(own, space=base, trials=2, epochs=4, size=SIZE, strategy=Strategy(scheduler="none"))
    search_meta(own, space=write_spaces(tmp_path / "spaces")[1], trials=5, epochs=4, timetable=Timetable(1e-9))
    assert "no fusion is fitted" in " ".join(said)
    assert {trial.params["kind"] for trial in trials_of(out, "meta")} == {"mean"}
    assert {trial.params["fold"] for trial in trials_of(out, "fold")} == {0}
    assert not trials_of(out, "compare")
    assert export_best(out, tmp_path / "best.toml").fusion.kind == "mean"


def test_hours_bound_the_whole_run(tiles: Path, tmp_path: Path) -> None:
    base, meta = write_spaces(tmp_path / "spaces")
    run_all(
        settings(tiles, tmp_path / "run", tmp_path / "cache"),
        base_space=base,
        size=SIZE,
        meta_space=meta,
        meta_trials=10_000,
        meta_epochs=2,
        strategy=Strategy(budget=Budget(hours=0.01)),
    )
    assert len(trials_of(tmp_path / "run", "probe")) == 2
    epochs = {trial.params["epochs"] for trial in trials_of(tmp_path / "run", "base")}
    assert len(epochs) == 1 and 4 <= int(epochs.pop()) <= 120
    sessions = Ledger(tmp_path / "run" / LEDGER).sessions()
    ended = {session.stage: session.reason for session in sessions}
    assert str(ended["base"]).endswith("hours used")
    assert {trial.params["kind"] for trial in trials_of(tmp_path / "run", "meta")} >= {"mean"}
    assert (tmp_path / "run" / "final" / "metrics.json").exists()


def test_where_hours_are_few_one_model_has_all_cores_to_the_end_of_them(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has come to when it is cut off is exported."""
    monkeypatch.setattr("ensemble_tune.run.epoch_seconds", lambda own, **how: 1e4 * epoch_seconds(own, **how) + 1e4)
    base, meta = write_spaces(tmp_path / "spaces")
    out, said = tmp_path / "run", list[str]()
    own = replace(settings(tiles, out, tmp_path / "cache"), say=said.append)
    run_all(
        own,
        base_space=base,
        size=SIZE,
        meta_space=meta,
        meta_trials=1,
        meta_epochs=1,
        strategy=Strategy(budget=Budget(hours=1.0, target=Target("miou", 1e-6))),  # no hour is waited for
    )
    slots = {session.stage: session.slots for session in Ledger(out / LEDGER).sessions()}
    assert slots["base"] == math.ceil(slots["probe"] / 8) and slots["fold"] == slots["probe"]
    assert f"{slots['base']} at a time are trained, on {slots['probe'] // slots['base']} core" in " ".join(said)
    assert own.workers.resources.cpus == 1
    records = {record.trial: record for record in trials_of(out, "base")}
    assert sum(record.epochs > 0 for record in records.values()) == slots["base"]
    exported = EnsembleManifest.load(out / "best.toml")
    record = records[exported.trials[0]]
    assert record.status is Status.PAUSED and exported.bases[0].stop_epoch == record.best_epoch
    assert record.epochs < exported.bases[0].epochs == record.params["epochs"] == 4
    assert json.loads((out / "final" / "metrics.json").read_text())["scores"]["miou"] > 0


def test_a_run_that_was_begun_on_a_larger_machine_asks_for_no_more_cores_than_there_are() -> None:
    here = usable_cores()
    assert _more_cores(1.0, 1) == 1.0 and _more_cores(1.0, here) == _more_cores(1.0, 64 * here) == here
    assert _more_cores(64.0 * here, 1) == 64 * here, "what is asked for is refused in its own words"


def test_only_a_constant_learning_rate_is_worth_the_same_at_any_epoch(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    for schedule, anytime in (
        ("", True),
        ('schedule = "constant"', True),
        ('schedule = { choices = ["constant", "cosine"] }', False),
        ('schedule = "one_cycle"', False),
    ):
        space.write_text(f'[parameters]\narchitecture = "unet"\n{schedule}\n')
        assert is_anytime(space) == anytime
    assert is_anytime("base") and is_anytime("base-small")


def test_hours_of_a_search_of_fusions_are_its_own(finished: Finished, tiles: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "again")
    out, meta = tmp_path / "again" / "run", write_spaces(tmp_path / "spaces")[1]
    bounded = Strategy(budget=Budget(hours=1e-6))
    own = settings(tiles, out, finished.folder / "cache")
    search_meta(own, space=meta, trials=10_000, epochs=8, strategy=bounded)
    reasons = [session.reason for session in Ledger(out / LEDGER).sessions() if session.stage == "meta"]
    assert str(reasons[-1]).endswith("hours used")
