from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from ensemble_tune.ensemble.dilation import DilatedConv2d, speed_up_dilations


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
    speed_up_dilations(fast)
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
        speed_up_dilations(network)
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
    speed_up_dilations(convolution)
    assert type(convolution) is nn.Conv2d
