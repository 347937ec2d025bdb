import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble_tune.ensemble.frames import IGNORED, Frames
from ensemble_tune.ensemble.scoring import labels_at, score_frames, scores_of

Labels = npt.NDArray[np.uint8]


class _Frames:
    """Frames of different sizes, without a data set."""

    classes = ("sky", "road", "pole")
    small = ("pole",)
    names = sequences = ("a", "b", "c")

    def __init__(self, truths: Sequence[Labels], size: tuple[int, int]) -> None:
        self.truths = truths
        rows = [torch.from_numpy(truth)[None, None].float() for truth in truths]
        self.labels = [F.interpolate(row, size, mode="nearest")[0, 0].to(torch.uint8).numpy() for row in rows]

    def __len__(self) -> int:
        return len(self.truths)

    def label(self, i: int) -> Labels:
        return cast(Labels, self.labels[i])

    def truth(self, i: int) -> Labels:
        return self.truths[i]


def _frames(*sizes: tuple[int, int], working: tuple[int, int] = (8, 12)) -> Frames:
    generator = np.random.default_rng(0)
    truths = [generator.integers(0, 3, (height // 4, width // 4), dtype=np.uint8) for height, width in sizes]
    whole = [truth.repeat(4, axis=0).repeat(4, axis=1) for truth in truths]
    return cast(Frames, _Frames(whole, working))


def _oracle(frames: Frames, rows: Sequence[int], wrong: int = 0) -> Tensor:
    """Logits that are sure of the label, or of `wrong` classes further."""
    labels = torch.stack([torch.from_numpy(frames.label(i)) for i in rows]).long()
    return F.one_hot((labels + wrong) % 3, 3).movedim(-1, 1) * 20.0


def test_a_perfect_model_scores_one_and_a_wrong_one_nothing() -> None:
    frames = _frames((8, 12), (8, 12), (8, 12))
    perfect = score_frames(lambda rows: _oracle(frames, rows), frames, batch=2).scores
    assert (perfect["miou"], perfect["small_miou"], perfect["pixel_accuracy"]) == (1.0, 1.0, 1.0)
    assert perfect["loss"] == pytest.approx(0.0, abs=1e-6)
    wrong = score_frames(lambda rows: _oracle(frames, rows, wrong=1), frames, batch=2).scores
    assert (wrong["miou"], wrong["iou.pole"]) == (0.0, 0.0)
    assert wrong["loss"] == pytest.approx(20.0, rel=1e-4)


def test_every_frame_is_scored_at_its_own_size() -> None:
    frames = _frames((16, 24), (32, 48), (8, 12))
    scored = score_frames(lambda rows: _oracle(frames, rows), frames, batch=3)
    assert scored.evidence.confusions.sum() == 16 * 24 + 32 * 48 + 8 * 12
    # The logits are grown between pixels, so borders are not those of the truth, but most of it is.
    assert 0.8 < scored.scores["pixel_accuracy"] < 1.0


def test_the_size_of_a_batch_does_not_change_the_scores() -> None:
    frames = _frames((16, 24), (8, 12), (32, 48))
    one, all_of_them = (score_frames(lambda rows: _oracle(frames, rows), frames, batch=batch) for batch in (1, 3))
    assert one.scores == pytest.approx(all_of_them.scores)
    assert np.array_equal(one.evidence.confusions, all_of_them.evidence.confusions)
    assert scores_of(lambda rows: _oracle(frames, rows), frames, batch=2) == pytest.approx(one.scores)


def test_unlabelled_pixels_count_neither_as_loss_nor_as_pixels() -> None:
    frames = _frames((8, 12), (8, 12))
    for i in range(2):
        frames.truth(i)[:4] = IGNORED
        frames.label(i)[:4] = IGNORED
    scored = score_frames(lambda rows: torch.zeros(len(rows), 3, 8, 12), frames, batch=2)
    assert scored.scores["loss"] == pytest.approx(math.log(3))
    assert scored.evidence.confusions.sum() == 2 * 4 * 12


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    frames = _frames((8, 12))
    frames.label(0)[:] = 0
    frames.label(0)[:2] = 1  # a quarter of the pixels is not sky, of which the model is sure by 90%
    sky = torch.tensor([0.9, 0.05, 0.05]).log().view(1, 3, 1, 1).expand(1, 3, 8, 12)
    scored = score_frames(lambda rows: sky, frames, batch=1)
    assert scored.scores["ece"] == pytest.approx(0.9 - 0.75)
    pixels, right, confidence = scored.evidence.calibration[13]
    assert (pixels, right, confidence) == pytest.approx((96, 72, 0.9 * 96))


def test_nothing_labelled_is_nan_and_not_a_perfect_score() -> None:
    frames = _frames((8, 12))
    frames.truth(0)[:] = IGNORED
    frames.label(0)[:] = IGNORED
    scores = score_frames(lambda rows: torch.zeros(1, 3, 8, 12), frames, batch=2).scores
    assert all(math.isnan(scores[name]) for name in ("miou", "pixel_accuracy", "loss", "ece"))


def test_no_gradient_is_kept_while_scoring() -> None:
    frames = _frames((8, 12))
    seen: list[bool] = []

    def logits_of(rows: Sequence[int]) -> Tensor:
        seen.append(torch.is_inference_mode_enabled())
        return _oracle(frames, rows)

    score_frames(logits_of, frames, batch=1)
    assert seen == [True]


def test_logits_are_grown_before_the_choice_of_a_class() -> None:
    """A border lies nearer to the less sure of two pixels; grown labels would meet half-way."""
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    assert labels_at(logits, (1, 12)).tolist() == [[0] * 8 + [1] * 4]
