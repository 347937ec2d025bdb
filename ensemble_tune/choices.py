"""What a person may take from a run: its fusions, and each base model by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ensemble_tune.fused import fused_members, member_epochs
from ensemble_tune.tune.record import TrialRecord


def choices(fusions: Sequence[TrialRecord], bases: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The fusions, then each base model by itself that none of them is.

    A small network is rarely a member, and may be what a person can afford. fusions, bases: as `alone` takes them.
    """
    known = {fusion.trial for fusion in fusions}
    return [*fusions, *(each for each in alone(fusions, bases).values() if each.trial not in known)]


def alone(fusions: Sequence[TrialRecord], bases: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """Each base model by itself, by its name: the fusion that is just that, or a mean of it alone.

    fusions: at least one, for which `check_fusions` holds. bases: those that have a score.
    """
    found = {_only(fusion): fusion for fusion in reversed(fusions)}

    def of(base: TrialRecord) -> TrialRecord | None:
        return found.get((base.trial, base.best_epoch)) or found.get((base.trial, None))

    return {base.trial: of(base) or _mean_of(base, fusions[0]) for base in bases}


def _only(fusion: TrialRecord) -> tuple[str, int | None] | None:
    """The one model that runs, once an image, and for how many epochs it was trained, where the ledger says so; None
    where that is not all."""
    members, params = fused_members(fusion), fusion.params
    if len(members) > 1 or params["kind"] != "mean" or params.get("flip") or params.get("deploy", "refit") != "refit":
        return None
    return members[0], member_epochs(fusion).get(members[0])


def _mean_of(base: TrialRecord, beside: TrialRecord) -> TrialRecord:
    """beside: a fusion of the same run, which says how it was searched."""
    of_run = {name: beside.params[name] for name in ("stacking", "folds") if name in beside.params}
    size = {name: base.params[name] for name in ("size",) if name in base.params}
    own = {"members": base.trial, "member_epochs": str(base.best_epoch), "bases": "1", "deploy": "refit"}
    return replace(base, stage="meta", params={"kind": "mean", **size, **own, **of_run})
