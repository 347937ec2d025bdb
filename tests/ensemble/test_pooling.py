from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensemble_tune.ensemble.pooling import channel_mean_and_peak, map_mean, map_mean_and_peak

Pooling = Callable[[Tensor], tuple[Tensor, ...]]

PAIRS: list[tuple[Pooling, Pooling]] = [
    (lambda x: (map_mean(x),), lambda x: (x.mean((2, 3), keepdim=True),)),
    (map_mean_and_peak, lambda x: (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))),
    (channel_mean_and_peak, lambda x: (x.mean(1, keepdim=True), x.amax(1, keepdim=True))),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_torch_s_own(pair: tuple[Pooling, Pooling], order: torch.memory_format) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, 6, 7, dtype=torch.float64).contiguous(memory_format=order)
    gradients = []
    for pooling in pair:
        own = features.clone().requires_grad_()
        pooled = pooling(own)
        upstream = [torch.linspace(-1, 2, part.numel(), dtype=torch.float64).view(part.shape) for part in pooled]
        (gradient,) = torch.autograd.grad(pooled, own, upstream)
        gradients.append((*pooled, gradient))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("pooling", [pair[0] for pair in PAIRS])
def test_gradients_have_their_channels_innermost_in_memory(pooling: Pooling) -> None:
    features = torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad([part.sum() for part in pooling(features)], features)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_of_equal_peaks_one_gets_the_gradient() -> None:
    features = torch.ones(1, 3, 2, 2, requires_grad=True)
    for pooling, peaks in ((map_mean_and_peak, 3), (channel_mean_and_peak, 4)):
        (gradient,) = torch.autograd.grad(pooling(features)[1].sum(), features)
        assert gradient.sum() == peaks and (gradient > 0).sum() == peaks
