"""How well the memory of a training is known before it runs: estimates against the peaks of real trainings.

python benchmarks/memory_estimates.py [quick]

Each training is of two epochs of two steps, on built-in street scenes (base models) or on random predictions (fusions).
Its peak is what torch's allocator handed out, by torch's profiler; beside it, how much larger the process became,
without the profiler: that has what the processor's libraries take for themselves. All on the processor: GPUs are not
measured here.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.synthetic import write_street_scenes
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_memory import base_training_bytes, fusion_training_bytes
from ensemble_tune.trial import EpochResult

ARCHITECTURES, ENCODERS, PRECISIONS = (
    ("unet", "unetplusplus", "deeplabv3plus"),
    ("mobilenet_v2", "resnet34"),
    ("float32", "bfloat16"),
)
KINDS, SIZES = ("plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca"), ("96x128", "192x256")
EPOCHS, STEPS, BATCH, SCORED, MEMBERS, MIB = 2, 2, 4, 8, 3, 2**20


def main(quick: bool) -> None:
    """Prints a row a training, then the errors of each stage."""
    sizes = SIZES[:1] if quick else SIZES
    base = [
        BaseConfig.from_params(
            {"architecture": a, "encoder": e, "size": s, "precision": p, "epochs": EPOCHS, "batch_size": BATCH}
        )
        for a, e, s, p in product(ARCHITECTURES, ENCODERS, sizes, PRECISIONS)
    ]
    meta = [
        MetaConfig.from_params(
            {"kind": k, "width": w, "size": s, "precision": p, "epochs": EPOCHS, "batch_size": BATCH}
        )
        for k, w, s, p in product(KINDS, (32,) if quick else (32, 64), sizes, PRECISIONS)
    ]
    print("MiB: estimate  allocated  error  process grew by   training")
    with tempfile.TemporaryDirectory() as folder:
        write_street_scenes(Path(folder) / "data", 0, sequences=(1, 1, 1), frames=BATCH * STEPS)
        for stage, configs in (("base", base), ("meta", meta)):
            errors = []
            for config in configs:
                estimate, allocated, grew = measured(config, Path(folder))
                errors.append(estimate / allocated - 1)
                mib = f"{estimate / MIB:13.0f} {allocated / MIB:10.0f} {errors[-1]:+6.1%} {grew / MIB:12.0f}"
                print(f"{mib}   {told(config)}", flush=True)
            print(
                f"{stage}: {len(errors)} trainings, median error {statistics.median(map(abs, errors)):.1%}, "
                f"most over {max(errors):+.1%}, most under {min(errors):+.1%}"
            )


def told(config: BaseConfig | MetaConfig) -> str:
    what = (
        f"{config.architecture} {config.encoder}" if isinstance(config, BaseConfig) else f"{config.kind} {config.width}"
    )
    return f"{what} {config.size[0]}x{config.size[1]} {config.precision}"


def measured(config: BaseConfig | MetaConfig, folder: Path) -> tuple[int, int, int]:
    """The estimate, the allocator's peak, and how much the process grew, in bytes; each run in a process of its own."""
    found = []
    for run in (estimated, allocated, grown):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found.append(process.submit(run, config, folder).result())
    return found[0], found[1], found[2]


def estimated(config: BaseConfig | MetaConfig, folder: Path) -> int:
    classes = len(data(folder).dataset().spec.classes)
    if isinstance(config, BaseConfig):
        return base_training_bytes(config, classes, scored=SCORED, on_gpu=False)
    return fusion_training_bytes(config, MEMBERS, classes, scored=SCORED, on_gpu=False)


def allocated(config: BaseConfig | MetaConfig, folder: Path) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        assert len(list(training(config, folder))) == EPOCHS
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def grown(config: BaseConfig | MetaConfig, folder: Path) -> int:
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
    assert len(list(training(config, folder))) == EPOCHS
    return 1024 * (kibibytes("VmHWM") - before)


def kibibytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def data(folder: Path) -> StageData:
    return StageData(data=str(folder / "data"), cache=folder / "cache", device="cpu")


def training(config: BaseConfig | MetaConfig, folder: Path) -> Iterator[EpochResult]:
    """A real one."""
    frames = data(folder)
    if isinstance(config, BaseConfig):
        return BaseTrial(data=frames)(config.to_params(), None)
    frames.prepare()
    classes = len(frames.dataset().spec.classes)

    def predictions(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, MEMBERS, classes, *config.size), dtype=torch.uint8)

    def batches(epoch: int) -> Iterator[Batch]:
        for _ in range(STEPS):
            labels = torch.randint(0, classes, (BATCH, *config.size), dtype=torch.uint8)
            yield Batch((predictions(BATCH),), labels)

    def score(model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            return {"score": model(predictions(SCORED)).log_softmax(1).mean().item()}

    return train_epochs(
        model=build_fusion(config, MEMBERS, classes),
        config=config,
        loss=SegmentationLoss(torch.ones(classes)),
        batches=batches,
        steps=STEPS,
        score=score,
        device=torch.device("cpu"),
        resume=None,
    )


if __name__ == "__main__":
    main("quick" in sys.argv[1:])
