"""What a person may take from a run: its fusions, and each base model by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ensemble_tune.fused import fused_members
from ensemble_tune.tune.record import TrialRecord


def choices(fusions: Sequence[TrialRecord], bases: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The fusions, then each base model that none of them is, as a mean of itself alone.

    A small network is rarely a member, and may be what a person can afford. fusions: at least one, for which
    `check_fusions` holds. bases: those that ended well.
    """
    fused = [fused_members(each) for each in fusions if each.params["kind"] == "mean"]
    alone = {members[0] for members in fused if len(members) == 1}
    return [*fusions, *(_alone(base, fusions[0]) for base in bases if base.trial not in alone)]


def _alone(base: TrialRecord, beside: TrialRecord) -> TrialRecord:
    """beside: a fusion of the same run, which says how it was searched."""
    of_run = {name: beside.params[name] for name in ("stacking", "folds") if name in beside.params}
    size = {name: base.params[name] for name in ("size",) if name in base.params}
    own = {"members": base.trial, "member_epochs": str(base.best_epoch), "bases": "1", "deploy": "refit"}
    return replace(base, stage="meta", params={"kind": "mean", **size, **own, **of_run})
