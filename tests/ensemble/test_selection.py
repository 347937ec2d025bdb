from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ensemble_tune.ensemble.frames import IGNORED, Frames
from ensemble_tune.ensemble.selection import PixelSample, greedy_weights
from ensemble_tune.errors import DataError

Labels = npt.NDArray[np.uint8]


def sample(*accuracies: float, pixels: int = 3000, classes: int = 3, seed: int = 0) -> PixelSample:
    """Models that are right at random, each as often as told, and sure by chance."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, classes, pixels)
    models = []
    for accuracy in accuracies:
        said = np.where(chance.random(pixels) < accuracy, labels, chance.integers(0, classes, pixels))
        sure = chance.integers(120, 255, pixels)
        one = np.full((classes, pixels), 20, np.uint8)
        one[said, np.arange(pixels)] = sure
        models.append(one)
    return PixelSample(
        torch.from_numpy(np.stack(models)), torch.from_numpy(labels), torch.ones(pixels, dtype=torch.float64)
    )


def test_models_that_err_independently_all_join() -> None:
    weights = greedy_weights(sample(0.6, 0.6, 0.6), bagged=False)
    assert weights.sum() == pytest.approx(1.0) and (weights > 0.2).all()


def test_a_model_that_knows_nothing_is_left_out() -> None:
    weights = greedy_weights(sample(0.7, 0.0, 0.65), bagged=False)
    assert weights[1] == 0 and weights[0] > 0.3


def test_the_selection_is_at_least_as_good_as_its_best_model_and_as_the_best_few() -> None:
    drawn = sample(0.8, 0.4, 0.75, 0.3, 0.7)
    weights = greedy_weights(drawn, bagged=False)
    fused = drawn.miou((drawn.predictions.double() * weights.view(-1, 1, 1)).sum(0))
    best_few = [drawn.miou(drawn.predictions[[0, 2, 4][:size]].sum(0, dtype=torch.int32)) for size in (1, 2, 3)]
    assert fused >= max(best_few)


def test_bagging_weighs_more_models_and_is_the_same_for_the_same_seed() -> None:
    drawn = sample(0.7, 0.69, 0.68, 0.67, 0.66, 0.2)
    weights = greedy_weights(drawn, seed=1)
    assert torch.equal(weights, greedy_weights(drawn, seed=1)) and not torch.equal(weights, greedy_weights(drawn))
    assert weights.sum() == pytest.approx(1.0) and weights[5] < weights[:5].min()


@pytest.mark.parametrize("models", [4, 5, 8, 12])
def test_equal_models_weigh_about_alike_however_bags_are_drawn(models: int) -> None:
    """Of random bags, drawn with this seed, one of 12 was in 5 and another in 12."""
    weights = models * greedy_weights(sample(*[0.6] * models))
    assert weights.min() > 0.6 and weights.max() < 1.5


def test_one_model_weighs_all() -> None:
    assert greedy_weights(sample(0.5)).tolist() == [1.0]


def test_disagreement_is_the_share_of_pixels_where_two_models_differ() -> None:
    drawn = sample(1.0, 1.0, 0.0)
    differ = drawn.disagreement()
    assert differ.diagonal().tolist() == [0, 0, 0] and differ[0, 1] == 0
    assert differ[0, 2] == differ[2, 0] == pytest.approx(2 / 3, abs=0.05)


class _Frames:
    classes = ("sky", "pole")
    names = ("a", "b")

    def __init__(self, *labels: Labels) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, i: int) -> Labels:
        return self.labels[i]


def test_rare_classes_are_drawn_whole_and_common_ones_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble_tune.ensemble.selection._OF_EACH_CLASS", 50)
    first = np.zeros((40, 50), np.uint8)
    first[0, :20] = 1
    first[1] = IGNORED
    frames = cast(Frames, _Frames(first, np.zeros((40, 50), np.uint8)))
    source = {name: np.full((2, 40, 50), 100, np.uint8) for name in ("a", "b")}
    drawn = PixelSample.draw(frames, [source, source], seed=0)
    poles = drawn.labels == 1
    assert poles.sum() == 20 and drawn.weights[poles].tolist() == [1.0] * 20
    sky = int((~poles).sum())
    assert 25 < sky < 80 and drawn.weights[~poles].tolist() == pytest.approx([3930 / 50] * sky)
    assert drawn.predictions.shape == (2, 2, 20 + sky)
    again = PixelSample.draw(frames, [source, source], seed=0)
    assert torch.equal(again.labels, drawn.labels)


def test_no_labelled_pixel_is_refused() -> None:
    frames = cast(Frames, _Frames(np.full((4, 4), IGNORED, np.uint8)))
    with pytest.raises(DataError, match="no frame has any"):
        PixelSample.draw(frames, [{"a": np.zeros((2, 4, 4), np.uint8)}], seed=0)


def test_miou_of_a_sample_is_that_of_its_pixels() -> None:
    drawn = PixelSample(
        torch.zeros(1, 3, 4, dtype=torch.uint8),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([10.0, 10.0, 1.0, 1.0], dtype=torch.float64),
    )
    # All are called 0: class 0 has 20 of 22 pixels, class 1 none of 2, class 2 is not there.
    assert drawn.miou(torch.tensor([[1.0] * 4, [0.0] * 4, [0.0] * 4])) == pytest.approx((20 / 22 + 0) / 2)
