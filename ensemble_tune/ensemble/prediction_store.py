"""Where saved predictions lie: one folder for a config, a fold and a set of frames; found again by what they are of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.fetched_once import fetched_predictions
from ensemble_tune.ensemble.frames import Frames
from ensemble_tune.ensemble.predictions import Predictions, Stamp, read_stamp, refuse_other
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import PredictionsError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, is_whole, named_as
from ensemble_tune.store_folder import COMPLETE

Part = Literal["held-out", "val", "train"]
"""A fold's own held-out frames, the val frames, or (in-sample stacking alone) all training frames."""


@dataclass(frozen=True, slots=True)
class PredictionStore:
    """The saved predictions of a run."""

    root: Location
    data: StageData

    def folder(self, config: BaseConfig, fold: int, part: Part, *, flip: bool = False) -> Location:
        """Equal for equal config, data, fold, frames and flip; different for any other."""
        key = [config.digest(), self.data.dataset().digest, self.data.folds, self.data.with_val]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        return self.root / name / f"fold-{fold}-{part}{'-flip' if flip else ''}"

    def stamp(self, config: BaseConfig, fold: int, part: Part, *, flip: bool = False) -> Stamp:
        """What the predictions in `folder` must be of. Raises ValueError for val where val is trained on."""
        training = self.data.training(config.size)
        fold_of = self.data.fold_of(training)
        frames: Frames | None
        if part == "held-out":
            frames = training.subset((fold_of == fold).nonzero()[0])
        else:
            frames = training if part == "train" else self.data.held_out(config.size)
        if frames is None:
            raise ValueError("val is trained on, so nothing is predicted there")
        trained_on = training if fold == 0 else training.subset((fold_of != fold).nonzero()[0])
        return Stamp(
            config=config.digest(),
            data=self.data.dataset().digest,
            fold=fold,
            folds=self.data.folds,
            classes=training.classes,
            size=config.size,
            frames=frames.names,
            trained_on=trained_on.names,
            flip=flip,
        )

    def open(self, config: BaseConfig, fold: int, part: Part, *, flip: bool = False) -> Predictions:
        """Raises PredictionsError where they are missing or of something else.

        Out of a store they are fetched once a machine, into the data's cache, since they are memory-mapped.
        """
        folder, stamp = self.folder(config, fold, part, flip=flip), self.stamp(config, fold, part, flip=flip)
        here = folder if isinstance(folder, Path) else self._fetched(folder)
        with named_as(folder, here):
            return Predictions.open(here, stamp, in_sample=part == "train")

    def has(self, config: BaseConfig, fold: int, part: Part, *, flip: bool = False) -> bool:
        """Whether these very predictions are there, whole; fetches no more than what they are of."""
        folder = self.folder(config, fold, part, flip=flip)
        try:
            if isinstance(folder, Path):
                self.open(config, fold, part, flip=flip)
                return True
            refuse_other(folder, read_stamp(folder), self.stamp(config, fold, part, flip=flip))
            return is_whole(folder)
        except PredictionsError:
            return False

    def _fetched(self, folder: ObjectPath) -> Path:
        try:
            return fetched_predictions(folder, self.data.cache, self.data.cache_limit)
        except FileNotFoundError:
            raise PredictionsError(f"no predictions are in {folder}: {COMPLETE} is missing") from None
