import json
import shutil
from pathlib import Path

import numpy as np
from compared import evidence
from tiny_run import FOLDS, META_EPOCHS, META_SPACE, Finished, run_tiny, settings, trials_of
from written_run import meta

from ensemble_tune.comparison import Comparison, current_comparison
from ensemble_tune.cross_fitting import affordable, cheapest_of_its_kind, variants_of_each_kind
from ensemble_tune.ensemble.evidence import Evidence
from ensemble_tune.fused import model_passes
from ensemble_tune.meta_search import search_meta
from ensemble_tune.strategy import Strategy
from ensemble_tune.tune.record import rank


def compared(out: Path) -> Comparison:
    comparison = current_comparison(out, rank(trials_of(out, "meta"), "max"))
    assert comparison is not None
    return comparison


def test_what_would_take_too_long_is_left_out_unless_it_is_done() -> None:
    mean, linear, eca = meta(0, 0.5, "mean", "1+2"), meta(1, 0.55, "linear"), meta(2, 0.6, "group_eca")
    each = 12.3 * 3 / 4 * 2  # three of four epochs of 12.3 s, on two thirds of the frames three times
    assert affordable([mean, linear, eca], 3, 2 * each + 1) == [mean, linear, eca]
    assert affordable([mean, linear, eca], 3, each + 1) == [mean, eca], "the better one on val"
    assert affordable([mean, linear, eca], 3, 0.0) == [mean]
    assert affordable([mean, linear, eca], 3, 0.0, done={linear.trial}) == [mean, linear]


def test_of_each_kind_the_best_comes_last_and_the_simplest_kind_first() -> None:
    records = [
        meta(0, 0.50, "mean", "1+2"),
        meta(1, 0.45, "mean", "1"),
        meta(2, 0.47, "mean", "2"),
        meta(3, 0.60, "group_eca"),
        meta(4, 0.40, "linear", "1+2"),
        meta(5, 0.55, "group_eca"),
        meta(6, None, "weighted"),
    ]
    assert [[record.number for record in own] for own in variants_of_each_kind(records)] == [[2], [0], [4], [3]]


def test_variants_of_a_kind_are_told_by_how_often_a_model_runs() -> None:
    records = [
        meta(0, 0.50, "mean", "all", deploy="refit"),  # 2 runs of a model
        meta(1, 0.52, "mean", "all"),  # 10: five folds
        meta(2, 0.51, "mean", "all", deploy="refit", flip=True),  # 4
        meta(3, 0.49, "mean", "1", deploy="refit", flip=True),
        meta(4, 0.51, "mean", "all", flip=True),  # 20, and no better than 4
        meta(5, 0.48, "mean", "2", deploy="refit"),
        meta(6, 0.47, "mean", "1", deploy="refit"),
    ]
    assert [model_passes(record) for record in records] == [2, 10, 4, 2, 20, 1, 1]
    assert [[record.number for record in own] for own in variants_of_each_kind(records)] == [[5, 3], [0, 2, 1]]


def test_within_a_kind_the_cheapest_is_taken_that_none_measurably_beats_on_val() -> None:
    plain, flipped, folds = meta(0, 0.50, "mean"), meta(1, 0.51, "mean"), meta(2, 0.52, "mean")
    variants = (plain, flipped, folds)

    def taken(*hits: float) -> int:
        found = {record.trial: evidence(each, 0, seed=9) for record, each in zip(variants, hits, strict=True)}
        return cheapest_of_its_kind(variants, found).number

    assert taken(0.6, 0.6, 0.6) == 0, "none can be told from the cheapest"
    assert taken(0.6, 0.7, 0.7) == 1 and taken(0.6, 0.6, 0.7) == 2 and taken(0.6, 0.7, 0.8) == 2
    assert taken(0.7, 0.6, 0.6) == 0
    without = {record.trial: evidence(0.6, 0) for record in (flipped, folds)}
    assert cheapest_of_its_kind(variants, without).number == 1, "of the cheapest nothing is known"
    assert cheapest_of_its_kind(variants, {plain.trial: evidence(0.6, 0)}).number == 2, "nor of the best"
    assert cheapest_of_its_kind((folds,), {}).number == 2


def test_fusions_of_mirrored_frames_are_set_beside_the_plain_ones_on_val(
    finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "again")
    out, space = tmp_path / "again" / "run", tmp_path / "meta.toml"
    space.write_text(f"{META_SPACE}flip = {{ choices = [false, true] }}\n")
    here = settings(tiles, out, tmp_path / "again" / "cache")
    search_meta(here, space=space, trials=0, epochs=META_EPOCHS, strategy=Strategy(scheduler="none"))
    records = [record for record in trials_of(out, "meta") if record.params["kind"] == "mean"]
    assert {model_passes(record) for record in records} == {1, 2, 4}
    taken = {fusion.trial for fusion in compared(out).fusions}
    for variants in variants_of_each_kind(records):
        on_val = {
            r.trial: Evidence.open(out / "evidence" / f"{r.trial}-block-0") for r in variants if len(variants) > 1
        }
        assert cheapest_of_its_kind(variants, on_val).trial in taken


def test_every_fusion_was_scored_on_every_training_frame(finished: Finished, tiles: Path) -> None:
    comparison = compared(finished.out)
    names = [fusion.name for fusion in comparison.fusions]
    assert names[:5] == ["best single", "mean", "weighted", "greedy", "linear"] and len(names) == 6
    frames = {path.stem for path in (tiles / "train").iterdir()}
    for fusion in comparison.fusions:
        seen: list[str] = []
        for block in range(1, FOLDS + 1):
            folder = finished.out / "evidence" / f"{fusion.trial}-block-{block}"
            seen += json.loads((folder / "frames.json").read_text())["names"]
            assert np.load(folder / "confusions.npy").sum() > 0
        assert sorted(seen) == sorted(frames)


def test_val_scores_are_those_of_the_search(finished: Finished) -> None:
    comparison = compared(finished.out)
    searched = {trial.trial: trial for trial in trials_of(finished.out, "meta")}
    for fusion in comparison.fusions:
        assert fusion.val.miou == searched[fusion.trial].scores["miou"]


def test_members_are_told_with_what_they_cost(finished: Finished) -> None:
    comparison = compared(finished.out)
    assert comparison.disagreement is not None
    for member in comparison.members:
        assert set(member) >= {"trial", "miou", "milliseconds", "parameters", "memory", "train_seconds"}
        own = next(trial for trial in trials_of(finished.out, "base") if trial.trial == member["trial"])
        assert float(member["train_seconds"]) > own.seconds, "with its fold models"


def test_what_is_lost_of_the_evidence_is_measured_again(finished: Finished, tiles: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "again")
    out = tmp_path / "again" / "run"
    (path,) = (out / "comparisons").iterdir()
    before = path.read_text()
    comparison = compared(out)
    lost = out / "evidence" / f"{comparison.fusions[-1].trial}-block-1"
    (lost / "confusions.npy").write_bytes(b"")
    path.unlink()
    run_tiny(tiles, tmp_path / "again")
    assert compared(out).chosen.trial == comparison.chosen.trial
    assert json.loads(path.read_text())["fusions"] == json.loads(before)["fusions"]
