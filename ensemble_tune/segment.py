"""`segment`: a trained ensemble on new images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ensemble_tune.ensemble.blend import tiled_labels
from ensemble_tune.ensemble.image_file import Deep, resized
from ensemble_tune.ensemble.overlay import write_mask, write_overlay
from ensemble_tune.ensemble.pixels import FILE_SUFFIXES, read_pixels, usable
from ensemble_tune.ensemble.scoring import logits_at
from ensemble_tune.ensemble.stage_data import as_images
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.storage import Location, location, make_folder
from ensemble_tune.waits import tracked


def segment_images(
    ensemble: str | Location, images: str | Path, out: str | Path, *, cpu: bool = False, overlays: bool = False
) -> Iterator[Path]:
    """Writes a mask of class indices for every image, at its own size; yields each mask's path.

    ensemble: a run, or what `train` wrote to, here or in an object store. images: a folder or one image; sizes may
    differ, since each is brought to the ensemble's working size and its logits back. Where the data set has tiles, a
    larger image is seen tile by tile, so that what networks need is bounded, and the answers are blended where tiles
    overlap. overlays: a picture to look at beside each mask. Raises DataError for images that cannot be read, RunError
    or ConfigError for an ensemble that cannot, or an `out` of no use.
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
    kind, tiles, size = model.manifest.images, model.manifest.tiles, model.manifest.fusion.size

    def logits_of(image: Deep) -> Tensor:
        """Logits of an image or a tile, at its own size."""
        with torch.inference_mode():
            working = as_images([resized(image, size)]).to(device)
            return logits_at(model(working)[0], image.shape[:2])

    for path in tracked(paths, "segmenting", len(paths)):
        image = read_pixels(kind, path)
        labels = tiled_labels(logits_of, image, tiles or Tiles(size=image.shape[:2], overlap=0))
        target = out / f"{path.stem}.png"
        write_mask(target, labels)
        if overlays:
            picture = out / "overlays" / f"{path.stem}.jpg"
            write_overlay(picture, kind.shown(image), labels, model.manifest.classes, None)
        yield target


def _images(images: Path) -> list[Path]:
    """The images to segment, by name. Raises DataError where there is none, or where two would share a mask."""
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise DataError(f"images are a folder or a file, but nothing is at {images}; check the path")
    found = usable(sorted(images.iterdir()))
    if not found:
        raise DataError(f"no image is in {images}; its files must end in {', '.join(FILE_SUFFIXES)}")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise DataError(f"{stems[path.stem].name} and {path.name} would share one mask; rename one of them")
        stems[path.stem] = path
    return found
