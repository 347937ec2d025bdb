"""The files of a data set: images and masks, paired by name."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.ensemble.dataset_spec import SPEC_FILE, DatasetSpec
from ensemble_tune.ensemble.fault import Fault, faults_of
from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.ensemble.pixels import FILE_SUFFIXES, usable
from ensemble_tune.ensemble.pool import Pool, draw, read_list
from ensemble_tune.errors import DataError

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
    if spec.pool is not None:
        splits, faults = _divided(root, spec, spec.pool)
    else:
        splits, faults = {}, []
        for split, folders in spec.splits.items():
            splits[split], own = _paired(root, spec, split, folders)
            faults += own
    faults += _doubles("a frame name must stand in one split only", splits, lambda frame: frame.name)
    if spec.whole:
        rule = f'a group must stand in one split only; groups = "blocks" in {root / SPEC_FILE} lets splits divide it'
        faults += _doubles(rule, splits, lambda frame: frame.sequence)
    return splits, faults


def _divided(root: Path, spec: DatasetSpec, pool: Pool) -> tuple[dict[str, tuple[Frame, ...]], list[Fault]]:
    """The frames of one folder, by lists of names or by lot."""
    folders = (pool.images, pool.masks)
    faults: list[Fault] = []
    listed: dict[str, list[str]] = {}
    for split, file in pool.lists.items():
        try:
            listed[split] = read_list(root / file)
        except DataError as error:
            faults.append(Fault(str(error)))
            continue
        if not listed[split]:
            faults.append(Fault(f"{split} is empty: {root / file} lists no frame"))
        repeated = {name for name, count in Counter(listed[split]).items() if count > 1}
        faults += faults_of(f"{root / file} must list a frame once", repeated)
    wanted = {name for names in listed.values() for name in names} if pool.lists else None
    frames, own = _paired(root, spec, "the data set", folders, wanted)
    faults += own
    if wanted is not None:
        found = {frame.name: frame for frame in frames}
        ordered = {split: sorted(set(names), key=natural_order) for split, names in listed.items()}
        return {s: tuple(found[name] for name in names if name in found) for s, names in ordered.items()}, faults
    try:
        rows = draw([frame.sequence for frame in frames], pool.shares, pool.seed)
    except DataError as error:
        return {"train": frames}, [*faults, Fault(str(error))]
    return {split: tuple(frames[row] for row in own_rows) for split, own_rows in rows.items()}, faults


def _paired(
    root: Path, spec: DatasetSpec, what: str, folders: tuple[str, str], wanted: Set[str] | None = None
) -> tuple[tuple[Frame, ...], list[Fault]]:
    """The frames of a folder of images and a folder of masks. wanted: those that count; None is all."""
    images, masks = (root / folder for folder in folders)
    missing = [folder for folder in dict.fromkeys((images, masks)) if not _is_there(folder)]
    if missing:
        return (), [Fault(f"{what} needs the folder {folder}, which is not there; {LAYOUT}") for folder in missing]
    suffix = spec.mask_suffix
    image_paths, mask_paths = (_files(folder) for folder in (images, masks))
    if suffix and images == masks:
        image_paths = [path for path in image_paths if not path.stem.endswith(suffix)]
    image_files, doubled_images = _by_name(images, usable(image_paths))
    named = [path for path in usable(mask_paths) if path.stem.endswith(suffix)]
    mask_files, doubled_masks = _by_name(masks, [path for path in named if path.suffix.lower() == ".png"], suffix)
    faults = [*doubled_images, *doubled_masks]
    if not image_files:
        faults.append(Fault(f"{what} is empty: {images} holds no {', '.join(FILE_SUFFIXES)} files; {LAYOUT}"))
    if wanted is not None:
        faults += faults_of(f"every frame of a list needs an image in {images}", wanted - set(image_files))
        image_files = {name: file for name, file in image_files.items() if name in wanted}
        mask_files = {name: file for name, file in mask_files.items() if name in image_files}
    lacking = set(image_files) - set(mask_files)
    if images != masks or suffix:
        others = {path.name for path in named if path.stem.removesuffix(suffix) in lacking}
        faults += faults_of("a mask must be a PNG file, since JPEG changes its pixels", others)
    own = f"name with {suffix} behind it" if suffix else "name"
    faults += faults_of(f"every image in {images} needs a mask of the same {own} in {masks}", lacking)
    faults += faults_of(
        f"every mask in {masks} needs an image of the same name in {images}", set(mask_files) - set(image_files)
    )
    try:
        sequences = {name: spec.sequence_of(name) for name in image_files}
    except DataError as error:
        return (), [*faults, Fault(str(error))]
    faults += faults_of(
        f"every frame name must match the sequence pattern {spec.sequence!r}; "
        f'write your own, or groups = "none" for independent frames, into {root / SPEC_FILE}',
        [name for name, sequence in sequences.items() if sequence is None],
    )
    paired = sorted(set(image_files) & set(mask_files), key=natural_order)
    return tuple(Frame(name, sequences[name] or name, image_files[name], mask_files[name]) for name in paired), faults


def _files(folder: Path) -> list[Path]:
    """In order; a folder's own list says what is a file, so that none is looked at."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_file())


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # no folder can have such a name
        return False


def _by_name(folder: Path, paths: Sequence[Path], suffix: str = "") -> tuple[dict[str, Path], list[Fault]]:
    """Files by name without ending and suffix."""
    found: dict[str, Path] = {}
    doubles = []
    for path in paths:
        name = path.stem.removesuffix(suffix)
        if name in found:
            doubles.append(path.name)
        found[name] = path
    return found, faults_of(f"names in {folder} must differ in more than their ending", doubles)


def _doubles(rule: str, splits: Mapping[str, Sequence[Frame]], key: Callable[[Frame], str]) -> list[Fault]:
    """The rule as a fault where anything stands in two splits."""
    seen: dict[str, set[str]] = defaultdict(set)
    for split, frames in splits.items():
        for frame in frames:
            seen[key(frame)].add(split)
    ordered = {name: [split for split in splits if split in where] for name, where in seen.items()}
    return faults_of(rule, [f"{name} ({' and '.join(where)})" for name, where in ordered.items() if len(where) > 1])
