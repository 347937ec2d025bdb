"""Looking into every file of a data set: whether image and mask are whole, of one size, and mean what the spec says."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.fault import Fault, faults_of
from ensemble_tune.ensemble.frame_files import Frame
from ensemble_tune.ensemble.image_file import Deep, Pixels, read_bytes
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.ensemble.mask import decode_labels, label_rule, mask_file_rule
from ensemble_tune.ensemble.pixels import decode_pixels
from ensemble_tune.errors import DataError

_READERS = 4
_SIZE_RULE = "an image and its mask must have the same size"
_FOREIGN_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FrameCheck:
    """What was found in one frame's files."""

    name: str
    image_hash: str | None
    """SHA-256 of the image's file; None where it cannot be read."""
    mask_hash: str | None
    broken: tuple[tuple[str, str], ...]
    """The rules that it breaks, each with a word on how."""
    size: tuple[int, int] | None
    """Height and width in pixels; None where the image cannot be read."""
    counts: npt.NDArray[np.int64]
    """(256,) pixels of each label, IGNORED among them; zeros where the mask cannot be read."""
    moments: npt.NDArray[np.float64] | None
    """(2, C) mean of the image's pixels and of their squares; None where these are known, or it cannot be read."""

    @property
    def blank(self) -> bool:
        """Whether not a pixel is labelled."""
        return bool(self.counts.sum() == self.counts[IGNORED])


def check_frames(spec: DatasetSpec, frames: Sequence[Frame]) -> Iterator[FrameCheck]:
    """Decodes every file of the frames, in their order; one frame at a time where they may be large."""
    with ThreadPoolExecutor(_READERS if spec.tiles is None else 1) as readers:
        yield from readers.map(lambda frame: _check(spec, frame), frames)


def image_rule(images: ImageSpec) -> str:
    """What every image file must be."""
    rule = "every image must be a whole, readable PNG, JPEG or TIFF file"
    return rule if images.plain else f"{rule} of {images.channels} channels of {images.bits} bits"


def faults_in(checks: Mapping[str, Sequence[FrameCheck]]) -> list[Fault]:
    """The rules that are broken, in the order in which they are met first.

    checks: of each split. Without a labelled pixel nothing can be learned of train, and no trial of val has a score.
    """
    broken: dict[str, list[str]] = defaultdict(list)
    for check in (check for own in checks.values() for check in own):
        for rule, how in check.broken:
            broken[rule].append(how)
    faults = [fault for rule, offenders in broken.items() for fault in faults_of(rule, offenders)]
    for split in ("train", "val"):
        own = checks.get(split, ())
        if own and all(not check.broken and check.blank for check in own):
            rule = f"{split} must have labelled pixels, but not a pixel of it is labelled; check its masks"
            faults.append(Fault(rule))
    return faults


def _check(spec: DatasetSpec, frame: Frame) -> FrameCheck:
    image_hash, mask_hash = None, None
    broken: list[tuple[str, str]] = []
    image: Deep | None = None
    labels: Pixels | None = None
    foreign: tuple[str, ...] = ()
    try:
        data = read_bytes(frame.image)
        image_hash = hashlib.sha256(data).hexdigest()
        image = decode_pixels(spec.images, frame.image, data)
    except DataError as error:
        broken.append((image_rule(spec.images), str(error)))
    try:
        data = read_bytes(frame.mask)
        mask_hash = hashlib.sha256(data).hexdigest()
        labels, foreign = decode_labels(spec, frame.mask, data)
    except DataError as error:
        broken.append((mask_file_rule(spec), str(error)))
    if image is not None and labels is not None and image.shape[:2] != labels.shape:
        sizes = " and ".join(f"{height}x{width}" for height, width in (image.shape[:2], labels.shape))
        broken.append((_SIZE_RULE, f"{frame.name} ({sizes})"))
    if foreign:
        more = ", ..." if len(foreign) > _FOREIGN_SHOWN else ""
        broken.append((label_rule(spec), f"{frame.name} ({', '.join(foreign[:_FOREIGN_SHOWN])}{more})"))
    return FrameCheck(
        name=frame.name,
        image_hash=image_hash,
        mask_hash=mask_hash,
        broken=tuple(broken),
        size=None if image is None else (image.shape[0], image.shape[1]),
        moments=None if image is None or spec.images.measured else _moments(image),
        counts=np.bincount(np.empty(0, np.uint8) if labels is None else labels.ravel(), minlength=IGNORED + 1),
    )


def _moments(image: Deep) -> npt.NDArray[np.float64]:
    flat = image.reshape(-1, image.shape[2]).astype(np.float64)
    return np.stack([flat.mean(0), (flat**2).mean(0)])
