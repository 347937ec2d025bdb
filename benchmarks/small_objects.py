"""How well small objects are learnt in equal training time: the labels' scaling and training recipes, on val.

python benchmarks/small_objects.py CAMVID [--out FOLDER] [--seeds 3] [--processes 2] [--recipes NAME ...] [--test]

First what labels at a working size can reach at most: grown back by the nearest pixel, they are scored as predictions.
Then U-Net with mobilenet_v2 from random weights, one thread a training; the seeds vary weights, order and augmentation.
Each recipe has as many epochs as fit the CPU seconds of the first one, counted over the training alone. Scores are of
val after the last epoch, at full size. FOLDER keeps finished trainings, which are not repeated. --test, once the recipe
is chosen, scores the first one and that of the defaults on test; it trains nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ensemble_tune.ensemble.ahead import ahead
from ensemble_tune.ensemble.base_model import build_base_model
from ensemble_tune.ensemble.base_trial import augmented_batches
from ensemble_tune.ensemble.config import BaseConfig, format_size
from ensemble_tune.ensemble.disk_cache import default_cache
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.ensemble.labels import scaled_labels
from ensemble_tune.ensemble.losses import SegmentationLoss, class_weights
from ensemble_tune.ensemble.metrics import Confusion
from ensemble_tune.ensemble.scoring import score_frames
from ensemble_tune.ensemble.stage_data import StageData, as_images
from ensemble_tune.ensemble.training import train_epochs
from ensemble_tune.ensemble.training_state import load_weights
from ensemble_tune.storage import write_text

TOGETHER = 8
"""Frames a forward pass when scoring."""


def nearest(truth: Pixels, size: tuple[int, int]) -> Pixels:
    """(H, W) to (h, w): the middle one of the pixels that become one."""
    return cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]


SCALINGS = {"nearest": nearest, "scaled_labels": scaled_labels}


class NearestFrames(Frames):
    """Frames whose labels at the working size are the nearest pixels."""

    def label(self, i: int) -> Pixels:
        """(h, w)."""
        return nearest(self.truth(i), self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a base model is trained."""

    config: BaseConfig
    labels: str = "scaled_labels"
    """One of SCALINGS."""


SIZE = (120, 160)
SIZES = ((60, 80), SIZE, (180, 240))
"""At which labels are scaled; trainings are of the second."""
# As the first experiment was trained: with a schedule to an end that was known, and the weights of the last step.
REFERENCE = BaseConfig(
    size=SIZE,
    epochs=20,
    batch_size=8,
    learning_rate=2e-3,
    schedule="one_cycle",
    averaging=0.0,
    jaccard_weight=0.0,
    class_weights="log",
    augmentation=0.5,
)
# Twice as many steps an epoch take more time, mostly the optimiser's: hence fewer epochs.
DEFAULTS = BaseConfig(size=SIZE, epochs=17)
CHOSEN = "and the defaults"
RECIPES = {
    "reference": Recipe(config=REFERENCE, labels="nearest"),
    "thin labels": Recipe(config=REFERENCE),
    CHOSEN: Recipe(config=DEFAULTS),
    "and median-frequency weights": Recipe(config=replace(DEFAULTS, class_weights="median")),
}
"""The first one is what the others are compared with."""


def bounds(stage: StageData, sizes: Sequence[tuple[int, int]]) -> None:
    """Prints what labels of each scaling reach."""
    print(f"{'labels grown back, val':34}{'mIoU':>8}{'small':>8}")
    frames = stage.frames("val", sizes[0])
    for size in sizes:
        for name, scale in SCALINGS.items():
            confusion = Confusion(len(frames.classes))
            for truth in (np.array(frames.truth(i)) for i in range(len(frames))):
                grown = nearest(scale(truth, size), truth.shape)
                # An unlabelled cell is no prediction; it counts as one of the first class, whatever the truth.
                grown[grown >= len(frames.classes)] = 0
                confusion.add(torch.from_numpy(grown).long(), torch.from_numpy(truth))
            scores = confusion.scores(frames.classes, frames.small)
            print(f"{format_size(size) + ' ' + name:34}{scores['miou']:8.3f}{scores['small_miou']:8.3f}")


