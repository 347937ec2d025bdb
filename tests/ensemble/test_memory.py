import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.memory import inference_bytes


def own_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def peak(model: nn.Module, *inputs: torch.Tensor) -> int:
    """The most bytes that torch's allocator has handed out during a pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, torch.inference_mode():
        model(*inputs)
    now = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("architecture", ["unet", "unetplusplus", "deeplabv3plus"])
def test_a_pass_holds_what_the_allocator_hands_out(architecture: str) -> None:
    model = build_base_model(BaseConfig(architecture=architecture, encoder="resnet18"), 11).eval()
    images = torch.zeros(1, 3, 256, 320, dtype=torch.uint8)
    counted = inference_bytes(model, images.shape) - own_bytes(model) - images.nbytes
    largest = max(weight.nbytes for weight in model.parameters())
    assert 0.99 * counted <= peak(model, images) <= 1.01 * counted + 2 * largest


@pytest.mark.parametrize("kind", ["mean", "plain", "depthwise_cbam", "group_eca"])
def test_fusions_are_counted_with_their_predictions(kind: str) -> None:
    config = MetaConfig.from_params({"kind": kind, "precision": "float32"})
    fusion = build_fusion(config, members=3, classes=5).eval()
    stack = torch.zeros(1, 3, 5, 64, 96, dtype=torch.uint8)
    counted = inference_bytes(fusion, stack.shape, (1, 3, 64, 96)) - own_bytes(fusion)
    beside = stack.nbytes + 3 * 64 * 96
    assert 0.9 * counted <= peak(fusion, stack) + beside <= 1.3 * counted


def test_counting_touches_neither_weights_nor_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1000, 1), nn.ReLU())
    before = [parameter.clone() for parameter in model.parameters()]
    counted = inference_bytes(nn.Sequential(_Floats(), model), (1, 3, 4096, 4096))
    pixels = 4096 * 4096
    # 134 GB: the convolution's output and the activation's, while the frame and its floats are still there.
    assert counted == 4 * (4000 + 2 * 1000 * pixels) + 3 * pixels + 4 * 3 * pixels
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


class _Floats(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float()
