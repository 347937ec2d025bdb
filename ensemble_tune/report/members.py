"""What each member of the best ensemble scores, weighs and costs, and how much they differ."""

from __future__ import annotations

import math

from ensemble_tune.ensemble.score_names import MEMORY, MILLISECONDS, PARAMETERS
from ensemble_tune.fused import TRAIN_SECONDS, member_scores
from ensemble_tune.report.fusions import TextTable
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told

_COLUMNS = {
    "miou": ("mIoU on val", "{:.3f}"),
    "small_miou": ("small objects", "{:.3f}"),
    "weight": ("weight", "{:.2f}"),
    MILLISECONDS: ("ms an image", "{:.1f}"),
    PARAMETERS: ("M parameters", "{:.1f}"),
    MEMORY: ("MB of memory", "{:.0f}"),
    TRAIN_SECONDS: ("seconds of training", "{:.0f}"),
}


def member_table(view: RunView) -> TextTable | None:
    """Of all members that the best fusion was chosen with; None while no fusion has ended."""
    best, base, fold = view.best, view.stage("base"), view.stage("fold")
    if best is None or base is None:
        return None
    compared = view.comparison.members if view.comparison is not None else ()
    weights = {each["trial"]: float(each["weight"]) for each in compared if "weight" in each}
    records = {record.trial: record for record in base.trials}
    rows = []
    for name in str(best.params["members"]).split(","):
        if name in records:
            scores = member_scores(records[name], fold.trials if fold is not None else ())
            scores["weight"] = weights.get(name, 0.0 if weights else math.nan)
            texts = [form.format(scores[key]) if _known(scores, key) else "-" for key, (_, form) in _COLUMNS.items()]
            rows.append((name, told(records[name]), *texts))
    apart = view.comparison.disagreement if view.comparison is not None else None
    return TextTable(
        head=("member", "model", *(head for head, _ in _COLUMNS.values())),
        rows=tuple(rows),
        chosen=None,
        told="Weight: its share in the greedy selection on val. Training counts with that of its fold models."
        + ("" if apart is None else f" Two of them give different classes to {apart:.1%} of val's labelled pixels."),
    )


def _known(scores: dict[str, float], name: str) -> bool:
    return not math.isnan(scores.get(name, math.nan))
