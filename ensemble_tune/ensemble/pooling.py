"""Global pooling whose gradients are cheap: made in one step, with the channels innermost in memory.

torch's own come with the pixels innermost, one for the mean and one for the maximum. Adding those to a gradient that
has its channels innermost takes several times as long, and where the sum takes over their order every layer before it
slows.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F


def map_mean(features: Tensor) -> Tensor:
    """The mean over pixels: (B, K, h, w) to (B, K, 1, 1)."""
    return cast(Tensor, _MapMean.apply(features))


def map_mean_and_peak(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over pixels: (B, K, h, w) to two of (B, K, 1, 1)."""
    return cast(tuple[Tensor, Tensor], _MapMeanAndPeak.apply(features))


def channel_mean_and_peak(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over channels: (B, K, h, w) to two of (B, 1, h, w)."""
    return cast(tuple[Tensor, Tensor], _ChannelMeanAndPeak.apply(features))


class _MapMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.shape = features.shape
        return features.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return _spread(upstream / (ctx.shape[2] * ctx.shape[3]), ctx.shape).permute(0, 3, 1, 2)


class _MapMeanAndPeak(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        peak, where = F.adaptive_max_pool2d(features, 1, return_indices=True)
        ctx.shape = features.shape
        ctx.save_for_backward(where)
        return features.mean((2, 3), keepdim=True), peak

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_peak: Tensor) -> Tensor:
        batch, channels, height, width = ctx.shape
        gradient = _spread(of_mean / (height * width), ctx.shape)
        (where,) = ctx.saved_tensors
        pixels = gradient.view(batch, height * width, channels)
        pixels.scatter_add_(1, where.view(batch, 1, channels), of_peak.view(batch, 1, channels))
        return gradient.permute(0, 3, 1, 2)


class _ChannelMeanAndPeak(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        peak, where = features.max(1, keepdim=True)
        ctx.shape = features.shape
        ctx.save_for_backward(where)
        return features.mean(1, keepdim=True), peak

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_peak: Tensor) -> Tensor:
        gradient = _spread(of_mean / ctx.shape[1], ctx.shape)
        (where,) = ctx.saved_tensors
        gradient.scatter_add_(3, where.permute(0, 2, 3, 1), of_peak.permute(0, 2, 3, 1))
        return gradient.permute(0, 3, 1, 2)


def _spread(values: Tensor, shape: torch.Size) -> Tensor:
    """(B, K or 1, h or 1, w or 1) as a new tensor (B, h, w, K)."""
    batch, channels, height, width = shape
    return values.permute(0, 2, 3, 1).expand(batch, height, width, channels).contiguous()
