import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_disk import small_disk

from ensemble_tune.ensemble.predictions import OutOfFold, Predictions, Stamp, quantise, write_predictions
from ensemble_tune.errors import PredictionsError, StorageFullError

STAMP = Stamp(
    config="c0ffee",
    data="da7a",
    fold=1,
    folds=2,
    classes=("road", "car"),
    size=(4, 6),
    frames=("a", "b"),
    trained_on=("c", "d"),
)


def probabilities(stamp: Stamp) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(stamp.fold)
    return [torch.rand(len(stamp.classes), *stamp.size, generator=generator).softmax(0) for _ in stamp.frames]


def written(folder: Path, stamp: Stamp = STAMP) -> Path:
    write_predictions(folder, stamp, iter(probabilities(stamp)))
    return folder


def test_probabilities_come_back_by_name(tmp_path: Path) -> None:
    predictions = Predictions.open(written(tmp_path / "p"), STAMP)
    for name, expected in zip(STAMP.frames, probabilities(STAMP), strict=True):
        assert predictions[name].dtype == np.uint8
        assert np.abs(predictions[name] / 255 - expected.numpy()).max() <= 0.5 / 255 + 1e-6
    assert predictions.names == ("a", "b") and "a" in predictions and "c" not in predictions
    with pytest.raises(PredictionsError, match="no prediction of x"):
        predictions["x"]


def test_numpy_and_quantised_values_are_taken_too(tmp_path: Path) -> None:
    quantised = [quantise(p) for p in probabilities(STAMP)]
    write_predictions(tmp_path / "q", STAMP, quantised)
    write_predictions(tmp_path / "n", STAMP, [p.numpy() for p in probabilities(STAMP)])
    for folder in ("q", "n"):
        assert np.array_equal(Predictions.open(tmp_path / folder)["b"], quantised[1].numpy())


def test_a_disk_without_room_for_all_is_told_before_anything_is_predicted(tmp_path: Path) -> None:
    large = replace(STAMP, size=(1000, 1000))  # 4 MB on a disk of 1
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFullError, match="must be written, but its disk or quota is full"):
            write_predictions(disk / "p", large, (pytest.fail("predicted") for _ in range(2)))
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("bad", [-0.5, 3.0, float("nan")])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(PredictionsError, match="apply softmax once"):
        quantise(torch.tensor([0.5, bad, 0.2]))


def test_half_precision_is_no_offence() -> None:
    assert quantise(torch.tensor([1.0005, -0.0005, 1.0])).tolist() == [255, 0, 255]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_frames_leaves_nothing_behind(tmp_path: Path, count: int) -> None:
    with pytest.raises(PredictionsError, match="expected"):
        write_predictions(tmp_path / "p", STAMP, [probabilities(STAMP)[0]] * count)
    assert list(tmp_path.iterdir()) == []


def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="number 1 is"):
        write_predictions(tmp_path / "p", STAMP, [torch.zeros(2, 6, 4)] * 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", "decaf"),
        ("data", "other"),
        ("fold", 2),
        ("folds", 3),
        ("classes", ("road", "sign")),
        ("size", (6, 4)),
        ("frames", ("b", "a")),
        ("trained_on", ("c",)),
    ],
)
def test_predictions_of_something_else_are_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(PredictionsError, match=f"are of {field} "):
        Predictions.open(written(tmp_path / "p"), replace(STAMP, **{field: value}))


def test_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"stamp\.json is missing"):
        Predictions.open(tmp_path)


@pytest.mark.parametrize("file", ["probabilities.npy", "stamp.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing"])
def test_damaged_file_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    path = written(tmp_path / "p") / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": path.read_bytes()[:-5], "empty": b"", "foreign": b'{"x": [1]}'}[damage])
    with pytest.raises(PredictionsError):
        Predictions.open(tmp_path / "p", STAMP)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"author": "me"}, "author is unknown"),
        ({"frames": ["a", "b", "c"]}, r"it must be uint8 of \(3, 2, 4, 6\), but is uint8 of \(2, 2, 4, 6\)"),
        ({"classes": ["road"]}, r"it must be uint8 of \(2, 1, 4, 6\), but is"),
        ({"size": [4]}, "damaged or not ours"),
        ({"size": [4, 0]}, "size must be a whole number of at least 1, but is 0"),
        ({"fold": "1"}, "fold must be a whole number of at least 0, but is '1'"),
        ({"flip": 0}, "flip must be true or false, but is 0"),
    ],
)
def test_a_stamp_that_is_not_ours_or_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = written(tmp_path / "p") / "stamp.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PredictionsError, match=said):
        Predictions.open(tmp_path / "p")


def test_something_behind_the_predictions_is_refused(tmp_path: Path) -> None:
    with (written(tmp_path / "p") / "probabilities.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(PredictionsError, match="it is truncated, or has something behind its end"):
        Predictions.open(tmp_path / "p")


def test_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    np.save(written(tmp_path / "p") / "probabilities.npy", np.zeros((2, 2, 4, 5), np.uint8))
    with pytest.raises(PredictionsError, match=r"but is uint8 of \(2, 2, 4, 5\)"):
        Predictions.open(tmp_path / "p")


def test_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(written(tmp_path / "p") / "probabilities.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(PredictionsError):
        Predictions.open(tmp_path / "p")


def test_model_is_not_read_on_its_own_training_frames(tmp_path: Path) -> None:
    folder = written(tmp_path / "p", replace(STAMP, fold=0, trained_on=("b",)))
    assert Predictions.open(folder)["a"].shape == (2, 4, 6)
    with pytest.raises(PredictionsError, match="would leak"):
        Predictions.open(folder)["b"]
    assert Predictions.open(folder, in_sample=True)["b"].shape == (2, 4, 6)


def parts(tmp_path: Path, **second: object) -> list[Predictions]:
    other = replace(STAMP, fold=2, frames=("c", "d"), trained_on=("a", "b"))
    stamps = [STAMP, replace(other, **second)]
    return [Predictions.open(written(tmp_path / str(i), stamp)) for i, stamp in enumerate(stamps)]


def test_folds_together_hold_every_training_frame(tmp_path: Path) -> None:
    both = parts(tmp_path)
    joined = OutOfFold(both)
    assert joined.names == ("a", "b", "c", "d") and "d" in joined
    assert np.array_equal(joined["c"], both[1]["c"])
    with pytest.raises(PredictionsError, match="no fold"):
        joined["x"]


def test_predictions_of_two_folds_are_refused_together_where_they_overlap(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="folds 1 and 2 overlap at b"):
        OutOfFold(parts(tmp_path, frames=("b", "c"), trained_on=("a",)))


@pytest.mark.parametrize(
    ("field", "value"), [("config", "decaf"), ("data", "x"), ("folds", 3), ("size", (4, 5)), ("classes", ("a", "b"))]
)
def test_folds_of_two_configs_are_refused_together(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(PredictionsError, match=f"{field} differs"):
        OutOfFold(parts(tmp_path, **{field: value}))


def test_missing_fold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"folds 1\.\.2 are needed, but got those of \[1\]"):
        OutOfFold(parts(tmp_path)[:1])


def test_fold_that_was_trained_on_its_own_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="would leak"):
        OutOfFold(parts(tmp_path, trained_on=("a", "c")))
