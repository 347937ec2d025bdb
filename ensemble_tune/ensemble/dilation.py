"""Dilated convolutions at the speed of plain ones, on a processor: the same sums, without the work that gives nothing.

oneDNN has no fast path for dilated depthwise kernels, and computes the taps of wide kernels that only ever see padding.
DeepLabV3 has both: dilated depthwise convolutions in its encoder, and 3x3 kernels dilated by up to 36 on maps that may
be 12 rows high.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DilatedConv2d(nn.Conv2d):
    """A convolution that keeps its input's size, with stride 1; the same weights and results as nn.Conv2d."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, H, W)."""
        if features.device.type != "cpu":
            return super().forward(features)
        depthwise = self.groups == self.in_channels == self.out_channels
        if depthwise and self.dilation[0] == self.dilation[1] and min(features.shape[2:]) >= 2 * self.dilation[0]:
            return self._on_blocks(features, self.dilation[0])
        return self._reachable(features, depthwise)

    def _on_blocks(self, features: Tensor, dilation: int) -> Tensor:
        """Every dilation-th row and column forms a small map of its own, on which the kernel is not dilated.

        Source: the space-to-batch of Chen 2017, Rethinking atrous convolution, section 3.1.
        """
        batch, channels, height, width = features.shape
        padded = F.pad(features, (0, -width % dilation, 0, -height % dilation))
        rows, columns = padded.shape[2] // dilation, padded.shape[3] // dilation
        # Channels stay innermost throughout, so that each move copies whole pixels.
        blocks = padded.permute(0, 2, 3, 1).reshape(batch, rows, dilation, columns, dilation, channels)
        small = blocks.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        out = F.conv2d(small, self.weight, self.bias, padding=padding, groups=self.groups)
        blocks = out.permute(0, 2, 3, 1).reshape(batch, dilation, dilation, rows, columns, self.out_channels)
        whole = blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, rows * dilation, columns * dilation, -1)
        return whole.permute(0, 3, 1, 2)[..., :height, :width]

    def _reachable(self, features: Tensor, depthwise: bool) -> Tensor:
        """The kernel without the rows and columns that lie outside the map wherever it is centred."""
        weight = self.weight
        padding = []
        for axis, side in enumerate(features.shape[2:], start=2):
            middle, dilation = weight.shape[axis] // 2, self.dilation[axis - 2]
            reach = min(middle, (side - 1) // dilation)
            weight = weight.narrow(axis, middle - reach, 2 * reach + 1)
            padding.append(reach * dilation)
        if depthwise and weight.shape[2:] == (1, 1):
            scaled = features * weight.view(1, -1, 1, 1)
            return scaled if self.bias is None else scaled + self.bias.view(1, -1, 1, 1)
        return F.conv2d(features, weight, self.bias, 1, padding, self.dilation, self.groups)


def speed_up_dilations(network: nn.Module) -> None:
    """Turns the dilated convolutions of `network` that keep their input's size into DilatedConv2d, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and max(module.dilation) > 1 and _keeps_size(module):
            module.__class__ = DilatedConv2d


def _keeps_size(module: nn.Conv2d) -> bool:
    same = tuple(d * (k // 2) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    wide = max(module.kernel_size) > 1 and all(k % 2 for k in module.kernel_size)
    return wide and module.stride == (1, 1) and module.padding == same and module.padding_mode == "zeros"
