"""What a model made of each frame: enough for any score of it, and for that score's interval; no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble_tune.documents import Document
from ensemble_tune.ensemble.array_file import parse_array
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, atomic_folder, read_json, retried

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EVIDENCE = "evidence"
"""The folder, in the folder of a run or of a final training, that holds what was measured there."""
ENSEMBLE = "ensemble"
"""What a final training's evidence of the whole ensemble is called; mean and member-1, ... stand beside it."""

_CONFUSIONS, _CALIBRATION, _STAMP = "confusions.npy", "calibration.npy", "frames.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """N frames, each with its pixels counted by true and predicted class."""

    of: str
    """What names the model and how it was fitted; equal for interchangeable evidence."""
    classes: tuple[str, ...]
    small: tuple[str, ...]
    """The small-object classes."""
    names: tuple[str, ...]
    sequences: tuple[str, ...]
    confusions: Counts
    """(N, C, C): rows are the truth, columns what was predicted; at each frame's own size."""
    calibration: Floats
    """(B, 3): of the pixels whose highest probability lies in each of B equal bins of [0, 1] how many there are, how
    many are right, and the sum of their highest probabilities; at the working size."""

    def join(self, *others: Evidence) -> Evidence:
        """The frames of all. Raises ValueError where classes differ or a frame stands in two."""
        parts = (self, *others)
        names = tuple(name for part in parts for name in part.names)
        if len(set(names)) < len(names) or any(part.classes != self.classes for part in others):
            raise ValueError("evidence joins of the same classes and of different frames")
        return dataclasses.replace(
            self,
            names=names,
            sequences=tuple(sequence for part in parts for sequence in part.sequences),
            confusions=np.concatenate([part.confusions for part in parts]),
            calibration=np.sum([part.calibration for part in parts], axis=0),
        )

    def sorted_as(self, names: Sequence[str]) -> Evidence:
        """The same with its frames in another order. Raises ValueError where `names` are others."""
        if sorted(names) != sorted(self.names):
            raise ValueError("evidence can be compared on the same frames alone")
        row_of = {name: row for row, name in enumerate(self.names)}
        rows = [row_of[name] for name in names]
        return dataclasses.replace(
            self,
            names=tuple(names),
            sequences=tuple(self.sequences[row] for row in rows),
            confusions=self.confusions[rows],
        )

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return calibration_error(self.calibration)

    def save(self, folder: Location) -> None:
        """Writes it whole or not at all, replacing what is there."""
        stamp = {name: getattr(self, name) for name in ("of", "classes", "small", "names", "sequences")}
        with atomic_folder(folder) as aside:
            np.save(aside / _CONFUSIONS, self.confusions, allow_pickle=False)
            np.save(aside / _CALIBRATION, self.calibration, allow_pickle=False)
            (aside / _STAMP).write_text(json.dumps(stamp), encoding="utf-8")

    @classmethod
    def open(cls, folder: Location, of: str | None = None) -> Evidence:
        """Reads what `save` wrote; of: what it must be of, None takes any.

        Raises RunError where it is missing, damaged or of something else.
        """
        try:
            stamp = Document(read_json(folder / _STAMP))
            found = stamp.text("of")
            texts = {name: stamp.texts(name) for name in ("classes", "small", "names", "sequences")}
            frames, classes = len(texts["names"]), len(texts["classes"])
            if len(texts["sequences"]) != frames or not set(texts["small"]) <= set(texts["classes"]):
                raise ValueError("its lists do not fit each other")
            confusions = parse_array(_read(folder / _CONFUSIONS), np.int64, (frames, classes, classes))
            calibration = parse_array(_read(folder / _CALIBRATION), np.float64, (None, 3))
        except FileNotFoundError as error:
            raise RunError(f"no evidence is in {folder}; search the fusions again to measure it") from error
        except ValueError as error:
            raise RunError(f"evidence in {folder} is damaged; remove the folder to measure it again") from error
        if of not in (None, found):
            raise RunError(f"evidence in {folder} is of something else; remove the folder to measure it again")
        return cls(of=found, **texts, confusions=confusions, calibration=calibration)

    @classmethod
    def has(cls, folder: Location, of: str) -> bool:
        """Whether this very evidence is there."""
        try:
            cls.open(folder, of)
        except RunError:
            return False
        return True


def calibration_error(calibration: Floats) -> float:
    """Expected calibration error in [0, 1]: how far confidence and accuracy are apart, on average over pixels.

    calibration: (bins, 3), as in `Evidence`. Source: Guo et al. 2017, On calibration of modern neural networks.
    """
    pixels, right, confidence = calibration.T
    return float(np.abs(right - confidence).sum() / max(1.0, pixels.sum()))


def evidence_name(of: str, block: int) -> str:
    """The folder of a fit's evidence: of the trial `of` on all blocks but one; block 0: on all, scored on val."""
    return f"{of}-block-{block}"


def _read(path: Location) -> bytes:
    return retried(path.read_bytes, path, "read")
