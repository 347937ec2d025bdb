from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from timm.layers import Conv2dSame
from torch import nn

from ensemble_tune.ensemble.layers import (
    DilatedConv2d,
    GlobalAveragePool2d,
    PooledBranch,
    StridedDepthwiseConv2d,
    StridedDepthwiseConv2dSame,
    speed_up,
    undo_speed_up,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("dilation", [2, 3, 12, 36])
@pytest.mark.parametrize("size", [(12, 16), (13, 9), (2, 40), (24, 32), (48, 64)])
def test_outputs_and_gradients_are_those_of_the_plain_convolution_in_float32(
    dtype: torch.dtype, groups: int, dilation: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation, groups=groups)
    fast = nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation, groups=groups)
    fast.load_state_dict(plain.state_dict())
    speed_up(fast)
    assert type(fast) is DilatedConv2d
    fast.to(dtype).to(memory_format=torch.channels_last)
    features = torch.randn(2, 8, *size)
    one = features.clone().requires_grad_()
    two = features.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    there, here = plain(one), fast(two)
    upstream = torch.randn_like(there)
    there.backward(upstream)
    here.backward(upstream.to(dtype).to(memory_format=torch.channels_last))
    share = 1e-5 if dtype is torch.float32 else 2e-2
    pairs = [
        (here, there),
        (two.grad, one.grad),
        (fast.weight.grad, plain.weight.grad),
        (fast.bias.grad, plain.bias.grad),
    ]
    for mine, theirs in pairs:
        assert mine is not None and theirs is not None and mine.shape == theirs.shape
        assert (mine.float() - theirs).abs().max() <= share * theirs.abs().max()


def test_every_dilation_of_deeplabv3_is_sped_up_and_nothing_else_changes() -> None:
    network = smp.create_model("deeplabv3", "mobilenet_v2", encoder_weights=None, classes=3).eval()
    images = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        before = network(images)
        names = list(network.state_dict())
        speed_up(network)
        after = network(images)
    assert sum(type(module) is DilatedConv2d for module in network.modules()) == 14
    left = [m for m in network.modules() if type(m) is nn.Conv2d and max(m.dilation) > 1]
    assert all(max(module.kernel_size) == 1 for module in left)
    assert list(network.state_dict()) == names
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(4, 4, 2, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="replicate"),
        nn.Conv2d(4, 4, 3, padding=1),
    ],
)
def test_what_is_no_dilated_convolution_of_its_kind_is_left_alone(convolution: nn.Conv2d) -> None:
    speed_up(convolution)
    assert type(convolution) is nn.Conv2d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(24, 32), (15, 20)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "faster"), [(nn.Conv2d, StridedDepthwiseConv2d), (Conv2dSame, StridedDepthwiseConv2dSame)]
)
def test_a_strided_depthwise_convolution_is_the_plain_one(
    kernel: int, size: tuple[int, int], training: bool, kind: type[nn.Conv2d], faster: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    plain = kind(16, 16, kernel, stride=2, padding=kernel // 2, groups=16)
    fast = kind(16, 16, kernel, stride=2, padding=kernel // 2, groups=16)
    fast.load_state_dict(plain.state_dict())
    speed_up(fast)
    assert type(fast) is faster
    fast.train(training)
    one = torch.randn(2, 16, *size, requires_grad=True)
    two = one.detach().bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    there = plain(one)
    with torch.autocast("cpu", torch.bfloat16):
        here = fast(two)
    assert here.dtype is torch.bfloat16
    there.sum().backward()
    here.sum().backward()
    for mine, theirs in ((here, there), (two.grad, one.grad), (fast.weight.grad, plain.weight.grad)):
        assert mine is not None and theirs is not None
        assert (mine.float() - theirs).abs().max() <= 2e-2 * theirs.abs().max()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
        nn.Conv2d(1, 1, 3, stride=2),
        nn.Conv2d(8, 8, 1, stride=2, groups=8),  # as in MobileOne, which died of its gradient in float32
    ],
)
def test_what_is_no_strided_depthwise_convolution_is_left_alone(convolution: nn.Conv2d) -> None:
    speed_up(convolution)
    assert type(convolution) is nn.Conv2d


def test_a_strided_depthwise_convolution_computes_its_gradients_in_float32() -> None:
    """To the last bit those of a plain one that is given the rounded features; bfloat16's own are off by a percent."""
    for kind in (nn.Conv2d, Conv2dSame):
        torch.manual_seed(0)
        plain = kind(16, 16, 3, stride=2, padding=1, groups=16)
        fast = kind(16, 16, 3, stride=2, padding=1, groups=16)
        fast.load_state_dict(plain.state_dict())
        speed_up(fast)
        one = torch.randn(2, 16, 24, 32).bfloat16().float().requires_grad_()
        two = one.detach().bfloat16().requires_grad_()
        plain(one).sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            fast(two).sum().backward()
        assert fast.weight.grad is not None
        torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-5)


def test_no_strided_depthwise_convolution_of_a_tensorflow_encoder_is_left_slow() -> None:
    network = smp.create_model("unet", "tu-tf_efficientnet_lite0", encoder_weights=None, classes=3)
    speed_up(network)
    assert sum(type(module) is StridedDepthwiseConv2dSame for module in network.modules()) == 4
    undo_speed_up(network)
    assert not any(type(module) is StridedDepthwiseConv2dSame for module in network.modules())


def test_the_gradient_of_a_global_average_keeps_its_channels_innermost() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    speed_up(pool)
    assert type(pool) is GlobalAveragePool2d
    features = torch.randn(2, 4, 6, 8).to(memory_format=torch.channels_last).requires_grad_()
    gradients: list[torch.Tensor] = []
    through = features * 1
    through.register_hook(gradients.append)
    pooled = pool(through)
    pooled.sum().backward()
    torch.testing.assert_close(pooled, features.mean((2, 3), keepdim=True))
    torch.testing.assert_close(gradients[0], torch.full((2, 4, 6, 8), 1 / 48))
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


def test_the_branches_of_deeplabv3_are_joined_with_channels_innermost() -> None:
    network = smp.create_model("deeplabv3", "mobilenet_v2", encoder_weights=None, classes=3).eval()
    speed_up(network)
    (branch,) = [module for module in network.modules() if type(module) is PooledBranch]
    joined = branch(torch.randn(2, 1280, 6, 8).to(memory_format=torch.channels_last))
    assert joined.shape == (2, 256, 6, 8) and joined.is_contiguous(memory_format=torch.channels_last)


def test_pools_to_more_than_one_pixel_are_left_alone() -> None:
    pool = nn.AdaptiveAvgPool2d(2)
    speed_up(pool)
    assert type(pool) is nn.AdaptiveAvgPool2d


def test_every_layer_gets_its_own_class_back() -> None:
    network = smp.create_model("deeplabv3", "mobilenet_v2", encoder_weights=None, classes=3)
    kinds = [type(module) for module in network.modules()]
    speed_up(network)
    assert [type(module) for module in network.modules()] != kinds
    undo_speed_up(network)
    assert [type(module) for module in network.modules()] == kinds
