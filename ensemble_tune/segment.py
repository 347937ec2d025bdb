"""`segment`: a trained ensemble on new images."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ensemble_tune.ensemble.blend import tiled_labels
from ensemble_tune.ensemble.disk_cache import default_cache
from ensemble_tune.ensemble.image_file import Deep, resized
from ensemble_tune.ensemble.overlay import write_mask, write_overlay
from ensemble_tune.ensemble.pixels import FILE_SUFFIXES, read_pixels, usable
from ensemble_tune.ensemble.scoring import logits_at
from ensemble_tune.ensemble.stage_data import as_images
from ensemble_tune.ensemble.tiles import Tiles
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.storage import Location, location, make_folder, write_bytes
from ensemble_tune.waits import tracked


def segment_images(
    ensemble: str | Location, images: str | Path, out: str | Path, *, cpu: bool = False, overlays: bool = False
) -> Iterator[Path]:
    """Writes a mask of class indices for every image, at its own size; yields each mask's path.

    ensemble: a run, or what `train` wrote to, here or in an object store. images: a folder or one image; sizes may
    differ, since each is brought to the ensemble's working size and its logits back. Where the data set has tiles, a
    larger image is seen tile by tile, so that what networks need is bounded, and the answers are blended where tiles
    overlap. overlays: a picture to look at beside each mask. What this ensemble has written into `out` before is not
    made again, unless the image is newer. Raises DataError for images that cannot be read, at the end, when all others
    have their masks; RunError or ConfigError for an ensemble that cannot be read, or an `out` of no use.
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

    since = _since(out, model)
    broken: list[DataError] = []
    for path in tracked(paths, "segmenting", len(paths)):
        target, picture = out / f"{path.stem}.png", out / "overlays" / f"{path.stem}.jpg"
        if all(_is_newer(file, since, path) for file in (target, *([picture] if overlays else []))):
            yield target
            continue
        try:
            image = read_pixels(kind, path)
        except DataError as error:
            broken.append(error)
            continue
        labels = tiled_labels(logits_of, image, tiles or Tiles(size=image.shape[:2], overlap=0))
        if overlays:
            write_overlay(picture, kind.shown(image), labels, model.manifest.classes, None)
        write_mask(target, labels)
        yield target
    if broken:
        rest = f", and {len(broken) - 1} others cannot be read" if len(broken) > 1 else ""
        there = f"{len(paths) - len(broken)} of {len(paths)} images have their masks in {out}"
        raise DataError(f"{broken[0]}{rest}; {there}")


def _since(out: Path, model: TrainedEnsemble) -> Path:
    """A file that was written when this very ensemble, with these weights, began to segment into `out`.

    It is not in there: whoever lists masks shall find masks alone.
    """
    weights = 0
    for tensor in model.state_dict().values():
        weights = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), weights)
    own = json.dumps({"ensemble": model.manifest.digest(), "weights": weights})
    stamp = default_cache() / "segmented" / f"{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}.json"
    try:
        known = stamp.read_text(encoding="utf-8") == own
    except (OSError, ValueError):
        known = False
    if not known:
        with suppress(OSError):  # where no cache can be kept, all is segmented again
            stamp.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(stamp, own.encode())
    return stamp


def _is_newer(file: Path, *others: Path) -> bool:
    try:
        return all(file.stat().st_mtime_ns >= other.stat().st_mtime_ns for other in others)
    except OSError:
        return False


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
