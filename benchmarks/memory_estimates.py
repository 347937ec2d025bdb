"""How well the memory of a training is known before it runs: estimates against the peaks of real trainings.

python benchmarks/memory_estimates.py [quick] [gpu]

Each training is of two epochs of two steps, on built-in street scenes (base models) or on random predictions (fusions).
On the processor its peak is what torch's allocator handed out, by torch's profiler: of the training as it runs there,
and of base models once more with the layers that a GPU runs, counted as for a GPU. With `gpu` trainings run on a CUDA
card, one at a time, and the peak is what torch's allocator took of it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ensemble_tune.ensemble import base_trial
from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.config import BaseConfig, MetaConfig
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.gpu_share import CONTEXT_BYTES, SPARE, gpu_bytes, most_taken
from ensemble_tune.ensemble.layers import undo_speed_up
from ensemble_tune.ensemble.losses import SegmentationLoss
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.synthetic import write_street_scenes
from ensemble_tune.ensemble.training import Batch, train_epochs
from ensemble_tune.ensemble.training_memory import base_training_bytes, fusion_training_bytes
from ensemble_tune.trial import EpochResult

ARCHITECTURES, ENCODERS, PRECISIONS = (
    ("unet", "unetplusplus", "deeplabv3", "deeplabv3plus"),
    ("mobilenet_v2", "resnet34"),
    ("float32", "bfloat16"),
)
WIDTHS, KINDS = (32, 64), ("plain", "standard_se", "depthwise_cbam", "dilated_spatial", "group_eca")
SIZES = {"cpu": ("96x128", "192x256"), "cuda": ("360x480", "720x960")}
EPOCHS, STEPS, BATCH, SCORED, MEMBERS, MIB = 2, 2, 4, 8, 3, 2**20
MEDIAN = 0.1
"""The rule: half of the estimates are nearer than this."""

MEANING = {
    "cpu": f"""\
MiB. counted: tensors, followed through the training's own code under fake tensors.
allocated: what real tensors of the same code took on this processor. So this shows that the counting is right. It does
not show what a GPU's libraries take beside tensors (workspaces, the context, the allocator's gaps), for which
gpu_bytes() adds {SPARE - 1:.0%} and {gpu_bytes(0) / MIB:.0f} MiB.
grew: the process's resident memory without mapped files, which has what the processor's libraries take in it.
""",
    "cuda": f"""\
