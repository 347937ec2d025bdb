"""Built-in street scenes: a data set for anyone who has none at hand, and for every test."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from ensemble_tune.ensemble.dataset_spec import CAMVID_SPLITS
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.ensemble.street_scene import StreetScene
from ensemble_tune.storage import atomic_folder
from ensemble_tune.waits import tracked

_VERSION = 1
"""Of what the scenes look like; another version is another folder."""
_WRITERS = 2


def synthetic_folder(cache: Path, seed: int) -> Path:
    """The folder of the built-in scenes of `seed`, in CamVid's layout, written into `cache` on first use."""
    folder = cache / f"synthetic-{seed}-{_VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                with atomic_folder(folder) as aside:
                    write_street_scenes(aside, seed)
    return folder


def write_street_scenes(
    folder: Path,
    seed: int,
    *,
    sequences: tuple[int, int, int] = (3, 1, 1),
    frames: int = 16,
    size: tuple[int, int] = (240, 320),
) -> None:
    """Writes street scenes of CamVid's 11 classes as PNG files, the same ones for the same arguments.

    sequences: how many each of train, val and test have. frames: in each sequence. size: height and width in pixels.
    Every sequence has a street, a light and a set of things of its own, so val and test are other streets than train.
    """
    with ThreadPoolExecutor(_WRITERS) as writers:
        for split_number, (split, folders) in enumerate(CAMVID_SPLITS.items()):
            images, masks = (folder / name for name in folders)
            images.mkdir(parents=True)
            masks.mkdir()
            for number in range(sequences[split_number]):
                scene = StreetScene(np.random.default_rng([seed, split_number, number]), size, frames)
                drawn = writers.map(scene.frame, range(frames))
                for k, (image, label) in enumerate(tracked(drawn, f"drawing street scenes for {split}", frames)):
                    name = f"{split}{number + 1}_{30 * k:05d}.png"
                    _write(images / name, image[..., ::-1])
                    _write(masks / name, label)


def _write(path: Path, pixels: Pixels) -> None:
    # Encoded here rather than by cv2.imwrite, which cannot open every path that Python can.
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
