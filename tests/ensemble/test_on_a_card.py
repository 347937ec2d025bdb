"""Whether what runs on a GPU leaves anything on the processor: on tensors without memory, which need no GPU."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.training import Batch, train_step
from ensemble_tune.ensemble.training_state import TrainingState

CARD, CPU = torch.device("cuda:0"), torch.device("cpu")
SIZE, CLASSES, MEMBERS = (64, 96), 5, 3


def move(module: nn.Module) -> None:
    """Module.to, which cannot swap tensors that have no memory."""
    for own in module.modules():
        for name, value in own._parameters.items():
            if value is not None:
                own._parameters[name] = nn.Parameter(torch.empty_like(value.data, device=CARD), value.requires_grad)
        for name, buffer in own._buffers.items():
            if buffer is not None:
                own._buffers[name] = torch.empty_like(buffer, device=CARD)


def base(architecture: str) -> tuple[BaseConfig, Callable[[], nn.Module], list[tuple[int, ...]]]:
    config = BaseConfig(architecture=architecture, encoder="mobilenet_v2", size=SIZE, batch_size=2, jaccard_weight=0.5)
    return config, lambda: build_base_model(config, CLASSES, pretrained=False), [(3, *SIZE)]


def fusion(kind: str) -> tuple[MetaConfig, Callable[[], nn.Module], list[tuple[int, ...]]]:
    config = MetaConfig(kind=kind, size=SIZE, batch_size=2, use_image=True, base_dropout=0.5, scale=0.5)  # type: ignore[arg-type]
    if kind in ("weighted", "linear"):
        config = MetaConfig(kind=kind, size=SIZE, batch_size=2)  # type: ignore[arg-type]
    inputs = [(MEMBERS, CLASSES, *SIZE), *([(3, *SIZE)] if config.use_image else [])]
    return config, lambda: build_fusion(config, MEMBERS, CLASSES), inputs


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(
    "made",
    [
        *(base(name) for name in ("unet", "unetplusplus", "deeplabv3plus")),
        *(fusion(kind) for kind in ("weighted", "linear", "plain", "standard_se")),
        *(fusion(kind) for kind in ("depthwise_cbam", "dilated_spatial", "group_eca")),
    ],
    ids=lambda made: getattr(made[0], "architecture", None) or made[0].kind,
)
def test_a_step_and_a_score_stay_on_the_card(
    made: tuple[BaseConfig | MetaConfig, Callable[[], nn.Module], list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, build, shapes = made
    shadows = FakeTensorMode()
    real = TrainingState(build(), replace(config, precision="float32"), 2, CPU)
    with FakeCopyMode(shadows):
        model, moved, loss = copy.deepcopy((real.model, real.trained, SegmentationLoss(torch.ones(CLASSES), 0.5)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with shadows:
        for module in {model, moved, loss}:
            move(module)
        state = TrainingState(model, config, 2, CARD, moved)
        state.trained.train()

        def backward(value: Tensor) -> None:  # torch's own asks the driver for a stream
            assert value.device == CARD
            for parameter in state.trained.parameters():
                parameter.grad = torch.zeros_like(parameter)

        monkeypatch.setattr(torch.autograd, "backward", backward)
        inputs = tuple(torch.empty(2, *shape, dtype=torch.uint8) for shape in shapes)
        for step in (1, 2):
            value, norm = train_step(state, loss, Batch(inputs, torch.empty(2, *SIZE, dtype=torch.uint8)), 1e-3)
            assert value.device == norm.device == CARD
            state.follow(step)
        state.model.eval()
        with torch.inference_mode():
            logits = state.model(*(each.to(CARD) for each in inputs))
            assert labels_at(logits[0].float(), (128, 200)).device == CARD
