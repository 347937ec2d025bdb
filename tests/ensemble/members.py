"""Two trained members with all their predictions, for what is built upon them."""

from dataclasses import dataclass
from pathlib import Path

from tiles import SIZE
from trial_contract import live

from ensemble_tune.ensemble.base_trial import BaseTrial
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.ensemble.trained_ensemble import models_of

ENCODERS = {"one": "tu-test_efficientnet", "two": "tu-test_resnet"}


@dataclass(frozen=True)
class Members:
    """Members "one" and "two" on 2 folds and on all training frames."""

    data: StageData
    library: dict[str, BaseConfig]
    store: Path
    saved: Path
    """saved/<member>-<fold>/2 holds weights."""

    def weights(self, manifest: EnsembleManifest) -> list[list[Path]]:
        """The weights of both members, as `assemble` takes them."""
        return [[self.saved / f"{name}-{fold}" / "2" for fold in models_of(manifest)] for name in self.library]


def train_members(data: StageData, folder: Path, precision: str) -> Members:
    """Trains 2 epochs of each model."""
    library = {}
    trial = BaseTrial(
        data=data,
        store=folder / "store",
        parts={0: ("val", "train"), 1: ("held-out", "val"), 2: ("held-out", "val")},
    )
    for name, encoder in ENCODERS.items():
        params = {
            "architecture": "linknet",
            "encoder": encoder,
            "size": SIZE,
            "epochs": 2,
            "batch_size": 2,
            "precision": precision,
            "learning_rate": 0.01,
        }
        library[name] = BaseConfig.from_params(params)
        for fold in (0, 1, 2):
            live(trial, {**params, "fold": fold}, folder / "saved" / f"{name}-{fold}")
    return Members(data, library, folder / "store", folder / "saved")
