import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compared import candidate
from rich.console import Console

from ensemble_tune.comparison import NO_GAIN, Candidate, Comparison, Gain, compare, fusion_name
from ensemble_tune.comparison_table import comparison_table
from ensemble_tune.ensemble.bootstrap import Interval
from ensemble_tune.errors import RunError

MEMBERS = {"members": "base-0001", "member_epochs": "3", "folds": 3}


def test_every_fusion_is_set_beside_all_simpler_ones() -> None:
    found = compare([candidate("best single", 0.6), candidate("mean", 0.7, 1), candidate("linear", 0.7, 2)])
    assert [[gain.over for gain in fusion.gains] for fusion in found.fusions] == [
        [],
        ["best single"],
        ["best single", "mean"],
    ]
    gain = found.fusions[1].over("best single")
    assert gain.miou.above_zero and gain.miou.value == pytest.approx(
        found.fusions[1].crossfit.miou - found.fusions[0].crossfit.miou
    )
    assert gain.small_miou.value == pytest.approx(
        found.fusions[1].crossfit.ious["pole"] - found.fusions[0].crossfit.ious["pole"]
    )


def test_each_class_has_a_gain_with_an_interval_of_its_own() -> None:
    one, better = candidate("best single", 0.7), candidate("mean", 0.7)
    found = [each.confusions.copy() for each in better.blocks]
    for own in found:
        own[:, 2] = [0, 0, 100, 0]  # every pole is right, and all else as before
    poles = tuple(replace(each, confusions=own) for each, own in zip(better.blocks, found, strict=True))
    gain = compare([one, replace(better, blocks=poles)]).fusions[1].over("best single")
    assert gain.ious["pole"] == gain.small_miou and gain.ious["pole"].above_zero
    assert gain.ious["sky"].above_zero, "poles are not taken for it any more"
    assert gain.ious["road"] == Interval(value=0.0, low=0.0, high=0.0) and gain.ious["road"].spans_zero
    assert math.isnan(gain.ious["never"].value) and not gain.ious["never"].spans_zero


def test_a_comparison_from_before_classes_had_gains_is_read(tmp_path: Path) -> None:
    compare([candidate("mean", 0.7), candidate("linear", 0.75, 1)]).save(tmp_path, MEMBERS)
    (path,) = (tmp_path / "comparisons").iterdir()
    document = json.loads(path.read_text())
    del document["fusions"][1]["gains"][0]["ious"]
    path.write_text(json.dumps(document))
    found = Comparison.load(tmp_path, MEMBERS)
    assert found is not None and found.chosen.name == "linear" and not found.fusions[1].over("mean").ious


def test_what_was_not_compared_is_told_and_kept(tmp_path: Path) -> None:
    compare([candidate("mean", 0.7)], left_out=["linear", "group_eca"]).save(tmp_path, MEMBERS)
    found = Comparison.load(tmp_path, MEMBERS)
    assert found is not None and found.left_out == ("linear", "group_eca")
    assert "a fit failed: linear, group_eca" in str(comparison_table(found).caption)
    (path,) = (tmp_path / "comparisons").iterdir()
    document = json.loads(path.read_text())
    del document["left_out"]  # as versions wrote it that did not know
    path.write_text(json.dumps(document))
    before = Comparison.load(tmp_path, MEMBERS)
    assert before == replace(found, left_out=())
    assert "not compared" not in str(comparison_table(before).caption)


def test_the_simplest_is_chosen_that_no_other_measurably_beats() -> None:
    one, mean, alike, better = (
        candidate("best single", 0.6),
        candidate("mean", 0.7, 1),
        candidate("weighted", 0.7, 2),
        candidate("linear", 0.75, 3),
    )
    assert compare([one, mean, alike]).chosen.name == "mean"
    assert compare([one, mean, alike, better]).chosen.name == "linear"
    assert compare([mean, one]).chosen.name == "mean", "a more complex one that is worse"
    assert compare([one]).chosen.name == "best single"


def test_what_only_suits_fold_models_does_not_take_the_place_of_what_stands() -> None:
    one, mean, better, best = (
        candidate("best single", 0.6),
        candidate("mean", 0.7, 1),
        candidate("greedy", 0.8, 2),
        candidate("group_eca", 0.75, 3),
    )
    worse = replace(better, val=one.val)
    found = compare([one, mean, worse])
    assert found.fusions[2].over("mean").miou.above_zero and found.fusions[2].val.miou < found.fusions[1].val.miou
    assert found.chosen.name == "mean" and found.highest.name == "greedy"
    assert compare([one, mean, worse, best]).chosen.name == "group_eca", "nor does it bar the way for others"
    assert compare([one, mean, replace(better, val=mean.val)]).chosen.name == "greedy", "it is no worse on val"
    barely = replace(better, val=candidate("", 0.699, 1).val)
    assert compare([one, mean, barely]).chosen.name == "mean", "the burden of proof is on the more complex"


def chosen(*told: str) -> str:
    """The name of the one that is chosen among best single, mean, greedy, linear, as far as they are told.

    told: of each tenths of mIoU on val, then what cross-fitting says of it over each simpler one: + a gain, . none.
    """
    said = {"+": Interval(value=0.01, low=0.001, high=0.02), ".": Interval(value=0.01, low=-0.001, high=0.02)}
    names = ("best single", "mean", "greedy", "linear")
    own = compare([candidate("any", 0.7)]).fusions[0]
    fusions = []
    for name, (val, *gains) in zip(names, map(str.split, told), strict=False):
        found = [
            Gain(over=over, miou=said[gain], small_miou=said[gain]) for over, gain in zip(names, gains, strict=False)
        ]
        fusions.append(replace(own, name=name, val=replace(own.val, miou=int(val) / 10), gains=tuple(found)))
    return Comparison(fusions=tuple(fusions), members=()).chosen.name


