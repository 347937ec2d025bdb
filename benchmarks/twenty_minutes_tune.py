"""The peer of `twenty_minutes.py`: what a careful user writes without the project, by Ray's and Optuna's own docs.

python benchmarks/twenty_minutes_tune.py CAMVID [--minutes 20] [--size 120x160] [--seed 0]

Ray Tune, OptunaSearch and ASHAScheduler under a wall-clock budget, over single models: architectures, encoder, learning
rates and batch sizes of search_spaces/base-small.toml, two trials of one core and a process each. A usual loader (each
item decoded from PNG, resized and augmented by albumentations), float32, AdamW on one cycle, cross-entropy with ENet's
class weights. Of each trial the weights of its best epoch on val are kept; within the same minutes the best three are
averaged, and measured at the frames' full size. Of the project it uses the measure alone, so that both are measured
alike; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import ray
import segmentation_models_pytorch as smp
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ensemble_tune.ensemble.metrics import Confusion
from ensemble_tune.ensemble.scoring import labels_at

CLASSES = tuple(str(label) for label in range(11))
SMALL = ("2", "6", "9", "10")
"""Poles, signs, pedestrians and bicyclists."""
UNLABELLED = 11
SPACE = {
    "architecture": tune.choice(["unet", "unetplusplus", "deeplabv3plus"]),
    "learning_rate": tune.loguniform(5e-4, 5e-3),
    "batch_size": 4,
}
GRACE, FACTOR, AVERAGED = 3, 3, 3
WEIGHTS = "model.pth"


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """A split's images (3, h, w) and masks (h, w), decoded whenever they are asked for."""

    def __init__(self, root: str, split: str, size: Sequence[int], *, augmented: bool) -> None:
        self.images, self.masks = (sorted((Path(root) / f"{split}{kind}").glob("*.png")) for kind in ("", "annot"))
        varied = [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.8, 1.2), rotate=(-10, 10), translate_percent=(-0.05, 0.05), p=0.5, fill_mask=UNLABELLED),
            A.RandomBrightnessContrast(p=0.3),
        ]
        self.transform = A.Compose([A.Resize(*size), *(varied if augmented else []), A.Normalize()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_COLOR_RGB)
        made = self.transform(image=image, mask=self.truth(index))
        return torch.from_numpy(made["image"].transpose(2, 0, 1)), torch.from_numpy(made["mask"]).long()

    def truth(self, index: int) -> np.ndarray[Any, Any]:
        """The mask as it lies on the disk."""
        return np.asarray(cv2.imread(str(self.masks[index]), cv2.IMREAD_GRAYSCALE))


def build(architecture: str) -> nn.Module:
    network: nn.Module = smp.create_model(architecture, "mobilenet_v2", encoder_weights=None, classes=len(CLASSES))
    return network


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, h, w) to (B, C, h, w); the networks want sides that are multiples of 32."""
    height, width = images.shape[-2:]
    logits: Tensor = network(F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate"))
    return logits[..., :height, :width]


def enet_weights(data: CamVid) -> Tensor:
    """1 / ln(1.02 + share of the class), Paszke 2016."""
    counts = np.sum([np.bincount(data.truth(i).ravel(), minlength=12)[:11] for i in range(len(data))], axis=0)
    return torch.tensor(1 / np.log(1.02 + counts / counts.sum()), dtype=torch.float32)


def train(config: dict[str, Any], *, root: str, size: Sequence[int], epochs: int, seed: int, weights: Tensor) -> None:
    """A trial: reports val mIoU after every epoch, with the weights where it is the best so far."""
    torch.manual_seed(seed)
    cv2.setNumThreads(1)
    training = DataLoader(
        CamVid(root, "train", size, augmented=True), config["batch_size"], shuffle=True, drop_last=True
    )
    val = DataLoader(CamVid(root, "val", size, augmented=False), 8)
    network = build(config["architecture"])
    loss = nn.CrossEntropyLoss(weights, ignore_index=UNLABELLED)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config["learning_rate"], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config["learning_rate"], epochs=epochs, steps_per_epoch=len(training)
    )
    best = -1.0
    for _ in range(epochs):
        network.train()
        for images, labels in training:
            optimiser.zero_grad()
            loss(logits_of(network, images), labels).backward()
            optimiser.step()
            schedule.step()
        network.eval()
        confusion = Confusion(len(CLASSES))
        with torch.inference_mode():
            for images, labels in val:
                confusion.add(logits_of(network, images).argmax(1), labels.to(torch.uint8))
        miou = confusion.scores(CLASSES, SMALL)["miou"]
        if miou <= best:
            tune.report({"miou": miou, "best_miou": best})
            continue
        best = miou
        with tempfile.TemporaryDirectory() as folder:
            torch.save(network.state_dict(), Path(folder) / WEIGHTS)
            tune.report({"miou": miou, "best_miou": best}, checkpoint=tune.Checkpoint.from_directory(folder))


def measure(networks: Sequence[nn.Module], data: CamVid) -> list[dict[str, float]]:
    """Scores at full size of the first network, and of the mean of all."""
    confusions = [Confusion(len(CLASSES)) for _ in range(2)]
    with torch.inference_mode():
        for index in range(len(data)):
            truth = torch.from_numpy(data.truth(index))
            image = data[index][0][None]
            own = [logits_of(network, image)[0] for network in networks]
            mean = torch.stack([logits.softmax(0) for logits in own]).mean(0).clamp(min=1e-6).log()
            for confusion, logits in zip(confusions, (own[0], mean), strict=True):
                confusion.add(labels_at(logits, truth.shape), truth)
    return [confusion.scores(CLASSES, SMALL) for confusion in confusions]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one trial came to."""

    architecture: str
    epochs: int
    miou: float
    """On val, of its best epoch."""
    weights: Path
    """Those of that epoch."""


