"""What each part of the speed brings, on one thread: frames, steps, and what a meta-model learns from.

python benchmarks/parts.py CAMVID [ROUNDS]

Every row is images a second, medians over the rounds; the ways of a block run in turn.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_tune.ensemble import base_model
from ensemble_tune.ensemble.augment import Augment
from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, MetaKind, Precision
from ensemble_tune.ensemble.image_file import read_image, read_mask
from ensemble_tune.ensemble.layers import speed_up
from ensemble_tune.ensemble.meta_model import as_float, build_meta_model
from ensemble_tune.settings import Settings

SIZE, BATCH, CLASSES = (96, 128), 8, 11


def main(data: str, rounds: int) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=data, out=Path(folder), cache=Path(folder) / "cache")
        table("augmented frame", loading(settings), rounds)
    for architecture in ("unet", "unetplusplus", "deeplabv3"):
        table(f"training step, {architecture} mobilenet_v2", steps(architecture), rounds)
    table("a meta-model's input from two members: forward once a trial against read once an epoch", inputs(), rounds)
    for kind in ("standard_se", "depthwise_cbam", "dilated_spatial", "group_eca"):
        table(f"training step, {kind}, 32 channels", meta_steps(kind), rounds)


def table(title: str, ways: dict[str, Callable[[], int]], rounds: int) -> None:
    """Times each way, which returns how many images it handled, in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            images = way()
            speeds[name].append(images / (time.perf_counter() - started))
    print(title)
    first = statistics.median(next(iter(speeds.values())))
    for name, own in speeds.items():
        median = statistics.median(own)
        print(
            f"  {name:44} {median:9.1f} images/s ({min(own):.1f}, {max(own):.1f})  {median / first:6.2f}x", flush=True
        )


def loading(settings: Settings) -> dict[str, Callable[[], int]]:
    """A file decoded for every step, as the usual data set does, against the cache; the same kind of augmentation."""
    stage = settings.stage_data()
    files = stage.dataset().splits["train"][:64]
    frames = stage.training(SIZE)
    usual = A.Compose(
        [
            A.Resize(*SIZE),
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.8, 1.2), rotate=(-10, 10), translate_percent=(-0.05, 0.05), p=0.5, fill_mask=11),
            A.RandomBrightnessContrast(p=0.3),
            A.Normalize(),
        ]
    )
    augment = Augment(0.5)

    def decoded() -> int:
        for frame in files:
            usual(image=read_image(frame.image), mask=read_mask(frame.mask))
        return len(files)

    def cached() -> int:
        for i in range(len(files)):
            augment(frames.image(i), frames.label(i), i)
        return len(files)

    return {"PNG decoded and resized, augmented": decoded, "cached at the working size, augmented": cached}


def steps(architecture: str) -> dict[str, Callable[[], int]]:
    images = torch.randint(0, 256, (BATCH, 3, *SIZE), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    plain = smp.create_model(architecture, "mobilenet_v2", encoder_weights=None, in_channels=3, classes=CLASSES)

    def ours(precision: Precision, layers: bool) -> nn.Module:
        config = BaseConfig(architecture=architecture, size=SIZE, precision=precision)
        with mock.patch.object(base_model, "speed_up", speed_up if layers else lambda network: None):
            return build_base_model(config, CLASSES)

    return {
        "float32, channels first, as smp builds it": training(plain, [images.float().contiguous()]),
        "float32, channels last": training(ours("float32", False), [images]),
        "and the automatic precision": training(ours("auto", False), [images]),
        "and our layers": training(ours("auto", True), [images]),
        "its convolutions alone: what no loop can beat": convolutions(ours("auto", True), images),
    }


def convolutions(model: nn.Module, images: Tensor) -> Callable[[], int]:
    """The convolutions of a training step, forward and both gradients, without anything between them."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def seen(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0].detach()))

    hooks = [m.register_forward_hook(seen) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model.train()(images)
    for hook in hooks:
        hook.remove()

    def run() -> int:
        for module, features in calls:
            with torch.autocast("cpu", torch.bfloat16):
                output = module(features.requires_grad_(features.shape[1] > 3))
            torch.autograd.backward(output, torch.ones_like(output))
            features.grad = None
        model.zero_grad()
        return BATCH

    return run


def meta_steps(kind: MetaKind) -> dict[str, Callable[[], int]]:
    stack = torch.randint(0, 256, (BATCH, 2, CLASSES, *SIZE), dtype=torch.uint8)

    def ours(precision: Precision) -> nn.Module:
        return build_meta_model(MetaConfig(kind=kind, size=SIZE, width=32, depth=3, precision=precision), 2, CLASSES)

    return {name: training(ours(name), [stack]) for name in ("float32", "auto")}


def training(model: nn.Module, inputs: list[Tensor]) -> Callable[[], int]:
    """Two whole training steps."""
    optimiser = torch.optim.AdamW(model.train().parameters(), fused=True)
    labels = torch.randint(0, CLASSES, (BATCH, *SIZE))

    def run() -> int:
        for _ in range(2):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(*inputs), labels))
            optimiser.step()
        return 2 * BATCH

    return run


def inputs() -> dict[str, Callable[[], int]]:
    """Two members' forward passes, as the usual script makes them in every trial, against the saved probabilities."""
    members = [
        smp.create_model(name, "mobilenet_v2", encoder_weights=None, in_channels=3, classes=CLASSES).eval()
        for name in ("unetplusplus", "deeplabv3")
    ]
    images = torch.randn(BATCH, 3, *SIZE)
    saved = tempfile.NamedTemporaryFile(suffix=".npy")  # noqa: SIM115 - lives as long as the ways that read it
    np.save(saved.name, np.zeros((64, 2, CLASSES, *SIZE), np.uint8))
    mapped = np.load(saved.name, mmap_mode="r")
    places = itertools.cycle(range(0, 64, BATCH))

    def forward() -> int:
        with torch.no_grad():
            torch.cat([member(images).softmax(1) for member in members], 1)
        return BATCH

    def read() -> int:
        start = next(places)
        as_float(torch.from_numpy(np.stack([mapped[start + i] for i in range(BATCH)])))
        assert saved
        return BATCH

    return {"forward passes, float32": forward, "saved predictions, memory-mapped": read}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
