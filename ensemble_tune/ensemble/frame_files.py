"""The files of a data set: images and masks, paired by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.ensemble.dataset_spec import SPEC_FILE, DatasetSpec
from ensemble_tune.ensemble.fault import Fault, faults_of
from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.ensemble.image_file import IMAGE_SUFFIXES

LAYOUT = (
    f"a data set is a folder with train/ (images) and trainannot/ (masks), or with a {SPEC_FILE} that names its own"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image with its mask."""

    name: str
    """The file name without its ending; unique in the data set."""
    sequence: str
    image: Path
    mask: Path


Splits = Mapping[str, tuple[Frame, ...]]


def find_frames(root: Path, spec: DatasetSpec) -> tuple[dict[str, tuple[Frame, ...]], list[Fault]]:
    """The frames by split, each split sorted by name, and what is wrong; a frame that lacks a file is left out."""
    faults: list[Fault] = []
    splits = {}
    for split, folders in spec.splits.items():
        splits[split], own = _paired(root, spec, split, folders)
        faults += own
    return splits, [*faults, *_doubles(splits)]


def _paired(
    root: Path, spec: DatasetSpec, what: str, folders: tuple[str, str]
) -> tuple[tuple[Frame, ...], list[Fault]]:
    """The frames of a folder of images and a folder of masks."""
    images, masks = (root / folder for folder in folders)
    missing = [folder for folder in (images, masks) if not folder.is_dir()]
    if missing:
        return (), [Fault(f"{what} needs the folder {folder}, which is not there; {LAYOUT}") for folder in missing]
    image_files, doubled_images = _files(images, IMAGE_SUFFIXES)
    mask_files, doubled_masks = _files(masks, (".png",))
    faults = [*doubled_images, *doubled_masks]
    if spec.mask_suffix:
        if images == masks:
            image_files = {name: file for name, file in image_files.items() if not name.endswith(spec.mask_suffix)}
        mask_files = {
            name.removesuffix(spec.mask_suffix): file
            for name, file in mask_files.items()
            if name.endswith(spec.mask_suffix)
        }
    if not image_files:
        faults.append(Fault(f"{what} is empty: {images} holds no {', '.join(IMAGE_SUFFIXES)} files; {LAYOUT}"))
    own = f"name with {spec.mask_suffix} behind it" if spec.mask_suffix else "name"
    faults += faults_of(
        f"every image in {images} needs a mask of the same {own} in {masks}, a PNG file",
        set(image_files) - set(mask_files),
    )
    faults += faults_of(
        f"every mask in {masks} needs an image of the same name in {images}", set(mask_files) - set(image_files)
    )
    sequences = {name: spec.sequence_of(name) for name in image_files}
    faults += faults_of(
        f"every frame name must match the sequence pattern {spec.sequence!r}; "
        f'write your own, or groups = "none" for independent frames, into {root / SPEC_FILE}',
        [name for name, sequence in sequences.items() if sequence is None],
    )
    paired = sorted(set(image_files) & set(mask_files), key=natural_order)
    return tuple(Frame(name, sequences[name] or name, image_files[name], mask_files[name]) for name in paired), faults


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Fault]]:
    """The folder's files of these endings by name without ending; hidden files are not data."""
    found: dict[str, Path] = {}
    doubles = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            if path.stem in found:
                doubles.append(path.name)
            found[path.stem] = path
    return found, faults_of(f"names in {folder} must differ in more than their ending", doubles)


def _doubles(splits: Mapping[str, Sequence[Frame]]) -> list[Fault]:
    seen: dict[str, list[str]] = defaultdict(list)
    for split, frames in splits.items():
        for frame in frames:
            seen[frame.name].append(split)
    doubles = [f"{name} ({' and '.join(where)})" for name, where in seen.items() if len(where) > 1]
    return faults_of("a frame name must stand in one split only", doubles)
