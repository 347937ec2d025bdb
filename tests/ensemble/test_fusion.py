import torch

from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.fusion import MeanFusion, build_fusion
from ensemble_tune.ensemble.meta_model import MetaModel


def test_the_softmax_of_the_mean_fusion_is_the_mean() -> None:
    probabilities = torch.rand(2, 3, 4, 5, 6).add(0.1)
    probabilities /= probabilities.sum(2, keepdim=True)
    logits = MeanFusion()(probabilities, torch.zeros(2, 3, 5, 6, dtype=torch.uint8))
    torch.testing.assert_close(logits.softmax(1), probabilities.mean(1))


def test_a_class_that_no_member_sees_has_a_finite_logit() -> None:
    stored = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    stored[:, :, 0] = 255
    logits = MeanFusion()(stored)
    assert torch.isfinite(logits).all()
    assert (logits.argmax(1) == 0).all()


def test_a_config_builds_the_fusion_it_names() -> None:
    assert isinstance(build_fusion(MetaConfig(kind="mean"), 3, 5), MeanFusion)
    assert isinstance(build_fusion(MetaConfig(kind="group_eca"), 3, 5), MetaModel)
