"""Where a trained ensemble lies: in the folder that is named, or in one that `train` or `run` made inside it."""

from __future__ import annotations

from ensemble_tune.ensemble.manifest import MANIFEST_FILE
from ensemble_tune.ensemble.trained_ensemble import TrainedEnsemble
from ensemble_tune.errors import RunError, quoted
from ensemble_tune.final_folder import ENSEMBLE_FOLDER, FINAL
from ensemble_tune.storage import Location, fetched, location, named_as


def load_ensemble(place: str | Location) -> TrainedEnsemble:
    """The ensemble of a run, of a final training, or in its own folder, here or in an object store, ready on the CPU.

    Raises RunError or ConfigError.
    """
    place = location(place)
    inside = (place / ENSEMBLE_FOLDER, place / FINAL / ENSEMBLE_FOLDER)
    found = next((folder for folder in inside if (folder / MANIFEST_FILE).exists()), place)
    try:
        with fetched(found) as folder, named_as(found, folder):
            return TrainedEnsemble.load(folder)
    except FileNotFoundError:
        raise RunError(
            f"no trained ensemble is in {place}; "
            f"train one with: ensemble-tune train MANIFEST --data DATA --out {quoted(place)}"
        ) from None
