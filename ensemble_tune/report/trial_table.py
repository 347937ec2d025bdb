"""Every trial in a table: what it was, how it ended, what it scored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble_tune.report.run_view import RunView, StageView
from ensemble_tune.tune.record import TrialRecord

_MOST_ROWS = 500
"""Of all tables together, that are there before the page's script shows more."""
_FEWEST_ROWS = 100
"""Of each stage, however many the others have."""
_MOST_BYTES = 2_000_000
"""Of the rows beyond those, so that the page stays below 8 MB; ten thousand trials of a usual space take half."""
_LONGEST_ERROR = 200
"""Characters of an error in a row beyond those; the ledger holds it whole."""

Row = tuple[str, ...]
"""What is shown in each cell: the trial's name first, its status second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTable:
    """One stage's trials, the best first."""

    stage: str
    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    more: str
    """The rows that follow, as a JSON list of lists that may stand inside a script element."""
    waiting: int
    """How many these are."""
    left_out: int
    """How many are on the page in no way."""


def trial_tables(view: RunView) -> list[TrialTable]:
    """A table for each stage; of the largest only the best trials where all would be too many for a page."""
    share = max(_FEWEST_ROWS, _MOST_ROWS // max(1, len(view.stages)))
    spare = _MOST_ROWS - sum(min(len(stage.trials), share) for stage in view.stages)
    room, tables = _MOST_BYTES, []
    # The small stages first: what they do not need is for the large ones.
    for left, stage in zip(
        range(len(view.stages), 0, -1), sorted(view.stages, key=lambda each: len(each.trials)), strict=True
    ):
        most = share + max(0, min(spare, len(stage.trials) - share))
        spare -= max(0, most - share)
        tables.append(_table(stage, most, room // left))
        room -= len(tables[-1].more)
    order = [stage.name for stage in view.stages]
    return sorted(tables, key=lambda table: order.index(table.stage))


def _table(stage: StageView, most: int, room: int) -> TrialTable:
    """most: rows at once. room: bytes for the others."""
    ranked = stage.ranked
    names = {trial.trial for trial in ranked}
    ordered = [*ranked, *(trial for trial in stage.trials if trial.trial not in names)]
    small = any("small_miou" in trial.scores for trial in ranked)
    failed = any(trial.error for trial in ordered)
    varied = stage.varied
    head = ("trial", "status", stage.metric or "score", *(["small_miou"] if small else []), "best epoch", "epochs")
    more: list[str] = []
    for trial in ordered[most:]:
        row = [text[:_LONGEST_ERROR] for text in _row(trial, small, varied, failed)]
        more.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
        room -= len(more[-1].encode(errors="surrogatepass")) + 1
        if room < 0:
            more.pop()
            break
    return TrialTable(
        stage=stage.name,
        title=stage.title,
        head=(*head, "seconds", *varied, *(["error"] if failed else [])),
        rows=tuple(_row(trial, small, varied, failed) for trial in ordered[:most]),
        more=f"[{','.join(more)}]",
        waiting=len(more),
        left_out=max(0, len(ordered) - most - len(more)),
    )


def _row(trial: TrialRecord, small: bool, varied: Sequence[str], failed: bool) -> Row:
    return (
        trial.trial,
        trial.status.value,
        _number(trial.score, 4),
        *([_number(trial.scores.get("small_miou"), 4)] if small else []),
        _number(trial.best_epoch),
        _number(trial.epochs),
        _number(trial.seconds, 1),
        *(_value(trial.params.get(name)) for name in varied),
        *([trial.error or ""] if failed else []),
    )


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
