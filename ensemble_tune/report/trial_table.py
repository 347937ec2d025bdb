"""Every trial in a table: what it was, how it ended, what it scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble_tune.report.run_view import RunView, StageView
from ensemble_tune.tune.record import TrialRecord

_MOST_ROWS = 1500
"""Of all tables of a page together."""
_FEWEST_ROWS = 100
"""Of each stage, however many the others have."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and what it is sorted by where that is a number."""

    text: str
    number: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTable:
    """One stage's trials, the best first."""

    stage: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """The first cell names the trial, the second its status."""
    left_out: int


def trial_tables(view: RunView) -> list[TrialTable]:
    """A table for each stage; of the largest only the best trials where all would be too many for a page."""
    share = max(_FEWEST_ROWS, _MOST_ROWS // max(1, len(view.stages)))
    spare = _MOST_ROWS - sum(min(len(stage.trials), share) for stage in view.stages)
    tables = []
    for stage in view.stages:
        most = share + max(0, min(spare, len(stage.trials) - share))
        spare -= max(0, most - share)
        tables.append(_table(stage, most))
    return tables


def _table(stage: StageView, most: int) -> TrialTable:
    ranked = stage.ranked
    names = {trial.trial for trial in ranked}
    ordered = [*ranked, *(trial for trial in stage.trials if trial.trial not in names)]
    small = any("small_miou" in trial.scores for trial in ranked)
    failed = any(trial.error for trial in ordered)
    varied = stage.varied
    head = ("trial", "status", stage.metric or "score", *(["small_miou"] if small else []), "best epoch", "epochs")
    return TrialTable(
        stage=stage.name,
        title=stage.title,
        head=(*head, "seconds", *varied, *(["error"] if failed else [])),
        rows=tuple(_row(trial, small, varied, failed) for trial in ordered[:most]),
        left_out=max(0, len(ordered) - most),
    )


def _row(trial: TrialRecord, small: bool, varied: Sequence[str], failed: bool) -> tuple[Cell, ...]:
    return (
        Cell(trial.trial),
        Cell(trial.status.value),
        _number(trial.score, 4),
        *([_number(trial.scores.get("small_miou"), 4)] if small else []),
        _number(trial.best_epoch),
        _number(trial.epochs),
        _number(trial.seconds, 1),
        *(_value(trial.params.get(name)) for name in varied),
        *([Cell(trial.error or "")] if failed else []),
    )


def _number(value: float | None, digits: int = 0) -> Cell:
    return Cell("-") if value is None or math.isnan(value) else Cell(f"{value:.{digits}f}", float(value))


def _value(value: object) -> Cell:
    if value is None:
        return Cell("-")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), float(value))
    return Cell(str(value))
