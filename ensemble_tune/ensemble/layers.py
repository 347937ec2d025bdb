"""Layers that torch's processor backend computes slowly, or wrongly, in the networks of smp: the same weights and sums.

oneDNN, through torch 2.14,
- has no fast path for dilated depthwise kernels, and in bfloat16, channels last, gets the gradient of their weights
  wrong on maps of 24x32 and more (no small error: it is of another size);
- computes the taps of wide kernels that only ever see padding: DeepLabV3 dilates by up to 36 on maps 12 rows high;
- takes 10 to 100 times as long in bfloat16 as in float32 for the input's gradient of a strided depthwise convolution;
- hands on the gradient of a global average in another memory order, in which all layers before it become slow.
"""

from __future__ import annotations

from typing import cast

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble.pooling import map_mean


class DilatedConv2d(nn.Conv2d):
    """A convolution that keeps its input's size, with stride 1; the same weights and sums as nn.Conv2d."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, H, W)."""
        if features.device.type != "cpu":
            return super().forward(features)
        weight, reach = self._reachable(features)
        # Along an axis on which only the middle of the kernel is left, dilation means nothing.
        dilation = [d if taps else 1 for d, taps in zip(self.dilation, reach, strict=True)]
        if not self.groups == self.in_channels == self.out_channels:
            padding = [d * taps for d, taps in zip(dilation, reach, strict=True)]
            return F.conv2d(features, weight, self.bias, 1, padding, dilation, self.groups)
        if any(reach):
            return self._on_blocks(features, weight, reach, dilation)
        # Cast by hand, since autocast knows convolutions but no products.
        scaled = features * weight.view(1, -1, 1, 1).to(features.dtype)
        return scaled if self.bias is None else scaled + self.bias.view(1, -1, 1, 1).to(features.dtype)

    def _reachable(self, features: Tensor) -> tuple[Tensor, list[int]]:
        """The kernel without the rows and columns that lie outside the map wherever it is centred.

        Returns it with the number of its taps on either side of the middle, vertically and horizontally.
        """
        middles = [side // 2 for side in self.weight.shape[2:]]
        limits = [(side - 1) // dilation for side, dilation in zip(features.shape[2:], self.dilation, strict=True)]
        reach = [min(pair) for pair in zip(middles, limits, strict=True)]
        if reach == middles:
            return self.weight, reach
        # In one step, whose gradient has the memory order of the weights: after two, each would be copied into it.
        size = [*self.weight.shape[:2], *(2 * taps + 1 for taps in reach)]
        first = sum((m - taps) * d for m, taps, d in zip(middles, reach, self.weight.stride()[2:], strict=True))
        return self.weight.as_strided(size, self.weight.stride(), first), reach

    def _on_blocks(self, features: Tensor, weight: Tensor, reach: list[int], dilation: list[int]) -> Tensor:
        """Every dilation-th row and column forms a small map of its own, on which the kernel is not dilated.

        Source: Chen 2018, DeepLab, section 3.1: the atrous algorithm by subsampling.
        """
        batch, channels, height, width = features.shape
        down, across = dilation
        padded = F.pad(features, (0, -width % across, 0, -height % down))
        rows, columns = padded.shape[2] // down, padded.shape[3] // across
        # Channels stay innermost throughout, so that each move copies whole pixels.
        blocks = padded.permute(0, 2, 3, 1).reshape(batch, rows, down, columns, across, channels)
        small = blocks.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
        out = F.conv2d(small, weight, self.bias, padding=reach, groups=self.groups)
        blocks = out.permute(0, 2, 3, 1).reshape(batch, down, across, rows, columns, channels)
        whole = blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, rows * down, columns * across, channels)
        return whole.permute(0, 3, 1, 2)[..., :height, :width]


class StridedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with a stride, trained in float32; of more than one tap.

    With a single tap (MobileOne has such) torch 2.14's float32 gradient here writes beyond its memory.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        if not _is_slow(self, features):
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(features.dtype)


class StridedDepthwiseConv2dSame(Conv2dSame):
    """The same with TensorFlow's padding, which depends on the input's size: the tf_ encoders have it."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        if not _is_slow(self, features):
            return cast(Tensor, super().forward(features))  # type: ignore[no-untyped-call]
        with torch.autocast("cpu", enabled=False):
            convolved = cast(Tensor, super().forward(features.float()))  # type: ignore[no-untyped-call]
            return convolved.to(features.dtype)


class GlobalAveragePool2d(nn.AdaptiveAvgPool2d):
    """The mean over a map."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 1, 1)."""
        return map_mean(features)


class PooledBranch(ASPPPooling):  # type: ignore[misc]
    """DeepLabV3's branch of the global average."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, H, W), channels last as the branches that it is joined to."""
        return cast(Tensor, super().forward(features)).contiguous(memory_format=torch.channels_last)


_FASTER = (DilatedConv2d, StridedDepthwiseConv2d, StridedDepthwiseConv2dSame, GlobalAveragePool2d, PooledBranch)


def speed_up(network: nn.Module) -> None:
    """Turns the layers of `network` that have a faster form here into it, in place."""
    for module in network.modules():
        faster = _faster(module)
        if faster is not None:
            module.__class__ = faster


def undo_speed_up(network: nn.Module) -> None:
    """Gives every layer its own class back, in place: what an exporter knows, and what a GPU holds at once."""
    for module in network.modules():
        if type(module) in _FASTER:
            module.__class__ = type(module).__base__  # type: ignore[assignment]


def _faster(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is nn.Conv2d:
        if max(module.dilation) > 1 and _keeps_size(module):
            return DilatedConv2d
        if _is_strided_depthwise(module):
            return StridedDepthwiseConv2d
    if type(module) is Conv2dSame and _is_strided_depthwise(module):
        return StridedDepthwiseConv2dSame
    if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
        return GlobalAveragePool2d
    return PooledBranch if type(module) is ASPPPooling else None


def _is_slow(module: nn.Module, features: Tensor) -> bool:
    return features.device.type == "cpu" and features.dtype == torch.bfloat16 and module.training


def _is_strided_depthwise(module: nn.Conv2d) -> bool:
    is_depthwise = module.groups == module.in_channels == module.out_channels > 1
    return is_depthwise and max(module.stride) > 1 and max(module.kernel_size) > 1


def _keeps_size(module: nn.Conv2d) -> bool:
    same = tuple(d * (k // 2) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    wide = max(module.kernel_size) > 1 and all(k % 2 for k in module.kernel_size)
    return wide and module.stride == (1, 1) and module.padding == same and module.padding_mode == "zeros"
