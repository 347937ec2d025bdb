"""What the members of an ensemble predicted, as a fusion learns from it and as it is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.manifest import Deploy, Stacking
from ensemble_tune.ensemble.prediction_store import PredictionStore
from ensemble_tune.ensemble.predictions import OutOfFold, Predictions

Probabilities = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class MemberSource(Protocol):
    """One member's predictions, looked up by frame name."""

    def __getitem__(self, name: str, /) -> Probabilities:
        """Class probabilities of a frame, (C, h, w): uint8 in 1/255, or float32 in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class MemberPredictions:
    """The saved predictions of an ensemble's members."""

    store: PredictionStore
    members: Sequence[BaseConfig]
    flip: bool
    """Whether they are of mirrored frames too."""

    def of_training_frames(self, stacking: Stacking) -> list[OutOfFold | Predictions]:
        """Each member's predictions of the training frames, each frame's by the model that was not trained on it.

        in-sample: by the model that was trained on all of them. Raises PredictionsError where any is missing.
        """
        if stacking == "in-sample":
            return [self.store.open(member, 0, "train", flip=self.flip) for member in self.members]
        folds = range(1, self.store.data.folds + 1)
        return [
            OutOfFold([self.store.open(member, fold, "held-out", flip=self.flip) for fold in folds])
            for member in self.members
        ]

    def of_val(self, deploy: Deploy) -> list[MemberSource]:
        """Each member's predictions of val, by what would be deployed of it. Raises PredictionsError."""
        folds = (0,) if deploy == "refit" else range(1, self.store.data.folds + 1)
        return [
            _Averaged([self.store.open(member, fold, "val", flip=self.flip) for fold in folds])
            for member in self.members
        ]


def stack(sources: Sequence[MemberSource], name: str) -> Probabilities:
    """What all members make of a frame, (M, C, h, w)."""
    return cast(Probabilities, np.stack([source[name] for source in sources]))


@dataclass(frozen=True, slots=True)
class _Averaged:
    """The mean of the models that stand for one member: one refit, or K fold models."""

    models: Sequence[Predictions]

    def __getitem__(self, name: str, /) -> npt.NDArray[np.float32]:
        total = np.zeros_like(self.models[0][name], dtype=np.float32)
        for model in self.models:
            total += model[name]
        return total / np.float32(255 * len(self.models))
