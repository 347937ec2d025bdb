"""Meta-models: convolutional networks that weigh the base models' class probabilities, or correct their mean.

All share one skeleton - stem, residual blocks, head - and differ in a block's convolution and attention alone, so that
comparing them compares those:

    plain            3x3 convolution                           no attention
    standard_se      3x3 convolution                           squeeze-and-excitation (Hu 2018)
    depthwise_cbam   depthwise separable (Howard 2017)         CBAM, channels then pixels (Woo 2018)
    dilated_spatial  dilated by 1, 2, 4, ... (Yu, Koltun 2016) spatial (Woo 2018)
    group_eca        grouped (Xie 2017), shuffled (Zhang 2018) efficient channel attention (Wang 2020)
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.attention import (
    CbamChannelAttention,
    ChannelShuffle,
    EfficientChannelAttention,
    SpatialAttention,
    SqueezeExcitation,
)
from ensemble_tune.ensemble.base_model import Normalise
from ensemble_tune.ensemble.config import MetaConfig, MetaKind
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.precision import autocast

_LEAST_PROBABILITY = 0.5 / 255
"""Half a step of the stored uint8: a probability of 0 may have been this much, and its logarithm stays finite."""
_LARGEST_DILATION = 16
"""As in the context module of Yu and Koltun 2016."""
_CHANNELS_PER_GROUP = 4
"""As in ResNeXt-50 32x4d, Xie 2017."""


class MetaModel(nn.Module):
    """The members' mean, moved away from by a convolutional network.

    output "weights": logits = log(sum over M of w * p), where w, a softmax over M of the head, has a value for every
    member, class and pixel. Source: Jacobs et al. 1991, Adaptive mixtures of local experts.
    output "correction": logits = log(mean over M) + head. Source: Wolpert 1992, Stacked generalization.
    The head starts at zero, so an untrained meta-model is the mean.
    """

    def __init__(self, config: MetaConfig, members: int, classes: int, images: ImageSpec = RGB) -> None:
        super().__init__()
        self.config, self.members = config, members
        self.weighs = config.output == "weights"
        self.normalise = Normalise(images) if config.use_image else None
        channels = members * classes + (images.channels if config.use_image else 0)
        self.stem = nn.Sequential(*_convolution(channels, config.width), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(config.kind, config.width, index) for index in range(config.depth)))
        self.head = nn.Conv2d(config.width, members * classes if self.weighs else classes, kernel_size=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def forward(self, probabilities: Tensor, image: Tensor | None = None) -> Tensor:
        """Probabilities (B, M, C, h, w), uint8 of p * 255 or float in [0, 1], to logits (B, C, h, w), float32.

        image: pixels (B, K, h, w), such as uint8 RGB, seen if `config.use_image`. Raises ValueError where the input
        does not fit.
        """
        if probabilities.shape[1] != self.members:
            raise ValueError(f"the meta-model fuses {self.members} members, but got {probabilities.shape[1]}")
        values = as_float(probabilities)
        if self.training and self.config.base_dropout > 0:
            values = hide_members(values, self.config.base_dropout)
        inputs = (log_probabilities(values) if self.config.log_probabilities else values).flatten(1, 2)
        if self.normalise is not None:
            if image is None:
                raise ValueError("the meta-model sees the image beside the predictions, but got none")
            inputs = torch.cat([inputs, self.normalise(image)], dim=1)
        found = self._head(inputs)
        if self.weighs:
            weights = found.view(values.shape).softmax(1)
            return log_probabilities((weights * values).sum(1))
        return mean_logits(values) + found

    def _head(self, inputs: Tensor) -> Tensor:
        """The network's last layer, (B, K, h, w) to (B, M * C or C, h, w), computed at the working scale."""
        size = inputs.shape[-2:]
        working = tuple(max(1, round(side * self.config.scale)) for side in size)
        if working != size:
            inputs = F.interpolate(inputs, working, mode="area")
        with autocast(self.config.precision, inputs.device):
            features = self.stem(inputs.contiguous(memory_format=torch.channels_last))
            found = cast(Tensor, self.head(self.blocks(features)))
        found = found.float()
        return found if working == size else F.interpolate(found, size, mode="bilinear", align_corners=False)


class Block(nn.Module):
    """relu(x + attention(convolution(x))): attention before the sum, as in each attention's own residual networks."""

    def __init__(self, kind: MetaKind, width: int, index: int) -> None:
        super().__init__()
        convolution, attention = _parts(kind, width, index)
        self.convolution = nn.Sequential(*convolution)
        self.attention = nn.Sequential(*attention)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, h, w) to (B, K, h, w)."""
        return F.relu(features + cast(Tensor, self.attention(self.convolution(features))))


def build_meta_model(config: MetaConfig, members: int, classes: int, images: ImageSpec = RGB) -> MetaModel:
    """The meta-model of `config`, its initial weights drawn from `config.seed`; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        # Here rather than where it is trained: a model that is only used must round as it did when it was scored.
        return MetaModel(config, members, classes, images).to(memory_format=torch.channels_last)


def as_float(probabilities: Tensor) -> Tensor:
    """Stored probabilities (uint8 of p * 255) as float32 in [0, 1]; floats as float32."""
    return probabilities.float() / 255 if probabilities.dtype == torch.uint8 else probabilities.float()


def mean_logits(probabilities: Tensor) -> Tensor:
    """(B, M, C, h, w) float to the logarithm of its mean over M, (B, C, h, w); finite where no member sees a class."""
    return log_probabilities(probabilities.mean(1))


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities in [0, 1], of any shape; finite at 0."""
    return probabilities.clamp(min=_LEAST_PROBABILITY).log()


def hide_members(probabilities: Tensor, share: float) -> Tensor:
    """Hides whole members at random, each with probability `share`, frame by frame; never all of a frame's.

    (B, M, C, h, w) to the same shape. A hidden member repeats the mean of those that are left: the model cannot lean on
    it, the mean over all members is the mean of those left, and no input is unlike what it will see when nothing is
    hidden.
    """
    frames, members = probabilities.shape[:2]
    luck = torch.rand(frames, members, device=probabilities.device)
    # The luckiest member of a frame always stays.
    kept = ((luck >= share) | (luck == luck.amax(1, keepdim=True))).view(frames, members, 1, 1, 1)
    left = (probabilities * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    return torch.where(kept, probabilities, left)


def _parts(kind: MetaKind, width: int, index: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The convolution and the attention of block `index`, counted from 0."""
    if kind == "standard_se":
        return _convolution(width, width), [SqueezeExcitation(width)]
    if kind == "depthwise_cbam":
        depthwise = [*_convolution(width, width, groups=width), nn.ReLU()]
        return [*depthwise, *_convolution(width, width, kernel=1)], [CbamChannelAttention(width), SpatialAttention()]
    if kind == "dilated_spatial":
        return _convolution(width, width, dilation=min(2**index, _LARGEST_DILATION)), [SpatialAttention()]
    if kind == "group_eca":
        groups = width // _CHANNELS_PER_GROUP
        first = [*_convolution(width, width, groups=groups), nn.ReLU(), ChannelShuffle(groups)]
        return [*first, *_convolution(width, width, groups=groups)], [EfficientChannelAttention(width)]
    if kind == "plain":
        return _convolution(width, width), []
    raise ValueError(f"{kind!r} is not a meta-model; build_fusion builds it")


def _convolution(channels: int, width: int, *, kernel: int = 3, dilation: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, and its normalisation."""
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(width),
    ]