def train(job: tuple[Path, StageData, str, int]) -> dict[str, float]:
    """The scores of one training after its last epoch, with `cpu` and `wall` seconds of training; from its file if it
    was trained before."""
    folder, stage, name, seed = job
    recipe, config, kept = _training(folder, name, seed)
    file = kept.with_suffix(".json")
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    device = stage.prepare()
    frames, val = stage.training(config.size), stage.frames("val", config.size)
    if recipe.labels == "nearest":
        frames = NearestFrames(**{field: getattr(frames, field) for field in Frames.__slots__})
    clock = Clock(config.epochs, partial(scored, frames=val, device=device))
    weights = class_weights(config.class_weights, frames.class_frequencies())
    for result in train_epochs(
        model=build_base_model(config, len(frames.classes)),
        config=config,
        loss=SegmentationLoss(weights, config.jaccard_weight),
        batches=lambda epoch: ahead(augmented_batches(config, frames, epoch)),
        steps=len(frames) // config.batch_size,
        score=clock,
        device=device,
        resume=None,
    ):
        scores = dict(result.scores)
    kept.mkdir(exist_ok=True)
    result.save(kept)
    scores["seconds"] = clock.seconds
    write_text(file, json.dumps(scores))
    return scores


def test(job: tuple[Path, StageData, str, int]) -> dict[str, float]:
    """The scores on test of a training that has ended; from their file if they were taken before."""
    folder, stage, name, seed = job
    _, config, kept = _training(folder, name, seed)
    file, trained = kept.with_suffix(".test.json"), kept.with_suffix(".json")
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    if not trained.exists() or not kept.is_dir():
        raise SystemExit(f"{name}, seed {seed}, is not trained in {folder}; run without --test first")
    device = stage.prepare()
    frames = stage.frames("test", config.size)
    model = build_base_model(config, len(frames.classes))
    load_weights(model, kept)
    scores = dict(scored(model.to(device).eval(), frames, device))
    scores["seconds"] = json.loads(trained.read_text(encoding="utf-8"))["seconds"]
    write_text(file, json.dumps(scores))
    return scores


def _training(folder: Path, name: str, seed: int) -> tuple[Recipe, BaseConfig, Path]:
    """A recipe, its config with that seed, and the folder of its weights."""
    recipe = RECIPES[name]
    config = BaseConfig.from_params({**recipe.config.to_params(), "seed": seed})
    return recipe, config, folder / f"{config.digest()}-{recipe.labels}"


def scored(model: nn.Module, frames: Frames, device: torch.device) -> Mapping[str, float]:
    def logits_of(rows: Sequence[int]) -> Tensor:
        logits: Tensor = model(as_images([frames.image(i) for i in rows]).to(device))
        return logits

    return score_frames(logits_of, frames, TOGETHER).scores


class Clock:
    """Scores after the last epoch alone, and counts this process's CPU seconds, of all threads, between scores."""

    def __init__(self, epochs: int, score: Callable[[nn.Module], Mapping[str, float]]) -> None:
        self.left, self.score = epochs, score
        self.seconds, self._since = 0.0, time.process_time()

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        """Called after every epoch."""
        self.seconds += time.process_time() - self._since
        self.left -= 1
        scores = {} if self.left else self.score(model)
        self._since = time.process_time()
        return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=default_cache() / "small_objects")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--test", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process
    options.out.mkdir(parents=True, exist_ok=True)
    stage = StageData(data=str(options.data.absolute()), cache=options.out / "cache", device="cpu")
    recipes = [next(iter(RECIPES)), CHOSEN] if options.test else options.recipes
    if not options.test:
        bounds(stage, SIZES)
    jobs = [(options.out, stage, name, seed) for seed in range(options.seeds) for name in recipes]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    work = test if options.test else train
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for (_, _, name, seed), scores in zip(jobs, pool.imap(work, jobs, chunksize=1), strict=True):
            found[name].append(scores)
            print(f"{name}, seed {seed}: {scores['miou']:.3f}, small {scores['small_miou']:.3f}", flush=True)
    show(found, stage.dataset().spec.small, "test" if options.test else "val")


def show(found: Mapping[str, Sequence[Mapping[str, float]]], small: Sequence[str], split: str) -> None:
    """Prints a line a recipe: means, standard deviations over the seeds, and means of the small classes."""
    names = [f"iou.{name}" for name in small]
    print(f"\n{split:34}{'seconds':>8}{'mIoU':>15}{'small':>15}" + "".join(f"{name:>12}" for name in small))
    for recipe, rows in found.items():
        cells = [f"{statistics.fmean(row['seconds'] for row in rows):8.0f}"]
        cells += [f"{mean_and_spread([row[name] for row in rows]):>15}" for name in ("miou", "small_miou")]
        cells += [f"{statistics.fmean(row[name] for row in rows):12.3f}" for name in names]
        print(f"{recipe:34}" + "".join(cells))
    reference, *others = found.values()
    for recipe, rows in zip(list(found)[1:], others, strict=True):
        for name in ("miou", "small_miou"):
            gaps = [ours[name] - theirs[name] for ours, theirs in zip(rows, reference, strict=True)]
            print(f"{recipe} less {next(iter(found))}, same seeds, {name}: {mean_and_spread(gaps)}")


def mean_and_spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} +- {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
