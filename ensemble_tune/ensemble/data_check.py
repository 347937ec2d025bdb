"""Everything that can be said about a data set before anything is trained on it: what it holds, and all its faults."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.dataset import held_out, unmeasured
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.fault import Fault
from ensemble_tune.ensemble.frame_check import FrameCheck, check_frames, faults_in
from ensemble_tune.ensemble.frame_files import Frame, find_frames
from ensemble_tune.ensemble.labels import IGNORED
from ensemble_tune.errors import DataError
from ensemble_tune.waits import tracked

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What one split holds."""

    frames: tuple[Frame, ...]
    checks: tuple[FrameCheck, ...]
    """Of each frame."""

    @property
    def sequences(self) -> Counter[str]:
        """Frames of each sequence."""
        return Counter(frame.sequence for frame in self.frames)

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Frames of each height and width in pixels."""
        return Counter(check.size for check in self.checks if check.size is not None)

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(256,) pixels of each label, IGNORED among them."""
        return np.asarray(sum(check.counts for check in self.checks), np.int64)

    @property
    def holding(self) -> npt.NDArray[np.int64]:
        """(256,) frames that hold each label."""
        return np.asarray(sum((check.counts > 0).astype(np.int64) for check in self.checks), np.int64)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """(255,) share of each class in the labelled pixels; zeros where none is labelled."""
        labelled = self.pixels[:IGNORED]
        return labelled / max(1, int(labelled.sum()))

    @property
    def sound(self) -> tuple[Frame, ...]:
        """The frames that break no rule."""
        return tuple(frame for frame, check in zip(self.frames, self.checks, strict=True) if not check.broken)


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What was found in a data set's folder."""

    spec: DatasetSpec
    splits: Mapping[str, SplitCheck]
    faults: tuple[Fault, ...]
    """What has to be mended before anything is trained."""
    notes: tuple[str, ...]
    """What is allowed, but worth knowing."""


def check_data(root: Path) -> DataCheck:
    """Looks into every file of a local folder; goes on where something is wrong.

    Raises DataError where dataset.toml cannot be understood: then nothing is known of the files' meaning.
    """
    spec = DatasetSpec.load(root)
    found, faults = find_frames(root, spec)
    notes = []
    if "val" not in found and found.get("train"):
        try:
            found |= held_out(spec, found["train"])
            notes.append("there is no val split, so a part of train is held out as val")
        except DataError as error:
            faults.append(Fault(str(error)))
    everyone = [frame for frames in found.values() for frame in frames]
    checks = iter(list(tracked(check_frames(spec, everyone), "checking the data set", len(everyone))))
    splits = {split: SplitCheck(frames, tuple(next(checks) for _ in frames)) for split, frames in found.items()}
    faults += unmeasured(spec, _figures(splits))
    faults += faults_in({split: own.checks for split, own in splits.items()})
    return DataCheck(spec, splits, tuple(faults), (*notes, *_notes(spec, splits)))


def _figures(splits: Mapping[str, SplitCheck]) -> str:
    """Mean and deviation of the training images' pixels, as dataset.toml has them."""
    train = splits["train"].checks if "train" in splits else ()
    seen = [
        (check.moments, check.size[0] * check.size[1]) for check in train if check.moments is not None and check.size
    ]
    if not seen:
        return "no training image can be measured yet"
    mean, squares = np.average([moments for moments, _ in seen], axis=0, weights=[pixels for _, pixels in seen])
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    lists = (", ".join(f"{value:.6g}" for value in values) for values in (mean, np.maximum(std, 1e-3)))
    return "those of the training images are mean = [{}] and std = [{}]".format(*lists)


def _notes(spec: DatasetSpec, splits: Mapping[str, SplitCheck]) -> Iterator[str]:
    if spec.sequence is not None:
        for where, names in _shared_sequences(splits).items():
            yield (
                f"{_some(names)} {'stands' if len(names) == 1 else 'stand'} in {where}: frames of one sequence look "
                f"alike, so what is measured there may flatter"
            )
    twice = [" and ".join(names) for names in _repeated(splits)]
    if twice:
        yield f"one and the same image is {_some(twice)}: what is measured there may flatter"
    for split, found in splits.items():
        absent = [name for label, name in enumerate(spec.classes) if found.frames and not found.holding[label]]
        if absent:
            why = "nothing can be learned of it" if split == "train" else "its IoU there will be unknown"
            yield f"no frame of {split} holds {', '.join(absent)}: {why}"
        pairs = zip(found.frames, found.checks, strict=True)
        blank = [f.name for f, check in pairs if not check.broken and check.blank]
        if blank:
            yield f"not a pixel of {_some(blank)} in {split} is labelled"


def _shared_sequences(splits: Mapping[str, SplitCheck]) -> dict[str, list[str]]:
    """The sequences that stand in more than one split, by the splits in words."""
    places: dict[str, list[str]] = defaultdict(list)
    for split, found in splits.items():
        for sequence in found.sequences:
            places[sequence].append(split)
    shared: dict[str, list[str]] = defaultdict(list)
    for sequence, where in places.items():
        if len(where) > 1:
            shared[" and ".join(where)].append(sequence)
    return shared


def _repeated(splits: Mapping[str, SplitCheck]) -> Iterator[list[str]]:
    """The names of images of the same bytes that stand in more than one split."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for split, found in splits.items():
        for frame, check in zip(found.frames, found.checks, strict=True):
            if check.image_hash is not None:
                places[check.image_hash].setdefault(split, f"{frame.name} ({split})")
    yield from (list(where.values()) for where in places.values() if len(where) > 1)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
