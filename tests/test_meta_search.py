from pathlib import Path

import pytest

from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import ConfigError
from ensemble_tune.meta_search import checked_space, flips, predicted_parts, simple_fusions
from ensemble_tune.trial import Params
from ensemble_tune.tune.search_space import SearchSpace

FIXED: Params = {"size": "32x32", "epochs": 4, "deploy": "refit"}
PLAIN = SearchSpace.parse('[parameters]\nkind = "plain"\nbatch_size = { choices = [4, 8] }').fixed(**FIXED)
WIDE = SearchSpace.parse(
    '[parameters]\nkind = "plain"\nflip = { choices = [true, false] }\ndeploy = { choices = ["refit", "folds"] }'
)


def told(points: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(point["kind"], point["bases"], point["deploy"], point.get("flip", False)) for point in points]


def test_the_simplest_fusions_come_first() -> None:
    assert told(simple_fusions(PLAIN, FIXED, 2)) == [  # type: ignore[arg-type]
        ("mean", "1+2", "refit", False),
        ("mean", "1", "refit", False),
        ("mean", "2", "refit", False),
        ("weighted", "1+2", "refit", False),
        ("greedy", "1+2", "refit", False),
        ("linear", "1+2", "refit", False),
    ]
    fitted = simple_fusions(PLAIN, FIXED, 2)[-1]
    assert fitted["batch_size"] == 4 and fitted["size"] == "32x32" and fitted["learning_rate"] == 0.02


def test_one_member_has_one_simple_fusion_and_without_fits_there_are_means_alone() -> None:
    assert told(simple_fusions(PLAIN, FIXED, 1)) == [("mean", "1", "refit", False)]  # type: ignore[arg-type]
    means = simple_fusions(PLAIN, FIXED, 4, fit=False)
    assert {point["kind"] for point in means} == {"mean"}
    assert [point["bases"] for point in means] == ["1+2+3+4", "1", "2", "3", "4", "1+2", "1+2+3"]


def test_mirrored_frames_and_ways_to_deploy_multiply_what_is_tried_but_no_fit_is_made_twice() -> None:
    points = told(simple_fusions(WIDE, {"size": "32x32"}, 2))  # type: ignore[arg-type]
    assert len(points) == 2 * (3 * 2 + 3) == len(set(points))
    assert [point[3] for point in points] == [False] * 9 + [True] * 9
    assert {point[2] for point in points if point[0] == "linear"} == {"refit"}
    assert flips(WIDE) == (False, True) and flips(PLAIN) == (False,)


@pytest.mark.parametrize(
    ("deploys", "stacking", "parts"),
    [
        (["refit"], "out-of-fold", {1: ("held-out",), 2: ("held-out",), 0: ("val",)}),
        (["refit", "folds"], "out-of-fold", {1: ("held-out", "val"), 2: ("held-out", "val"), 0: ("val",)}),
        (["folds"], "out-of-fold", {1: ("held-out", "val"), 2: ("held-out", "val")}),
        (["refit"], "in-sample", {0: ("train", "val")}),
        (["refit"], None, {0: ("val",)}),
    ],
)
def test_every_model_predicts_what_is_asked_of_it(
    tmp_path_factory: pytest.TempPathFactory, deploys: list[str], stacking: str, parts: dict[int, tuple[str, ...]]
) -> None:
    data = StageData(data="synthetic", cache=tmp_path_factory.getbasetemp(), folds=2)
    assert predicted_parts(data, deploys, stacking) == parts  # type: ignore[arg-type]


def test_a_deploy_that_there_is_not_is_refused(tiles: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "space.toml").write_text('[parameters]\nbatch_size = 4\ndeploy = { choices = ["refit", "fold"] }\n')
    data = StageData(data=str(tiles), cache=cache, folds=2)
    with pytest.raises(ConfigError, match="deploy cannot be 'fold'; did you mean 'folds'"):
        checked_space(tmp_path / "space.toml", data, size="32x32", epochs=2, members=2)
