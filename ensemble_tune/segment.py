"""`segment`: a trained ensemble on new images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ensemble_tune.ensemble.image_file import IMAGE_SUFFIXES, read_image, resized
from ensemble_tune.ensemble.overlay import write_mask, write_overlay
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.stage_data import as_images
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.storage import Location, location, make_folder


def segment_images(
    ensemble: str | Location, images: str | Path, out: str | Path, *, cpu: bool = False, overlays: bool = False
) -> Iterator[Path]:
    """Writes a mask of class indices for every image, at its own size; yields each mask's path.

    ensemble: a run, or what `train` wrote to, here or in an object store. images: a folder or one image; sizes may
    differ, since each is brought to the ensemble's working size and its logits back. overlays: a picture to look at
    beside each mask. Raises DataError for images that cannot be read, RunError or ConfigError for an ensemble that
    cannot, or an `out` of no use.
    """
    for place, name in ((images, "images"), (out, "--out")):
        if not isinstance(location(place), Path):
            raise ConfigError(
                f"{name} must be on this machine's disk, but got {place}; only the ensemble may be elsewhere"
            )
    images, out = Path(images), Path(out)
    model = load_ensemble(location(ensemble))
    paths = _images(images)
    if out.resolve() == paths[0].parent.resolve():
        raise ConfigError(f"masks would replace the images in {out}, or mix with them; choose another --out")
    make_folder(out)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    model.to(device)
    for path in paths:
        image = read_image(path)
        working = resized(image, model.manifest.fusion.size)
        with torch.inference_mode():
            logits = model(as_images([working]).to(device))[0]
        labels = labels_at(logits, image.shape[:2]).to(torch.uint8).cpu().numpy()
        target = out / f"{path.stem}.png"
        write_mask(target, labels)
        if overlays:
            write_overlay(out / "overlays" / f"{path.stem}.jpg", image, labels, model.manifest.classes, None)
        yield target


def _images(images: Path) -> list[Path]:
    """The images to segment, by name. Raises DataError where there is none, or where two would share a mask."""
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise DataError(f"images are a folder or a file, but nothing is at {images}; check the path")
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"no image is in {images}; its files must end in {', '.join(IMAGE_SUFFIXES)}")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise DataError(f"{stems[path.stem].name} and {path.name} would share one mask; rename one of them")
        stems[path.stem] = path
    return found
