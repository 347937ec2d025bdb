"""Training steps on a processor: our layers against torch's own, in turn, in one process.

python benchmarks/layers.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import time
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from ensemble_tune.ensemble import base_model
from ensemble_tune.ensemble.base_model import BaseModel, build_base_model
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.layers import speed_up

_BATCH, _CLASSES, _STEPS = 8, 11, 3
_SIZES = ((96, 128), (120, 160))


def main(rounds: int) -> None:
    """Prints images a second on one thread, and the ratio; medians with their extremes."""
    torch.set_num_threads(1)
    print("error of a dilated depthwise convolution's weight gradient in bfloat16, as a share of its largest value")
    for size in ((12, 16), (24, 32), (48, 64)):
        print(
            f"{size[0]:4}x{size[1]:<4} torch {gradient_error(False, size):.3f}  ours {gradient_error(True, size):.3f}"
        )
    print("architecture   encoder       size     torch  ours   ours/torch (median, least, most)")
    for architecture in ("unet", "unetplusplus", "deeplabv3", "deeplabv3plus"):
        for encoder in ("mobilenet_v2", "resnet18"):
            for size in _SIZES:
                config = BaseConfig(architecture=architecture, encoder=encoder, size=size)
                ours = build_base_model(config, _CLASSES)
                with mock.patch.object(base_model, "speed_up"):
                    theirs = build_base_model(config, _CLASSES)
                pairs = [(images_per_second(theirs, size), images_per_second(ours, size)) for _ in range(rounds)]
                ratios = [mine / other for other, mine in pairs]
                medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
                print(
                    f"{architecture:14} {encoder:12} {size[0]:4}x{size[1]:<4} {medians[0]:6.1f} {medians[1]:6.1f}"
                    f"   {statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})",
                    flush=True,
                )


def gradient_error(ours: bool, size: tuple[int, int]) -> float:
    """Of the weights of one convolution, bfloat16 and channels last, against float32."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(96, 96, 3, padding=2, dilation=2, groups=96)
    features, upstream = torch.randn(2, 96, *size), torch.randn(2, 96, *size)
    (truth,) = torch.autograd.grad(convolution(features), [convolution.weight], upstream)
    if ours:
        speed_up(convolution)
    low, last = torch.bfloat16, torch.channels_last
    convolution.to(low).to(memory_format=last)
    output = convolution(features.to(low).to(memory_format=last))
    (found,) = torch.autograd.grad(output, [convolution.weight], upstream.to(low).to(memory_format=last))
    return ((found.float() - truth).abs().max() / truth.abs().max()).item()


def images_per_second(model: BaseModel, size: tuple[int, int]) -> float:
    """Images a second of a few whole training steps, after one to warm up."""
    optimiser = torch.optim.AdamW(model.train().parameters(), fused=True)
    images = torch.randint(0, 256, (_BATCH, 3, *size), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (_BATCH, *size))
    started = 0.0
    for step in range(_STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return _BATCH * _STEPS / (time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
