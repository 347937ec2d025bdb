"""What a meta trial fuses, read from its row in the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ensemble_tune.ensemble.score_names import MEMORY, MILLISECONDS, PARAMETERS
from ensemble_tune.errors import RunError
from ensemble_tune.storage import Location
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import TrialRecord

_OF_MEMBERS = ("members", "member_epochs", "bases", "deploy", "stacking", "folds")
COSTS = (MILLISECONDS, PARAMETERS, MEMORY)
TRAIN_SECONDS = "train_seconds"
"""Of a member with its fold models."""


def fused_members(record: TrialRecord) -> list[str]:
    """The base trials that a meta trial fuses, best first."""
    names = str(record.params["members"]).split(",")
    bases = str(record.params.get("bases", "all"))
    places = {str(place): name for place, name in enumerate(names, start=1)}
    return names if bases == "all" else [places[place] for place in bases.split("+")]


def check_fusions(records: Iterable[TrialRecord], trials: Location) -> None:
    """Raises RunError for a meta trial whose row does not say what it fuses, and how. trials: where they are from."""
    for record in records:
        try:
            fused_members(record)
            str(record.params["kind"])
        except KeyError as lacks:
            raise RunError(
                f"a fusion must say its kind, its members, and its bases as places among them, but {record.trial} in "
                f"{trials} has no {lacks}; restore the ledger"
            ) from None


def model_passes(record: TrialRecord) -> int:
    """How often a base model runs for one image: of each member or of its fold models, twice where mirrored."""
    models = int(record.params["folds"]) if record.params.get("deploy") == "folds" else 1
    return len(fused_members(record)) * models * (2 if record.params.get("flip") else 1)


def fusion_params(record: TrialRecord) -> dict[str, Value]:
    """The parameters of a meta trial that are its fusion's own, without the seed and without what it fuses."""
    return {name: value for name, value in record.params.items() if name not in _OF_MEMBERS}


def member_epochs(record: TrialRecord) -> dict[str, int]:
    """How many epochs each member was trained for, by name; empty in ledgers that do not say."""
    names, epochs = str(record.params["members"]), str(record.params.get("member_epochs", ""))
    pairs = zip(names.split(","), epochs.split(","), strict=False)
    return {name: int(epoch) for name, epoch in pairs if epoch}


def member_scores(record: TrialRecord, folds: Sequence[TrialRecord]) -> dict[str, float]:
    """What a base trial scores on val and costs; its training counts with that of its models among `folds`."""
    scores = {name: record.scores.get(name, math.nan) for name in ("miou", "small_miou", *COSTS)}
    own = [fold.seconds for fold in folds if fold.params.get("member") == record.trial]
    known = {name: float(score) for name, score in scores.items() if not math.isnan(score)}
    return {**known, TRAIN_SECONDS: record.seconds + math.fsum(own)}


def simple_scores(ranked: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """Among the trials that share the best one's members: best_single, and mean of all; those that have ended."""
    found: dict[str, TrialRecord] = {}
    everyone = str(ranked[0].params["members"])
    for record in ranked:
        if record.params["kind"] == "mean" and record.params["members"] == everyone:
            fused = fused_members(record)
            if len(fused) == 1:
                found.setdefault("best_single", record)
            if len(fused) == len(everyone.split(",")):
                found.setdefault("mean", record)
    return found
