"""`segment`: a trained ensemble on new images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ensemble_tune.ensemble.overlay import write_mask, write_overlay
from ensemble_tune.ensemble.pixels import FILE_SUFFIXES, is_image, read_pixels
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.segmented import Segmented
from ensemble_tune.storage import Location, location, make_folder
from ensemble_tune.waits import tracked


def segment_images(
    ensemble: str | Location, images: str | Path, out: str | Path, *, cpu: bool = False, overlays: bool = False
) -> Iterator[Path]:
    """Writes a mask of class indices for every image, at its own size; yields each mask's path.

    ensemble: a run, or what `train` wrote to, here or in an object store. images: a folder or one image; sizes may
    differ, since each is brought to the ensemble's working size and its logits back. Where the data set has tiles, a
    larger image is seen tile by tile, so that what networks need is bounded, and the answers are blended where tiles
    overlap. overlays: a picture to look at beside each mask. What this ensemble has made of the same images before, in
    `out`, is not made again. Raises DataError for images that cannot be read, at the end, when all others have their
    masks; RunError or ConfigError for an ensemble that cannot be read, or an `out` of no use.
    """
    for place, name in ((images, "images"), (out, "--out")):
        if not isinstance(location(place), Path):
            raise ConfigError(
                f"{name} must be on this machine's disk, but got {place}; only the ensemble may be elsewhere"
            )
    images, out = Path(images), Path(out)
    model = load_ensemble(ensemble)
    paths = _images(images)
    if out.resolve() == paths[0].parent.resolve():
        raise ConfigError(f"masks would replace the images in {out}, or mix with them; choose another --out")
    make_folder(out)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    model.to(device)
    kind = model.manifest.images
    before = Segmented(out, model)
    broken: list[DataError] = []
    for path in tracked(paths, "segmenting", len(paths)):
        target, picture = out / f"{path.stem}.png", out / "overlays" / f"{path.stem}.jpg"
        made = [target, picture] if overlays else [target]
        if before.holds(path, made):
            yield target
            continue
        try:
            image = read_pixels(kind, path)
        except DataError as error:
            broken.append(error)
            continue
        labels = model.labels(image)
        write_mask(target, labels)
        if overlays:
            write_overlay(picture, kind.shown(image), labels, model.manifest.classes, None)
        before.add(path, made)
        yield target
    if broken:
        rest = f", and {len(broken) - 1} others cannot be read" if len(broken) > 1 else ""
        there = f"{len(paths) - len(broken)} of {len(paths)} images have their masks in {out}"
        raise DataError(f"{broken[0]}{rest}; {there}")


def _images(images: Path) -> list[Path]:
    """The images to segment, by name. Raises DataError where there is none, or where two would share a mask."""
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise DataError(f"images are a folder or a file, but nothing is at {images}; check the path")
    found = [path for path in sorted(images.iterdir()) if is_image(path)]
    if not found:
        raise DataError(f"no image is in {images}; its files must end in {', '.join(FILE_SUFFIXES)}")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise DataError(f"{stems[path.stem].name} and {path.name} would share one mask; rename one of them")
        stems[path.stem] = path
    return found
