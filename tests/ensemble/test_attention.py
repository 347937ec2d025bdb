import pytest
import torch
from torch import nn

from ensemble_tune.ensemble.attention import (
    CbamChannelAttention,
    ChannelShuffle,
    EfficientChannelAttention,
    SpatialAttention,
    SqueezeExcitation,
)


@pytest.mark.parametrize("width", [8, 32, 256])
@pytest.mark.parametrize("kind", [SqueezeExcitation, CbamChannelAttention, EfficientChannelAttention])
def test_channel_attention_multiplies_each_channel_by_one_weight_below_one(kind: type[nn.Module], width: int) -> None:
    features = torch.rand(2, width, 6, 7) + 0.1
    ratio = kind(width)(features) / features  # type: ignore[call-arg]
    assert ratio.shape == features.shape
    assert ((ratio > 0) & (ratio < 1)).all()
    torch.testing.assert_close(ratio, ratio.mean((2, 3), keepdim=True).expand_as(ratio))


def test_spatial_attention_multiplies_each_pixel_by_one_weight_below_one() -> None:
    features = torch.rand(2, 8, 9, 10) + 0.1
    ratio = SpatialAttention()(features) / features
    assert ((ratio > 0) & (ratio < 1)).all()
    torch.testing.assert_close(ratio, ratio.mean(1, keepdim=True).expand_as(ratio))


def test_spatial_attention_sees_seven_pixels_and_no_further() -> None:
    attention = SpatialAttention()
    features = torch.rand(1, 8, 15, 15)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad((attention(features) / features.detach())[0, 0, 7, 7], features)
    rows = gradient[0].abs().sum((0, 2)).nonzero().flatten().tolist()
    assert (rows[0], rows[-1]) == (4, 10)


def test_cbam_uses_max_pooling() -> None:
    """Maps of equal mean and unequal maximum must get unequal weights; the original scripts gave equal ones."""
    torch.manual_seed(0)
    attention = CbamChannelAttention(32)
    flat = torch.full((1, 32, 4, 4), 1.0)
    peaked = torch.zeros(1, 32, 4, 4)
    peaked[..., 0, 0] = 16.0
    torch.testing.assert_close(flat.mean((2, 3)), peaked.mean((2, 3)))
    weight_of_flat = attention(flat)[..., 0, 0]
    weight_of_peaked = attention(peaked)[..., 0, 0] / 16
    assert not torch.allclose(weight_of_flat, weight_of_peaked, atol=1e-3)


def test_cbam_shares_one_perceptron_between_both_poolings() -> None:
    """On a constant map both poolings are equal, so the sum before the sigmoid is twice the shared output."""
    torch.manual_seed(0)
    attention = CbamChannelAttention(32)
    described = torch.rand(1, 32, 1, 1)
    weight = attention(described.expand(1, 32, 4, 4))[..., :1, :1] / described
    torch.testing.assert_close(weight, torch.sigmoid(2 * attention.shared(described)))


def test_squeeze_and_excitation_ignores_the_maximum() -> None:
    attention = SqueezeExcitation(32)
    flat, peaked = torch.full((1, 32, 4, 4), 1.0), torch.zeros(1, 32, 4, 4)
    peaked[..., 0, 0] = 16.0
    torch.testing.assert_close(attention(flat)[..., 0, 0], attention(peaked)[..., 0, 0] / 16)


@pytest.mark.parametrize(("width", "kernel"), [(8, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_the_kernel_of_efficient_channel_attention_grows_with_the_channels(width: int, kernel: int) -> None:
    convolution = EfficientChannelAttention(width).convolution
    assert convolution.kernel_size == (kernel,)
    assert convolution.weight.numel() == kernel


def test_shuffling_deals_every_group_out_to_all_groups() -> None:
    features = torch.arange(8.0).view(1, 8, 1, 1)
    assert ChannelShuffle(2)(features).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
