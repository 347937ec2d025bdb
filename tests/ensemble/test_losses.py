import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ensemble_tune.ensemble.frames import IGNORED
from ensemble_tune.ensemble.losses import SegmentationLoss, class_weights
from ensemble_tune.errors import TrainingError

ONES = torch.ones(3)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator, dtype=torch.uint8)
    labels[0, 0] = IGNORED
    return logits, labels


def test_cross_entropy_is_torchs_weighted_mean_over_labelled_pixels() -> None:
    logits, labels = _batch()
    weights = torch.tensor([0.5, 1.0, 2.0])
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORED)
    torch.testing.assert_close(SegmentationLoss(weights)(logits, labels), expected)


def test_unlabelled_pixels_change_neither_part_of_the_loss() -> None:
    logits, labels = _batch()
    changed = logits.clone()
    changed[0, :, 0] = torch.tensor([50.0, -50.0, 3.0])[:, None]
    for share in (0.0, 0.5):
        loss = SegmentationLoss(ONES, share)
        torch.testing.assert_close(loss(changed, labels), loss(logits, labels))


def test_jaccard_of_a_perfect_prediction_is_nearly_nothing_and_of_a_wrong_one_nearly_one() -> None:
    _, labels = _batch()
    truth = F.one_hot(labels.long() % 3, 3).movedim(-1, 1).float() * 100
    logits = {"right": truth, "wrong": truth.roll(1, dims=1)}
    jaccard = {
        name: 2 * (SegmentationLoss(ONES, 0.5)(own, labels) - 0.5 * SegmentationLoss(ONES)(own, labels))
        for name, own in logits.items()
    }
    assert jaccard["right"].item() == pytest.approx(0.0, abs=1e-4)
    assert jaccard["wrong"].item() == pytest.approx(1.0, abs=1e-3)


def test_jaccard_averages_over_the_classes_of_the_batch_alone() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 2, 2)
    # Class 0 alone is there: intersection 4/3 of a union of 4.
    expected = 0.5 * math.log(3) + 0.5 * (1 - 1 / 3)
    assert SegmentationLoss(ONES, 0.5)(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_batch_without_a_labelled_pixel_costs_nothing_and_has_a_gradient(share: float) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = SegmentationLoss(ONES, share)(logits, torch.full((2, 4, 4), IGNORED, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_loss_of_half_precision_logits_is_float32(share: float) -> None:
    logits, labels = _batch()
    assert SegmentationLoss(ONES, share)(logits.bfloat16(), labels).dtype is torch.float32


def test_the_weights_of_classes_that_occur_have_mean_one() -> None:
    frequencies = np.array([0.7, 0.25, 0.05, 0.0])
    for kind in ("none", "log", "sqrt", "median"):
        assert class_weights(kind, frequencies)[:3].mean().item() == pytest.approx(1.0)


def test_rare_classes_weigh_more_as_their_papers_say() -> None:
    frequencies = [0.64, 0.32, 0.04]
    log, sqrt, median = (class_weights(kind, frequencies) for kind in ("log", "sqrt", "median"))  # type: ignore[arg-type]
    assert (log[2] / log[0]).item() == pytest.approx(math.log(1.02 + 0.64) / math.log(1.02 + 0.04), rel=1e-5)
    assert (sqrt[2] / sqrt[0]).item() == pytest.approx(4.0, rel=1e-5)
    assert (median[2] / median[0]).item() == pytest.approx(16.0, rel=1e-5)
    assert class_weights("none", frequencies).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["none", "log", "sqrt", "median"])
def test_an_absent_class_gets_the_largest_finite_weight(kind: str) -> None:
    weights = class_weights(kind, [0.9, 0.1, 0.0])  # type: ignore[arg-type]
    assert torch.isfinite(weights).all()
    assert weights[2] == weights[:2].max()


def test_a_class_of_a_few_pixels_does_not_drown_the_others() -> None:
    weights = class_weights("median", [0.6, 0.399999, 1e-6, 0.0])
    assert (weights[2] / weights[1]).item() == pytest.approx(32.0, rel=1e-4)
    assert weights[3] == weights[2]


def test_frames_without_any_label_are_refused() -> None:
    with pytest.raises(TrainingError, match="must have labelled pixels"):
        class_weights("log", [0.0, 0.0])
