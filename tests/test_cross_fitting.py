import json
import shutil
from pathlib import Path

import numpy as np
from tiny_run import FOLDS, Finished, run_tiny, trials_of
from written_run import meta

from ensemble_tune.comparison import Comparison, current_comparison
from ensemble_tune.cross_fitting import affordable, best_of_each_kind
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


def test_of_each_kind_the_best_is_compared_the_simplest_first() -> None:
    records = [
        meta(0, 0.50, "mean", "1+2"),
        meta(1, 0.45, "mean", "1"),
        meta(2, 0.47, "mean", "2"),
        meta(3, 0.60, "group_eca"),
        meta(4, 0.40, "linear", "1+2"),
        meta(5, 0.55, "group_eca"),
        meta(6, None, "weighted"),
    ]
    assert [record.number for record in best_of_each_kind(records)] == [2, 0, 4, 3]


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