def test_what_wins_yields_to_the_simplest_that_it_does_not_measurably_beat() -> None:
    assert chosen("5", "5 .", "5 + .") == "mean", "no more complex one beats it; the simplest is beaten"
    assert chosen("5", "5 .", "6 + .") == "mean", "val chose among fusions, and proves no gain"
    assert chosen("5", "5 +", "5 + .") == "mean"
    assert chosen("5", "5 +", "5 + +") == "greedy"


def test_what_was_passed_over_is_not_taken_after_all() -> None:
    assert chosen("5", "5 .", "4 + +") == "best single"
    assert chosen("5", "5 .", "4 + +", "5 + + .") == "linear", "greedy is as good, but for val"
    assert chosen("5", "6 +", "5 + +") == "mean", "it is worse on val than what holds the place by then"
    assert chosen("5", "6 .", "5 + +") == "greedy", "the mean has never held the place"


def test_a_gain_whose_interval_spans_zero_is_called_none_in_a_terminal() -> None:
    def told(*candidates: Candidate) -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(comparison_table(compare(candidates)))
        return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"

    one, mean = candidate("best single", 0.6), candidate("mean", 0.7, 1)
    text = told(one, mean, candidate("weighted", 0.7, 2), candidate("linear", 0.75, 3))
    assert f"{NO_GAIN} over mean: weighted\n" in text and f"{NO_GAIN} over best single" not in text
    assert f"{NO_GAIN} over best single: mean" in told(one, candidate("mean", 0.602, 4))
    assert NO_GAIN not in told(one, mean) and NO_GAIN not in told(mean, one), "a loss is no gain that none can measure"


def test_the_scores_are_of_all_frames_together() -> None:
    (fusion,) = compare([candidate("mean", 0.7)]).fusions
    own = candidate("mean", 0.7)
    pixels = sum(block.confusions.sum(0) for block in own.blocks)
    iou = pixels[2, 2] / (pixels[2].sum() + pixels[:, 2].sum() - pixels[2, 2])
    assert fusion.crossfit.ious["pole"] == fusion.crossfit.small_miou == pytest.approx(iou)
    assert math.isnan(fusion.crossfit.ious["never"]) and fusion.crossfit.ece == pytest.approx(0.1)
    assert fusion.val.miou != fusion.crossfit.miou and fusion.costs == {"milliseconds": 4.0}


def test_a_comparison_comes_back_from_its_file(tmp_path: Path) -> None:
    members = [{"trial": "base-0001", "miou": 0.5, "train_seconds": 12.0}]
    found = compare([candidate("mean", 0.7), candidate("linear", 0.75, 1)], members, 0.12)
    found.save(tmp_path, MEMBERS)
    back = Comparison.load(tmp_path, MEMBERS)
    assert back is not None and back.chosen.name == "linear" == back.highest.name
    assert repr(back) == repr(found), "nan is not equal to itself"
    (path,) = (tmp_path / "comparisons").iterdir()
    assert "NaN" not in path.read_text()
    assert Comparison.load(tmp_path, {**MEMBERS, "member_epochs": "4"}) is None, "they were trained on since"


def test_no_comparison_is_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert Comparison.load(tmp_path, MEMBERS) is None
    compare([candidate("mean", 0.7)]).save(tmp_path, MEMBERS)
    (path,) = (tmp_path / "comparisons").iterdir()
    for text in ("", "[]", '{"format": 1}', '{"format": 1, "fusions": [1], "members": [], "disagreement": null}'):
        path.write_text(text)
        with pytest.raises(RunError, match=r"json is damaged; remove it"):
            Comparison.load(tmp_path, MEMBERS)
    path.write_text('{"format": 99}')
    with pytest.raises(RunError, match="of another version"):
        Comparison.load(tmp_path, MEMBERS)


def _changed(found: dict[str, Any], change: str) -> None:
    first, last = found["fusions"][0], found["fusions"][-1]
    if change == "order":
        last["gains"].reverse()
    elif change == "one less":
        last["gains"].pop()
    elif change == "one twice":
        last["gains"].append(last["gains"][0])
    elif change == "over itself":
        first["gains"] = last["gains"][:1]
    else:
        found["fusions"] = []


@pytest.mark.parametrize("change", ["order", "one less", "one twice", "over itself", "nothing"])
def test_gains_over_others_than_every_simpler_one_are_refused(tmp_path: Path, change: str) -> None:
    """Whoever reads them takes them in this order."""
    compare([candidate(name, 0.7, seed) for seed, name in enumerate(("best single", "mean", "linear"))]).save(
        tmp_path, MEMBERS
    )
    (path,) = (tmp_path / "comparisons").iterdir()
    found = json.loads(path.read_text())
    _changed(found, change)
    path.write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"json is damaged; remove it") as error:
        Comparison.load(tmp_path, MEMBERS)
    assert "must be compared with every simpler one" in str(error.value.__cause__)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"kind": "mean", "bases": "2"}, "best single"),
        ({"kind": "mean", "bases": "1+2"}, "mean"),
        ({"kind": "mean", "bases": "all"}, "mean"),
        ({"kind": "linear", "bases": "1"}, "linear"),
    ],
)
def test_a_member_alone_has_a_name_of_its_own(params: dict[str, str], name: str) -> None:
    assert fusion_name(params) == name
