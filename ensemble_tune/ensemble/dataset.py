"""A data set: frames and their masks, paired by name and checked before anything is trained on them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ensemble_tune.ensemble.dataset_spec import SPEC_FILE, DatasetSpec
from ensemble_tune.ensemble.disk_cache import DEFAULT_LIMIT
from ensemble_tune.ensemble.fetched_once import fetched_data
from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.ensemble.image_file import IMAGE_SUFFIXES, decode_image, decode_mask, read_bytes
from ensemble_tune.ensemble.split import Split, hold_out
from ensemble_tune.ensemble.synthetic import synthetic_folder
from ensemble_tune.errors import DataError
from ensemble_tune.storage import Location, location, named_as, write_text
from ensemble_tune.waits import tracked

__all__ = ["Dataset", "DatasetSpec", "Frame", "open_dataset"]

_LAYOUT = (
    f"a data set is a folder with train/ (images) and trainannot/ (masks), or with a {SPEC_FILE} that names its own"
)
_READERS = 4
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One image with its mask."""

    name: str
    """The file name without its ending; unique in the data set."""
    sequence: str
    image: Path
    mask: Path


@dataclass(frozen=True, slots=True)
class Dataset:
    """A checked data set. It has train and val, and test where the folder has one."""

    spec: DatasetSpec
    root: Path
    splits: Mapping[str, tuple[Frame, ...]]
    """Frames by split, sorted by name with numbers in numeric order; in blocks there is `gap` too, which is no split:
    frames that are left out while val is held out."""
    digest: str
    """16 hex digits that name its content: names, bytes of images and masks, and what the labels mean; in blocks with
    that word behind them."""

    @property
    def has_test(self) -> bool:
        """Whether there are test frames."""
        return "test" in self.splits

    def in_blocks(self) -> Dataset:
        """The same frames with train and val pooled, and a block of every sequence as val; test stays as it is."""
        pooled = sorted((*self.splits["train"], *self.splits["val"]), key=lambda frame: natural_order(frame.name))
        parts = _parts(pooled, "blocks")
        return replace(self, splits={**self.splits, **parts}, digest=f"{self.digest}-blocks")


def open_dataset(data: str | Location, cache: Path, limit: int = DEFAULT_LIMIT) -> Dataset:
    """Opens and checks a data set. Raises DataError, one line that names the broken rule and lists the offenders.

    data: a folder, one in an object store, or the word synthetic (synthetic:SEED) for built-in street scenes;
    ./synthetic is a folder. cache: a local folder that remembers the check of an unchanged folder and keeps the
    built-in scenes, and the files of an object store, of which `limit` bytes.

    Without a val split, the last fifth of each training sequence is held out as val: neighbouring frames are
    near-duplicates, so a random fifth would leak. Of independent frames every fifth is held out.
    """
    word, _, seed = str(data).partition(":")
    if word == "synthetic":
        if seed and not seed.isdecimal():
            raise DataError(f"the seed of synthetic must be a whole number, but got {seed!r}; try synthetic:1")
        data = synthetic_folder(cache, int(seed or 0))
    place = location(data)
    root = place if isinstance(place, Path) else fetched_data(place, cache, limit)
    with named_as(place, root):
        return _opened(root, cache)


def _opened(root: Path, cache: Path) -> Dataset:
    """The data set in a local folder. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"no folder is at {root}; {_LAYOUT}")
    spec = DatasetSpec.load(root)
    splits = {split: _pair(root, spec, split) for split in spec.splits}
    _refuse_doubles(splits)
    digest = _checked_digest(root, spec, splits, cache)
    if "val" not in splits:
        if len(splits["train"]) < 2:
            raise DataError("train holds a single frame and there is no val split; add frames")
        parts = _parts(splits["train"], "official")
        splits |= {name: parts[name] for name in ("train", "val")}
    return Dataset(spec=spec, root=root, splits=splits, digest=digest)


def _pair(root: Path, spec: DatasetSpec, split: str) -> tuple[Frame, ...]:
    """A split's frames, image and mask paired by name. Raises DataError."""
    images, masks = (root / folder for folder in spec.splits[split])
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{split} needs the folder {folder}, which is not there; {_LAYOUT}")
    image_files, mask_files = _files(images, IMAGE_SUFFIXES), _files(masks, (".png",))
    if not image_files:
        raise DataError(f"{split} is empty: {images} holds no {', '.join(IMAGE_SUFFIXES)} files; {_LAYOUT}")
    _refuse(f"every image in {images} needs a mask of the same name in {masks}", set(image_files) - set(mask_files))
    _refuse(f"every mask in {masks} needs an image of the same name in {images}", set(mask_files) - set(image_files))
    sequences = {name: spec.sequence_of(name) for name in image_files}
    _refuse(
        f"every frame name must match the sequence pattern {spec.sequence!r}; "
        f'write your own, or groups = "none" for independent frames, into {root / SPEC_FILE}',
        [name for name, sequence in sequences.items() if sequence is None],
    )
    ordered = sorted(image_files, key=natural_order)
    return tuple(Frame(name, sequences[name] or name, image_files[name], mask_files[name]) for name in ordered)


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The folder's files of these endings by name without ending; hidden files are not data. Raises DataError."""
    found: dict[str, Path] = {}
    doubles = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            if path.stem in found:
                doubles.append(path.name)
            found[path.stem] = path
    _refuse(f"names in {folder} must differ in more than their ending", doubles)
    return found


