import pytest
import torch

from ensemble_tune.ensemble.config import MetaConfig
from ensemble_tune.ensemble.fusion import LinearStacker, MeanFusion, WeightedMean, build_fusion
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
    assert isinstance(build_fusion(MetaConfig(kind="greedy"), 3, 5), WeightedMean)
    assert isinstance(build_fusion(MetaConfig(kind="linear"), 3, 5), LinearStacker)
    assert isinstance(build_fusion(MetaConfig(kind="group_eca"), 3, 5), MetaModel)


def stored() -> torch.Tensor:
    probabilities = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).mul(2).softmax(2)
    return (probabilities * 255).round().to(torch.uint8)


@pytest.mark.parametrize("kind", ["weighted", "linear"])
def test_untrained_it_is_the_mean_and_every_weight_can_learn(kind: str) -> None:
    fusion = build_fusion(MetaConfig.from_params({"kind": kind}), 3, 4)
    torch.testing.assert_close(fusion(stored()), MeanFusion()(stored()))
    fusion(stored()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.all() for parameter in fusion.parameters())


def test_a_weighted_mean_takes_any_weights() -> None:
    fusion = WeightedMean(3)
    fusion.set_weights(torch.tensor([3.0, 0.0, 1.0]))
    assert fusion.weights.tolist() == pytest.approx([0.75, 0.0, 0.25])
    one, _, three = (stored()[:, member].float() / 255 for member in range(3))
    expected = (0.75 * one + 0.25 * three).clamp(min=0.5 / 255).log()
    torch.testing.assert_close(fusion(stored()), expected)


def test_a_linear_stacker_weighs_each_class_of_each_member() -> None:
    fusion = LinearStacker(3, 4)
    with torch.no_grad():
        fusion.weight[1, 2] = 0.5
        fusion.bias[3] = -1.0
    moved = fusion(stored()) - MeanFusion()(stored())
    own = (stored()[:, 1, 2].float() / 255).clamp(min=0.5 / 255).log()
    torch.testing.assert_close(moved[:, 2], 0.5 * own)
    torch.testing.assert_close(moved[:, 3], torch.full_like(own, -1.0))
    assert not moved[:, :2].any()
