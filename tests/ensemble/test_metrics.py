import math

import pytest
import torch

from ensemble_tune.ensemble.metrics import Confusion

NAMES = ("road", "car", "sign")


def confusion(prediction: list[int], truth: list[int]) -> Confusion:
    result = Confusion(3)
    result.add(torch.tensor(prediction), torch.tensor(truth, dtype=torch.uint8))
    return result


def test_rows_are_truth_and_columns_prediction() -> None:
    assert confusion([0, 1, 1, 2], [0, 0, 1, 2]).matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_scores_by_hand() -> None:
    scores = confusion([0, 0, 0, 1, 1, 2, 0], [0, 0, 1, 1, 1, 2, 2]).scores(NAMES, {"sign"})
    assert scores["iou.road"] == pytest.approx(2 / 4)
    assert scores["iou.car"] == pytest.approx(2 / 3)
    assert scores["iou.sign"] == scores["small_miou"] == pytest.approx(1 / 2)
    assert scores["miou"] == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert scores["pixel_accuracy"] == pytest.approx(5 / 7)


def test_unlabelled_pixels_count_nowhere() -> None:
    assert torch.equal(confusion([0, 1, 2], [0, 255, 255]).matrix, confusion([0], [0]).matrix)


def test_class_absent_from_the_truth_is_nan_and_in_no_mean() -> None:
    scores = confusion([0, 0, 1, 2], [0, 0, 1, 1]).scores(NAMES, {"sign"})
    assert math.isnan(scores["iou.sign"]) and math.isnan(scores["small_miou"])
    assert scores["miou"] == pytest.approx((1 + 1 / 2) / 2)


def test_nothing_labelled_gives_nan() -> None:
    scores = confusion([0, 1], [255, 255]).scores(NAMES, ())
    assert math.isnan(scores["miou"]) and math.isnan(scores["pixel_accuracy"])


def test_parts_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 3, (4, 5, 6), generator=generator)
    truth = torch.randint(0, 4, (4, 5, 6), generator=generator).to(torch.uint8)
    truth[truth == 3] = 255
    whole, first, rest = Confusion(3), Confusion(3), Confusion(3)
    whole.add(prediction, truth)
    first.add(prediction[:1], truth[:1])
    for i in range(1, 4):
        rest.add(prediction[i].to(torch.int32), truth[i])
    assert torch.equal((first + rest).matrix, whole.matrix)
    assert whole.matrix.sum() == (truth != 255).sum()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="truth is"):
        Confusion(3).add(torch.zeros(2, 3, dtype=torch.long), torch.zeros(3, 2, dtype=torch.uint8))
