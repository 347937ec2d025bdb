"""Members of a trained ensemble as folders of segmentation_models_pytorch (smp), each of which smp opens on its own.

    TO/1-unet-resnet34/model.safetensors               the weights, by smp's own names
    TO/1-unet-resnet34/config.json                     what smp builds the network from
    TO/1-unet-resnet34/albumentations_config_eval.json  what an image goes through before
    TO/1-unet-resnet34/README.md                       the classes, and how it is used

A member that its fold models stand for has a folder for each of them: 1-unet-resnet34-fold-1, ...
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import albumentations as A
import cv2
import segmentation_models_pytorch as smp

from ensemble_tune.ensemble.base_model import STRIDE, BaseModel
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble, models_of
from ensemble_tune.storage import Location

_FILES = {"model.safetensors", "config.json", "albumentations_config_eval.json", "README.md"}
_OURS = "trained by ensemble_tune"
_CARD = """# {architecture} with {encoder}

A base model of an ensemble, {ours}. It works at {height}x{width} pixels. Its classes, in the order of
its channels: {classes}.

```python
import albumentations as A
import segmentation_models_pytorch as smp
import torch

network = smp.from_pretrained("FOLDER").eval()
prepare = A.Compose.from_pretrained("FOLDER")
pixels = prepare(image=image)["image"]  # image: (H, W, {channels}) {pixels}, {which}
with torch.inference_mode():
    logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[..., :{height}, :{width}]
```
"""


def write_smp(ensemble: TrainedEnsemble, folder: Path) -> tuple[str, ...]:
    """Writes a folder for each model of each member into `folder`; returns their names."""
    names = []
    manifest = ensemble.manifest
    for place, (base, models) in enumerate(zip(manifest.bases, ensemble.members, strict=True), start=1):
        for fold, model in zip(models_of(manifest), models.children(), strict=True):
            name = f"{place}-{base.architecture}-{base.encoder}" + (f"-fold-{fold}" if fold else "")
            _write(cast(BaseModel, model), base, manifest, folder / name)
            names.append(name)
    return tuple(names)


def is_smp(folder: Location) -> bool:
    """Whether `write_smp` wrote this folder of one model, and nobody has put anything else into it."""
    if not folder.is_dir() or {each.name for each in folder.iterdir()} != _FILES:
        return False
    return _OURS.encode() in (folder / "README.md").read_bytes()


def _which(manifest: EnsembleManifest) -> str:
    """Which images are brought to the working size as they were in training."""
    if manifest.tiles is not None:
        height, width = manifest.tiles.size
        return f"a tile of {height}x{width} pixels; larger images were cut into such"
    return "no smaller than the working size; grow others to it first, with cv2.INTER_LINEAR"


def _write(model: BaseModel, base: BaseConfig, manifest: EnsembleManifest, folder: Path) -> None:
    height, width = base.size
    images = manifest.images
    folder.mkdir()
    # Before smp's own card, which would put the weights under a licence that nobody chose.
    card = _CARD.format(
        ours=_OURS,
        architecture=base.architecture,
        encoder=base.encoder,
        classes=", ".join(manifest.classes),
        height=height,
        width=width,
        channels=images.channels,
        pixels=f"uint{images.bits}{' RGB' if images.channels == 3 else ''}",
        which=_which(manifest),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    cast(smp.base.SegmentationModel, model.network).save_pretrained(folder)
    mean, std = model.normalise.mean_and_std()
    prepare = A.Compose(
        [
            A.Resize(height, width, interpolation=cv2.INTER_AREA),
            A.Pad((0, 0, -width % STRIDE, -height % STRIDE), border_mode=cv2.BORDER_REPLICATE),
            A.Normalize(mean, std, max_pixel_value=1.0),
        ]
    )
    prepare.save_pretrained(folder)
