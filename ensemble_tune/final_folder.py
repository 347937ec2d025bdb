"""What a final training left in its folder, for whoever reads it without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.comparison import measured
from ensemble_tune.documents import Document
from ensemble_tune.ensemble.evidence import ENSEMBLE, EVIDENCE, Evidence
from ensemble_tune.ensemble.image_file import Pixels, decode_mask
from ensemble_tune.ensemble.manifest import MANIFEST_FILE, EnsembleManifest
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location, names_in, read_json, retried

FINAL, ENSEMBLE_FOLDER, METRICS, MASKS = "final", "ensemble", "metrics.json", "masks"
"""Where `run` trains what it found, and what is in there."""


@dataclass(frozen=True, kw_only=True)
class FinalFolder:
    """A trained ensemble, and what it scored on frames that chose nothing."""

    place: Location
    manifest: EnsembleManifest
    split: str | None
    """What was measured on: test, or val; None where nothing was left to measure on."""
    scores: Mapping[str, float]
    evidence: Mapping[str, Evidence]
    """By what was measured: ensemble, mean, member-1, ...; empty where the folder holds none of these scores."""

    @classmethod
    def read(cls, place: Location) -> FinalFolder | None:
        """None where no training has ended in `place`. Raises RunError or ConfigError where a file is damaged."""
        file = place / METRICS
        try:
            document = Document(read_json(file))
            scores = document.numbers("scores")
            split = None if document.is_null("split") else document.text("split")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{file} is damaged; remove it, and run the same final training again") from error
        return cls(
            place=place,
            manifest=EnsembleManifest.load(place / ENSEMBLE_FOLDER / MANIFEST_FILE),
            split=split,
            scores=scores,
            evidence=_evidence(place / EVIDENCE, scores),
        )

    def mask(self, name: str) -> Pixels:
        """(H, W) class indices: what the ensemble made of a frame. Raises FileNotFoundError or DataError."""
        file = self.place / MASKS / f"{name}.png"
        return decode_mask(Path(str(file)), retried(file.read_bytes, file, "read"))


def measured_ensemble(place: Location) -> object:
    """What `train` wrote of the ensemble whose scores are in `place`; None where none are, or it did not say."""
    try:
        document = read_json(place / METRICS)
    except (FileNotFoundError, ValueError):
        return None
    return document.get("trained") if isinstance(document, dict) else None


def _evidence(folder: Location, scores: Mapping[str, float]) -> dict[str, Evidence]:
    """The evidence of these scores; another training into the same folder may have left others."""

    def is_of(name: str, evidence: Evidence) -> bool:
        miou = scores.get("miou" if name == ENSEMBLE else f"{name}.miou", math.nan)
        return math.isclose(measured(evidence).miou, miou, abs_tol=1e-6)

    found = {name: Evidence.open(folder / name) for name in names_in(folder) if not name.startswith(".")}
    of_these = {name: evidence for name, evidence in found.items() if is_of(name, evidence)}
    return of_these if ENSEMBLE in of_these else {}
