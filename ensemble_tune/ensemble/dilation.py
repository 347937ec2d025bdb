"""Dilated convolutions as fast as plain ones, and with the right gradients, on a processor.

oneDNN, through torch 2.14, has no fast path for dilated depthwise kernels; in bfloat16, channels last, the gradient of
their weights is wrong on maps of 24x32 and more (no small error: it is of another size). It also computes the taps of
wide kernels that only ever see padding. DeepLabV3 has all of it: dilated depthwise convolutions in its encoder, and 3x3
kernels dilated by up to 36 on maps that may be 12 rows high.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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
        weight, reach = self.weight, []
        for axis, side, dilation in zip((2, 3), features.shape[2:], self.dilation, strict=True):
            middle = weight.shape[axis] // 2
            taps = min(middle, (side - 1) // dilation)
            weight = weight.narrow(axis, middle - taps, 2 * taps + 1)
            reach.append(taps)
        return weight, reach

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


def speed_up_dilations(network: nn.Module) -> None:
    """Turns the dilated convolutions of `network` that keep their input's size into DilatedConv2d, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and max(module.dilation) > 1 and _keeps_size(module):
            module.__class__ = DilatedConv2d


def _keeps_size(module: nn.Conv2d) -> bool:
    same = tuple(d * (k // 2) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    wide = max(module.kernel_size) > 1 and all(k % 2 for k in module.kernel_size)
    return wide and module.stride == (1, 1) and module.padding == same and module.padding_mode == "zeros"
