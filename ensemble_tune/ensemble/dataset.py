"""A data set: frames and their masks, paired by name and checked before anything is trained on them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble_tune.documents import Document, parse_json
from ensemble_tune.ensemble.dataset_spec import SPEC_FILE, DatasetSpec
from ensemble_tune.ensemble.disk_cache import DEFAULT_LIMIT
from ensemble_tune.ensemble.fault import Fault, refuse
from ensemble_tune.ensemble.fetched_once import fetched_data
from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.ensemble.frame_check import check_frames, faults_in
from ensemble_tune.ensemble.frame_files import LAYOUT, Frame, Splits, find_frames
from ensemble_tune.ensemble.pool import draw
from ensemble_tune.ensemble.split import HELD_OUT, Split, hold_out
from ensemble_tune.ensemble.synthetic import synthetic_folder
from ensemble_tune.errors import ConfigError, DataError
from ensemble_tune.storage import Location, location, named_as, write_text
from ensemble_tune.waits import tracked

__all__ = ["Dataset", "DatasetSpec", "Frame", "data_folder", "held_out", "open_dataset", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A checked data set. It has train and val, and test where the folder has one."""

    spec: DatasetSpec
    root: Path
    splits: Splits
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
        """The same frames with train and val pooled, and a block of every sequence as val; test stays as it is.

        Raises ConfigError where sequences are not to be cut.
        """
        if self.spec.whole:
            raise ConfigError(
                f"blocks would cut the groups of {self.root}, which stay whole; use --split official, or set "
                f'groups = "blocks" in {SPEC_FILE}'
            )
        pooled = sorted((*self.splits["train"], *self.splits["val"]), key=lambda frame: natural_order(frame.name))
        parts = _parts(pooled, "blocks")
        return replace(self, splits={**self.splits, **parts}, digest=f"{self.digest}-blocks")


def open_dataset(data: str | Location, cache: Path, limit: int = DEFAULT_LIMIT) -> Dataset:
    """Opens and checks a data set. Raises DataError, one line that names the broken rule and lists the offenders.

    data: a folder, one in an object store, or the word synthetic (synthetic:SEED) for built-in street scenes;
    ./synthetic is a folder. cache: a local folder that remembers the check of an unchanged folder and keeps the
    built-in scenes, and the files of an object store, of which `limit` bytes.

    Without a val split, the last fifth of each training sequence is held out as val: neighbouring frames are
    near-duplicates, so a random fifth would leak. Of independent frames every fifth is held out. Of groups that stay
    whole, as many are held out as hold about a fifth of the frames.
    """
    place, root = data_folder(data, cache, limit)
    with named_as(place, root):
        try:
            return _opened(root, cache)
        except DataError as error:
            if str(root) in str(error):
                raise
            raise DataError(f"{root}: {error}") from error


def data_folder(data: str | Location, cache: Path, limit: int = DEFAULT_LIMIT) -> tuple[Location, Path]:
    """Where a data set is, and the local folder that holds it: the same, or a copy in the cache. Raises DataError."""
    word, _, seed = str(data).partition(":")
    if word == "synthetic":
        if seed and not seed.isdecimal():
            raise DataError(f"the seed of synthetic must be a whole number, but got {seed!r}; try synthetic:1")
        data = synthetic_folder(cache, int(seed or 0))
    place = location(data)
    root = place if isinstance(place, Path) else fetched_data(place, cache, limit)
    if not root.is_dir():
        raise DataError(f"no folder is at {place}; {LAYOUT}")
    return place, root


def _opened(root: Path, cache: Path) -> Dataset:
    """The data set in a local folder. Raises DataError."""
    spec = DatasetSpec.load(root)
    splits, faults = find_frames(root, spec)
    refuse([*faults, *unmeasured(spec)])
    digest = _checked_digest(root, spec, splits, cache)
    if "val" not in splits:
        splits |= held_out(spec, splits["train"])
    return Dataset(spec=spec, root=root, splits=splits, digest=digest)


def unmeasured(spec: DatasetSpec, figures: str = "ensemble-tune data check DIR measures them") -> list[Fault]:
    """The fault of images of which it is not said how they are brought to the scale of a network."""
    rule = f"images of other kinds than 8-bit RGB need mean and std under [images] in {SPEC_FILE}; {figures}"
    return [] if spec.images.measured else [Fault(rule)]


def held_out(spec: DatasetSpec, frames: Sequence[Frame]) -> dict[str, tuple[Frame, ...]]:
    """Train and val of the frames of train, where there is no val. Raises DataError where they are too few."""
    if len(frames) < 2:
        raise DataError("train holds a single frame and there is no val split; add frames")
    if spec.whole:
        rows = draw([frame.sequence for frame in frames], {"val": 1 / HELD_OUT}, 0)
        return {name: tuple(frames[row] for row in own) for name, own in rows.items()}
    parts = _parts(frames, "official")
    return {name: parts[name] for name in ("train", "val")}


def _parts(frames: Sequence[Frame], split: Split) -> dict[str, tuple[Frame, ...]]:
    """The frames as train, val and gap."""
    held = hold_out([frame.name for frame in frames], [frame.sequence for frame in frames], split)
    rows = {"train": held.train, "val": held.val, "gap": held.gap}
    return {name: tuple(frames[row] for row in own) for name, own in rows.items()}


def _checked_digest(root: Path, spec: DatasetSpec, splits: Mapping[str, Sequence[Frame]], cache: Path) -> str:
    """The content digest of a data set whose every file was decoded and fits; reads an unchanged folder once only.

    Raises DataError where one does not fit.
    """
    paths = [path for frames in splits.values() for frame in frames for path in (frame.image, frame.mask)]
    states = [path.stat() for path in paths]  # once each: on a network file system every look takes long
    stats = [(str(path.relative_to(root)), s.st_size, s.st_mtime_ns) for path, s in zip(paths, states, strict=True)]
    # Splits of one folder are told apart by where the next one starts, those of several by their paths.
    starts = [] if spec.pool is None else [[len(frames) for frames in splits.values()]]
    fingerprint = _digest([str(root.resolve()), stats, spec.to_json(), *starts])
    memo = cache / "checked" / f"{fingerprint}.json"
    digest = _remembered(memo)
    if digest is None:
        checks = {
            split: list(tracked(check_frames(spec, frames), "checking the data set", len(frames)))
            for split, frames in splits.items()
        }
        refuse(faults_in(checks))
        hashes = {s: [(each.name, each.image_hash, each.mask_hash) for each in own] for s, own in checks.items()}
        digest = _digest([spec.to_json(), hashes])
        write_text(memo, json.dumps({"digest": digest}))
    return digest


def _remembered(memo: Path) -> str | None:
    """The digest in a memo; None where there is none, or it is damaged."""
    try:
        digest = Document(parse_json(memo.read_text(encoding="utf-8"))).text("digest")
    except (OSError, ValueError):
        return None
    return digest if re.fullmatch("[0-9a-f]{16}", digest) else None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