MiB. counted: tensors under fake tensors, as for a GPU; allocated: the peak of real ones on the card.
asked: the count with {SPARE - 1:.0%}, workspace and context, which a trial's share must hold.
taken: the allocator's peak, its gaps included, and the {CONTEXT_BYTES / MIB:.0f} MiB that are assumed for the context.
context: what the card lacks beside the allocator's memory; true only where nobody else is on the card.
""",
}


@dataclass
class Errors:
    """Of estimates against measurements, which `spared` times an estimate should hold."""

    what: str
    spared: float
    found: list[float] = field(default_factory=list)

    def add(self, estimate: int, measured: int) -> float:
        """Also returns it: above 0 where more was expected than was taken."""
        self.found.append(estimate / measured - 1)
        return self.found[-1]

    def told(self) -> str:
        """How far off, and whether that keeps the rules."""
        median = statistics.median(map(abs, self.found))
        under = sum((1 + error) * self.spared < 1 for error in self.found)
        return (
            f"{self.what}: median error {median:.1%} ({'below' if median < MEDIAN else 'NOT below'} {MEDIAN:.0%}), "
            f"most over {max(self.found):+.1%}, most under {min(self.found):+.1%}; "
            f"{under} of {len(self.found)} under by more than the margin"
            f"{f' of {self.spared - 1:.0%}' if self.spared > 1 else ', which asked has in it'}"
        )


def main(quick: bool, device: str) -> None:
    """Prints a row a training, then the errors of each stage."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu measures on a CUDA card, but torch finds none here; leave gpu out")
    first = 1 if quick else None
    sizes, encoders, widths = SIZES[device][:first], ENCODERS[:first], WIDTHS[:first]
    base = [
        BaseConfig.from_params(
            {"architecture": a, "encoder": e, "size": s, "precision": p, "epochs": EPOCHS, "batch_size": BATCH}
        )
        for a, e, s, p in product(ARCHITECTURES, encoders, sizes, PRECISIONS)
    ]
    meta = [
        MetaConfig.from_params(
            {"kind": k, "width": w, "size": s, "precision": p, "epochs": EPOCHS, "batch_size": BATCH}
        )
        for k, w, s, p in product(KINDS, widths, sizes, PRECISIONS)
    ]
    if device == "cuda":
        print(f"on {torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(MEANING[device])
    with tempfile.TemporaryDirectory() as folder:
        write_street_scenes(Path(folder) / "data", 0, sequences=(1, 1, 1), frames=BATCH * STEPS)
        for stage, configs in (("base", base), ("meta", meta)):
            found = (
                on_card(stage, configs, Path(folder))
                if device == "cuda"
                else on_processor(stage, configs, Path(folder), quick)
            )
            for errors in found:
                print(errors.told(), flush=True)
            print()


def on_processor(stage: str, configs: list[Any], folder: Path, quick: bool) -> list[Errors]:
    """Counted as for this processor; base models also as for a GPU, with the layers that run there."""
    here, as_there = Errors(f"{stage}, as here", SPARE), Errors(f"{stage}, layers of a GPU", SPARE)
    both = stage == "base"
    print("counted allocated  error   grew " + ("| counted allocated  error (layers of a GPU)" if both else ""))
    runs = [allocated, *([] if quick else [grown]), *([allocated_undone] if both else [])]
    with processes(len(os.sched_getaffinity(0))) as pool:
        asked = [{run: pool.submit(run, config, folder) for run in runs} for config in configs]
        for config, each in zip(configs, asked, strict=True):
            count, peak = counted(config, folder, on_gpu=False), each[allocated].result()
            grew = f"{each[grown].result() / MIB:.0f}" if grown in each else "-"
            row = f"{count / MIB:7.0f} {peak / MIB:9.0f} {here.add(count, peak):+6.1%} {grew:>6}"
            if both:
                count, peak = counted(config, folder, on_gpu=True), each[allocated_undone].result()
                row += f" | {count / MIB:7.0f} {peak / MIB:9.0f} {as_there.add(count, peak):+6.1%}"
            print(f"{row}   {told(config)}", flush=True)
    return [here, as_there] if both else [here]


def on_card(stage: str, configs: list[Any], folder: Path) -> list[Errors]:
    """Counted and measured on a CUDA card."""
    tensors, all_of_it = Errors(f"{stage}, tensors", SPARE), Errors(f"{stage}, all of it", 1.0)
    print("counted allocated  error |   asked     taken  error | context")
    with processes(1) as pool:
        asked = [pool.submit(taken_of_card, config, folder) for config in configs]
        for config, each in zip(configs, asked, strict=True):
            count, (peak, taken, context) = counted(config, folder, on_gpu=True), each.result()
            wanted = gpu_bytes(count)
            row = f"{count / MIB:7.0f} {peak / MIB:9.0f} {tensors.add(count, peak):+6.1%}"
            row += f" | {wanted / MIB:7.0f} {taken / MIB:9.0f} {all_of_it.add(wanted, taken):+6.1%}"
            print(f"{row} | {context / MIB:7.0f}   {told(config)}", flush=True)
    return [tensors, all_of_it]


def told(config: BaseConfig | MetaConfig) -> str:
    what = (
        f"{config.architecture} {config.encoder}" if isinstance(config, BaseConfig) else f"{config.kind} {config.width}"
    )
    return f"{what} {config.size[0]}x{config.size[1]} {config.precision}"


def processes(count: int) -> ProcessPoolExecutor:
    """So many side by side; each training has one of its own, which need not import torch again."""
    forked = get_context("forkserver")
    forked.set_forkserver_preload([base_trial.__name__, build_fusion.__module__])
    return ProcessPoolExecutor(count, mp_context=forked, max_tasks_per_child=1)


def counted(config: BaseConfig | MetaConfig, folder: Path, *, on_gpu: bool) -> int:
    classes = len(data(folder, "cpu").dataset().spec.classes)
    if isinstance(config, BaseConfig):
        return base_training_bytes(config, classes, scored=SCORED, on_gpu=on_gpu)
    return fusion_training_bytes(config, MEMBERS, classes, scored=SCORED, on_gpu=on_gpu)


def allocated(config: BaseConfig | MetaConfig, folder: Path) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        assert len(list(training(config, folder, "cpu"))) == EPOCHS
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def allocated_undone(config: BaseConfig, folder: Path) -> int:
    """Of a model whose layers are those that a GPU runs."""
    build = build_base_model

    def undone(*args: Any, **options: Any) -> nn.Module:
        model = build(*args, **options)
        undo_speed_up(model)
        return model

    vars(base_trial)["build_base_model"] = undone  # in this process, which ends
    # Here torch's gradients of dilated depthwise convolutions in bfloat16 are wrong (layers.py): steps along
    # them must be too small to diverge. They take the same memory.
    return allocated(replace(config, learning_rate=1e-9), folder)


def taken_of_card(config: BaseConfig | MetaConfig, folder: Path) -> tuple[int, int, int]:
    """The peaks of tensors and of all that the process has of the card; what is taken of it beside the allocator's."""
    assert len(list(training(config, folder, "auto"))) == EPOCHS
    free, total = torch.cuda.mem_get_info()
    taken = most_taken(torch.device("cuda"))
    assert taken is not None
    return torch.cuda.max_memory_allocated(), taken, total - free - torch.cuda.memory_reserved()


def grown(config: BaseConfig | MetaConfig, folder: Path) -> int:
    before, files = kibibytes("VmRSS"), kibibytes("RssFile")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
    assert len(list(training(config, folder, "cpu"))) == EPOCHS
    # Code that is read for the first time is no part of the training.
    return 1024 * (kibibytes("VmHWM") - before - (kibibytes("RssFile") - files))


def kibibytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def data(folder: Path, device: str) -> StageData:
    return StageData(data=str(folder / "data"), cache=folder / "cache", device=device)


def training(config: BaseConfig | MetaConfig, folder: Path, device: str) -> Iterator[EpochResult]:
    """A real one."""
    frames = data(folder, device)
    if isinstance(config, BaseConfig):
        return base_trial.BaseTrial(data=frames)(config.to_params(), None)
    there = frames.prepare()
    classes = len(frames.dataset().spec.classes)

    def predictions(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, MEMBERS, classes, *config.size), dtype=torch.uint8)

    def batches(epoch: int) -> Iterator[Batch]:
        for _ in range(STEPS):
            labels = torch.randint(0, classes, (BATCH, *config.size), dtype=torch.uint8)
            yield Batch((predictions(BATCH),), labels)

    def score(model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            return {"score": model(predictions(SCORED).to(there)).log_softmax(1).mean().item()}

    return train_epochs(
        model=build_fusion(config, MEMBERS, classes),
        config=config,
        loss=SegmentationLoss(torch.ones(classes)),
        batches=batches,
        steps=STEPS,
        score=score,
        device=there,
        resume=None,
    )


if __name__ == "__main__":
    main("quick" in sys.argv[1:], "cuda" if "gpu" in sys.argv[1:] else "cpu")