def search(trial: Callable[..., None], seconds: float, epochs: int, seed: int, out: str) -> list[Found]:
    """As many trials as the seconds allow, the best first; without those that ended no epoch."""
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=OptunaSearch(seed=seed),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=min(GRACE, epochs), reduction_factor=FACTOR),
            num_samples=-1,
            max_concurrent_trials=2,
            time_budget_s=seconds,
        ),
        run_config=tune.RunConfig(storage_path=out, verbose=0, checkpoint_config=tune.CheckpointConfig(num_to_keep=1)),
    )
    found = [
        Found(
            architecture=result.config["architecture"],
            epochs=result.metrics["training_iteration"],
            miou=result.metrics["best_miou"],
            weights=Path(result.checkpoint.path) / WEIGHTS,
        )
        for result in tuner.fit()  # type: ignore[attr-defined]  # it goes by number, as a list does
        if result.checkpoint is not None
    ]
    return sorted(found, key=lambda own: own.miou, reverse=True)


def loaded(found: Found) -> nn.Module:
    """A trial's network as it was after its best epoch."""
    network = build(found.architecture)
    network.load_state_dict(torch.load(found.weights, weights_only=True))
    return network.eval()


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("camvid")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--size", default="120x160", help="working height and width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30, help="of a trial that is not stopped early")
    parser.add_argument("--reserve", type=float, default=40.0, help="seconds of the budget that are left to measure")
    given = parser.parse_args()
    root, size = str(Path(given.camvid).absolute()), [int(side) for side in given.size.split("x")]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as out:
        weights = enet_weights(CamVid(root, "train", size, augmented=False))
        trial = tune.with_parameters(train, root=root, size=size, epochs=given.epochs, seed=given.seed, weights=weights)
        seconds = 60 * given.minutes - given.reserve - (time.perf_counter() - started)
        found = search(trial, seconds, given.epochs, given.seed, out)
        if not found:
            raise SystemExit("no trial ended an epoch; give it more minutes")
        networks = [loaded(own) for own in found[:AVERAGED]]
    told: dict[str, Any] = {
        "minutes": 0.0,
        "trials": len(found),
        "epochs": sum(own.epochs for own in found),
        "averaged": [own.architecture for own in found[:AVERAGED]],
    }
    for split in ("val", "test"):
        scored = measure(networks, CamVid(root, split, size, augmented=False))
        for name, scores in zip(("single", "three"), scored, strict=True):
            told |= {f"{name}_{split}": scores["miou"], f"{name}_{split}_small": scores["small_miou"]}
    told["minutes"] = (time.perf_counter() - started) / 60
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in told.items()}))


if __name__ == "__main__":
    main()
