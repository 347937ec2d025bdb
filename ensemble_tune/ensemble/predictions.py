"""Saved class probabilities of one model: written once, memory-mapped, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ensemble_tune.documents import Document
from ensemble_tune.ensemble.array_file import map_array
from ensemble_tune.ensemble.image_file import Pixels
from ensemble_tune.errors import PredictionsError
from ensemble_tune.storage import Location, atomic_folder, read_json, reason_of, take_space

_ARRAY = "probabilities.npy"
_STAMP = "stamp.json"
_ROUNDING = 1e-3
"""How far outside [0, 1] half-precision arithmetic may carry a probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What saved predictions are of; two of the same stamp are interchangeable."""

    config: str
    """Digest of the BaseConfig."""
    data: str
    """Digest of the data set."""
    fold: int
    """The fold that the model has not seen; 0 where it was trained on all training frames."""
    folds: int
    """How many folds there are."""
    classes: tuple[str, ...]
    size: tuple[int, int]
    """Height and width in pixels of the predictions."""
    frames: tuple[str, ...]
    """Names of the predicted frames, in the order of the array."""
    trained_on: tuple[str, ...]
    """Names of the frames that the model was trained on."""
    flip: bool = False
    """Whether the model saw each frame mirrored too, and these are the mean of both predictions."""


def quantise(probabilities: Tensor) -> Tensor:
    """Probabilities in [0, 1] as uint8, round(255 p): off by 1/510 at most. Any shape.

    Raises PredictionsError for values that are no probabilities.
    """
    if not torch.compiler.is_compiling():  # an exported graph cannot raise
        low, high = (float(value) for value in torch.aminmax(probabilities))
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise PredictionsError(
                f"probabilities must be within 0 and 1, but range from {low:g} to {high:g}; apply softmax once"
            )
    return (probabilities.float() * 255).round_().clamp_(0, 255).to(torch.uint8)


def write_predictions(folder: Location, stamp: Stamp, probabilities: Iterable[np.ndarray[Any, Any] | Tensor]) -> None:
    """Writes a model's predictions to `folder`, whole or not at all, replacing what is there.

    probabilities: one (C, h, w) of floats in [0, 1] for each of stamp.frames, in that order, or their quantised uint8;
    taken one at a time, so that they need never be in memory together. Raises PredictionsError, and StorageFullError
    before anything is predicted where the disk has no room for all.
    """
    shape = (len(stamp.classes), *stamp.size)
    with atomic_folder(folder) as aside:
        array = np.lib.format.open_memmap(aside / _ARRAY, mode="w+", dtype=np.uint8, shape=(len(stamp.frames), *shape))
        take_space(aside / _ARRAY)
        written = 0
        for item in probabilities:
            values = torch.as_tensor(item)
            if written == len(stamp.frames) or tuple(values.shape) != shape:
                raise PredictionsError(
                    f"expected {len(stamp.frames)} predictions of {shape}, "
                    f"but number {written + 1} is {tuple(values.shape)}"
                )
            array[written] = (values if values.dtype == torch.uint8 else quantise(values)).cpu().numpy()
            written += 1
        if written != len(stamp.frames):
            raise PredictionsError(f"expected predictions of {len(stamp.frames)} frames, but got {written}")
        array.flush()
        (aside / _STAMP).write_text(json.dumps(dataclasses.asdict(stamp)), encoding="utf-8")


def refuse_own_training_frames(stamp: Stamp, frames: Iterable[str]) -> None:
    """Raises PredictionsError where the model was trained on one of `frames`: on those its predictions are too good."""
    seen = sorted(set(frames) & set(stamp.trained_on))
    if seen:
        raise PredictionsError(
            f"model {stamp.config} of fold {stamp.fold} was trained on {seen[0]}"
            f"{f' and {len(seen) - 1} more' if seen[1:] else ''}, so its predictions there would leak; "
            "read a fold model that has not seen it, or stack in-sample on purpose"
        )


class Predictions:
    """Predictions in a folder, looked up by frame name."""

    def __init__(self, stamp: Stamp, array: Pixels, in_sample: bool) -> None:
        self.stamp = stamp
        self._array = array
        self._rows = {name: row for row, name in enumerate(stamp.frames)}
        self._barred = frozenset() if in_sample else frozenset(stamp.trained_on)

    @classmethod
    def open(cls, folder: Path, expected: Stamp | None = None, *, in_sample: bool = False) -> Predictions:
        """Memory-maps the predictions in `folder`.

        expected: what they must be of; None takes any. in_sample: whether frames that the model was trained on may be
        read. Raises PredictionsError where the folder holds no predictions, or others than expected.
        """
        stamp = read_stamp(folder)
        if expected is not None:
            refuse_other(folder, stamp, expected)
        try:
            array = map_array(folder / _ARRAY, np.uint8, (len(stamp.frames), len(stamp.classes), *stamp.size))
        except (OSError, ValueError) as error:
            raise PredictionsError(
                f"{folder / _ARRAY} is damaged ({reason_of(error)}); remove {folder} to predict again"
            ) from error
        return cls(stamp, array, in_sample)

    @property
    def names(self) -> tuple[str, ...]:
        """The predicted frames."""
        return self.stamp.frames

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Pixels:
        """Class probabilities of the frame `name`, (C, h, w) uint8 in 1/255, read-only. Raises PredictionsError."""
        if name in self._barred:
            refuse_own_training_frames(self.stamp, [name])
        if name not in self._rows:
            raise PredictionsError(f"model {self.stamp.config} of fold {self.stamp.fold} holds no prediction of {name}")
        return cast(Pixels, self._array[self._rows[name]])


class OutOfFold:
    """One config's predictions of all training frames, each by the fold model that was not trained on it."""

    def __init__(self, parts: Sequence[Predictions]) -> None:
        """Joins the predictions of all K folds, each of its own held-out frames. Raises PredictionsError."""
        first = parts[0].stamp
        self._part_of: dict[str, Predictions] = {}
        for part in parts:
            for name in ("config", "data", "folds", "classes", "size", "flip"):
                _refuse_mixed(name, getattr(first, name), getattr(part.stamp, name))
            refuse_own_training_frames(part.stamp, part.names)
            for frame in part.names:
                if frame in self._part_of:
                    folds = f"{self._part_of[frame].stamp.fold} and {part.stamp.fold}"
                    raise PredictionsError(
                        f"predictions of folds {folds} overlap at {frame}; a frame is held out by one fold"
                    )
                self._part_of[frame] = part
        held = sorted(part.stamp.fold for part in parts)
        if held != list(range(1, first.folds + 1)):
            raise PredictionsError(f"predictions of all folds 1..{first.folds} are needed, but got those of {held}")
        self.stamps = tuple(part.stamp for part in parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The predicted frames."""
        return tuple(self._part_of)

    def __contains__(self, name: str) -> bool:
        return name in self._part_of

    def __getitem__(self, name: str) -> Pixels:
        """Class probabilities of the frame `name`, (C, h, w) uint8 in 1/255, read-only. Raises PredictionsError."""
        if name not in self._part_of:
            raise PredictionsError(f"no fold of model {self.stamps[0].config} holds a prediction of {name}")
        return self._part_of[name][name]


def read_stamp(folder: Location) -> Stamp:
    """The stamp in a folder of predictions. Raises PredictionsError."""
    path = folder / _STAMP
    try:
        values = Document(read_json(path)).only(field.name for field in dataclasses.fields(Stamp))
        height, width = values.wholes("size", 1)
        return Stamp(
            config=values.text("config"),
            data=values.text("data"),
            fold=values.whole("fold"),
            folds=values.whole("folds"),
            classes=values.texts("classes"),
            size=(height, width),
            frames=values.texts("frames"),
            trained_on=values.texts("trained_on"),
            flip="flip" in values and values.flag("flip"),
        )
    except FileNotFoundError as error:
        raise PredictionsError(f"no predictions are in {folder}: {_STAMP} is missing") from error
    except ValueError as error:
        raise PredictionsError(f"{path} is damaged or not ours ({error}); remove {folder} to predict again") from error


def refuse_other(folder: Location, found: Stamp, expected: Stamp) -> None:
    """Raises PredictionsError where predictions are not of what they should be."""
    for field in dataclasses.fields(Stamp):
        is_, should = getattr(found, field.name), getattr(expected, field.name)
        if is_ != should:
            if len(str(is_)) + len(str(should)) > 200:
                is_, should = f"{len(is_)} others", f"the {len(should)} expected"
            raise PredictionsError(
                f"predictions in {folder} are of {field.name} {is_}, not {should}; remove the folder to predict again"
            )


def _refuse_mixed(name: str, one: object, other: object) -> None:
    if one != other:
        raise PredictionsError(
            f"predictions of one config on one data set are needed, but {name} differs: {one} and {other}"
        )