def _refuse_doubles(splits: Mapping[str, Sequence[Frame]]) -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    for split, frames in splits.items():
        for frame in frames:
            seen[frame.name].append(split)
    doubles = [f"{name} ({' and '.join(where)})" for name, where in seen.items() if len(where) > 1]
    _refuse("a frame name must stand in one split only", doubles)


def _refuse(rule: str, offenders: Sequence[str] | set[str]) -> None:
    """Raises DataError with the rule, the first offenders and their number, if there is any."""
    if offenders:
        shown = ", ".join(sorted(offenders, key=natural_order)[:_SHOWN])
        more = ", ..." if len(offenders) > _SHOWN else ""
        raise DataError(f"{rule}; {len(offenders)} break{'s' if len(offenders) == 1 else ''} this: {shown}{more}")


def _parts(frames: Sequence[Frame], split: Split) -> dict[str, tuple[Frame, ...]]:
    """The frames as train, val and gap."""
    held = hold_out([frame.name for frame in frames], [frame.sequence for frame in frames], split)
    rows = {"train": held.train, "val": held.val, "gap": held.gap}
    return {name: tuple(frames[row] for row in own) for name, own in rows.items()}


def _checked_digest(root: Path, spec: DatasetSpec, splits: Mapping[str, Sequence[Frame]], cache: Path) -> str:
    """The content digest of a data set whose every file was decoded and fits; reads an unchanged folder once only."""
    paths = [path for frames in splits.values() for frame in frames for path in (frame.image, frame.mask)]
    stats = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    fingerprint = _digest([str(root.resolve()), stats, spec.to_json()])
    memo = cache / "checked" / f"{fingerprint}.json"
    digest = _remembered(memo)
    if digest is None:
        digest = _digest([spec.to_json(), {split: _check(spec, frames) for split, frames in splits.items()}])
        write_text(memo, json.dumps({"digest": digest}))
    return digest


def _remembered(memo: Path) -> str | None:
    """The digest in a memo; None where there is none, or it is damaged."""
    try:
        digest = json.loads(memo.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{16}", digest) else None


def _check(spec: DatasetSpec, frames: Sequence[Frame]) -> list[tuple[str, str, str]]:
    """Name, image hash and mask hash of each frame, once all their pixels are found sound. Raises DataError."""
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda frame: _check_frame(spec, frame), frames)
        checked = list(tracked(found, "checking the data set", len(frames)))
    broken: dict[str, list[str]] = defaultdict(list)
    for _, breach in checked:
        if breach is not None:
            broken[breach[0]].append(breach[1])
    for rule, offenders in broken.items():
        _refuse(rule, offenders)
    return [hashes for hashes, _ in checked]


def _check_frame(spec: DatasetSpec, frame: Frame) -> tuple[tuple[str, str, str], tuple[str, str] | None]:
    """A frame's name and hashes, and the rule that it breaks, if any, with a word on how."""
    image_bytes, mask_bytes = read_bytes(frame.image), read_bytes(frame.mask)
    hashes = (frame.name, hashlib.sha256(image_bytes).hexdigest(), hashlib.sha256(mask_bytes).hexdigest())
    try:
        image = decode_image(frame.image, image_bytes)
    except DataError as error:
        return hashes, ("every image must be a whole, readable PNG or JPEG file", str(error))
    try:
        mask = decode_mask(frame.mask, mask_bytes)
    except DataError as error:
        return hashes, (
            "every mask must be a whole PNG file of one channel of 8 bits, its pixels the labels",
            str(error),
        )
    if image.shape[:2] != mask.shape:
        sizes = " and ".join(f"{height}x{width}" for height, width in (image.shape[:2], mask.shape))
        return hashes, ("an image and its mask must have the same size", f"{frame.name} ({sizes})")
    last = len(spec.classes) - 1
    foreign = [int(label) for label in np.unique(mask) if label > last and label != spec.ignored]
    if foreign:
        unlabelled = "" if spec.ignored is None else f", or {spec.ignored} for unlabelled"
        return hashes, (f"labels must be 0..{last}{unlabelled}", f"{frame.name} ({', '.join(map(str, foreign[:3]))})")
    return hashes, None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
