"""Bytes that a training needs, counted before it runs: its own steps, on tensors without memory.

What is counted are tensors; `gpu_share.gpu_bytes` adds what a GPU's libraries take beside them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn import functional as F

from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.layers import undo_speed_up
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.memory import Held
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.training import Batch, train_step
from ensemble_tune.ensemble.training_state import TrainingState

_STEPS = 2
"""In the second one the gradients and moments of the first are there."""

Config = TypeVar("Config", BaseConfig, MetaConfig)
Shape = Sequence[int]


def base_training_bytes(
    config: BaseConfig,
    classes: int,
    *,
    scored: int,
    on_gpu: bool,
    images: ImageSpec = RGB,
    full_size: tuple[int, int] | None = None,
) -> int:
    """The most bytes that the tensors of a base model's training hold at once; takes a second or two, then is known.

    scored: frames a forward pass between epochs. on_gpu: counts what a GPU would hold, else this processor. images:
    what the model sees. full_size: height and width at which frames are scored, one by one; None is the config's.
    """
    return _base_training_bytes(_sized(config, on_gpu), classes, scored, on_gpu, images, full_size)


def fusion_training_bytes(
    config: MetaConfig,
    members: int,
    classes: int,
    *,
    scored: int,
    on_gpu: bool,
    images: ImageSpec = RGB,
    full_size: tuple[int, int] | None = None,
) -> int:
    """The same of a fusion of so many members."""
    return _fusion_training_bytes(_sized(config, on_gpu), members, classes, scored, on_gpu, images, full_size)


@lru_cache(maxsize=1024)
def _base_training_bytes(
    config: BaseConfig, classes: int, scored: int, on_gpu: bool, images: ImageSpec, full_size: tuple[int, int] | None
) -> int:
    def build() -> nn.Module:
        model = build_base_model(config, classes, images=images, pretrained=False)
        if on_gpu:
            undo_speed_up(model)
        return model

    inputs = [(images.channels, *config.size)]
    return _most_held(build, config, inputs, classes, scored, full_size, trained=True)


@lru_cache(maxsize=1024)
def _fusion_training_bytes(
    config: MetaConfig,
    members: int,
    classes: int,
    scored: int,
    on_gpu: bool,
    images: ImageSpec,
    full_size: tuple[int, int] | None,
) -> int:
    inputs = [(members, classes, *config.size), *([(images.channels, *config.size)] if config.use_image else [])]
    trained = config.kind not in ("mean", "greedy")

    def build() -> nn.Module:
        return build_fusion(config, members, classes, images)

    return _most_held(build, config, inputs, classes, scored, full_size, trained=trained)


def _sized(config: Config, on_gpu: bool) -> Config:
    """The config without what changes no size, so that what was counted once is found again."""
    # Half precision is of one size, and auto is half precision on any GPU of today.
    half = on_gpu and config.precision != "float32"
    changed: dict[str, Any] = {
        **{name: getattr(type(config)(), name) for name in _SIZELESS},
        "averaging": 0.1 if config.averaging else 0.0,
        "jaccard_weight": 0.5 if config.jaccard_weight else 0.0,
        "precision": "bfloat16" if half else config.precision,
    }
    if isinstance(config, BaseConfig):
        changed |= {"encoder_weights": None}
    return dataclasses.replace(config, **changed)


_SIZELESS = (
    "epochs",
    "stop_epoch",
    "learning_rate",
    "weight_decay",
    "schedule",
    "class_weights",
    "augmentation",
    "gradient_clip",
    "seed",
)


def _most_held(
    build: Callable[[], nn.Module],
    config: BaseConfig | MetaConfig,
    inputs: Sequence[Shape],
    classes: int,
    scored: int,
    full_size: tuple[int, int] | None,
    *,
    trained: bool,
) -> int:
    """inputs: the shape of each of the model's arguments without the batch; all count as uint8."""
    shadows, held, device = FakeTensorMode(), Held(), torch.device("cpu")
    real = TrainingState(build(), config, _STEPS, device)
    with FakeCopyMode(shadows):
        model, moved, loss = copy.deepcopy(
            (real.model, real.trained, SegmentationLoss(torch.ones(classes), config.jaccard_weight))
        )
    with shadows, held:
        for tensor in {*model.parameters(), *model.buffers(), *moved.parameters(), *moved.buffers()}:
            held.add(tensor)
        if trained:
            state = TrainingState(model, config, _STEPS, device, moved)
            state.trained.train()
            labels = torch.empty(config.batch_size, *config.size, dtype=torch.uint8)
            for step in range(_STEPS):
                train_step(state, loss, Batch(_frames(inputs, config.batch_size), labels), config.learning_rate)
                state.follow(step + 1)
        model.eval()
        with torch.inference_mode():
            logits = model(*_frames(inputs, scored))
            F.log_softmax(logits.float(), dim=1)
            # A frame's logits at its own size, and what counting its pixels takes.
            labels = labels_at(logits[0].float(), full_size or config.size)
            torch.empty_like(labels).mul_(classes).add_(labels)
    return held.most


def _frames(inputs: Sequence[Shape], count: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.empty(count, *shape, dtype=torch.uint8) for shape in inputs)
