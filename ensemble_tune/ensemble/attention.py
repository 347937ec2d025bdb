"""Attention for meta-models: small modules that multiply their input by weights in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.pooling import channel_mean_and_peak, map_mean, map_mean_and_peak

_REDUCTION = 16
"""r of Hu 2018 and Woo 2018."""
_LEAST_HIDDEN = 4
"""Hidden channels at least: r was chosen for hundreds of channels, and would leave a narrow meta-model one or two."""


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole frame holds.

    Source: Hu, Shen and Sun 2018, Squeeze-and-excitation networks: average pooling, K -> K/r -> K, sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.excitation = _bottleneck(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        return features * torch.sigmoid(self.excitation(map_mean(features)))


class CbamChannelAttention(nn.Module):
    """Weighs channels by their average and by their peak.

    Source: Woo et al. 2018, CBAM, equation 2: one shared MLP on the average-pooled and on the max-pooled channels; the
    two outputs are added before the sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = _bottleneck(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        mean, peak = map_mean_and_peak(features)
        return features * torch.sigmoid(self.shared(mean) + self.shared(peak))


class SpatialAttention(nn.Module):
    """Weighs pixels by what their neighbourhood holds.

    Source: Woo et al. 2018, CBAM, equation 3: mean and maximum over the channels, one 7x7 convolution, sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        described = torch.cat(channel_mean_and_peak(features), dim=1)
        return features * torch.sigmoid(self.convolution(described))


class EfficientChannelAttention(nn.Module):
    """Weighs channels by their neighbours among the channels, without a bottleneck.

    Source: Wang et al. 2020, ECA-Net: average pooling, one convolution along the channels, sigmoid; its kernel is
    |log2(K) / 2 + 1 / 2|, made odd as in the authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reach = int(abs((math.log2(channels) + 1) / 2))
        kernel = reach if reach % 2 else reach + 1
        self.convolution = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        weights = self.convolution(map_mean(features).flatten(1).unsqueeze(1))
        return features * torch.sigmoid(weights).transpose(1, 2).unsqueeze(-1)


class ChannelShuffle(nn.Module):
    """Deals the channels of every group out to all groups, so that the next grouped convolution mixes them.

    Source: Zhang et al. 2018, ShuffleNet, section 3.1: reshape to (groups, K / groups), transpose, flatten.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        return F.channel_shuffle(features, self.groups)


def _bottleneck(channels: int) -> nn.Sequential:
    """A two-layer perceptron on (B, K, 1, 1), as 1x1 convolutions."""
    hidden = max(_LEAST_HIDDEN, channels // _REDUCTION)
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
