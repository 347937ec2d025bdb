"""`results`: a run's leaderboard, or one trial, from the ledger alone; no torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ensemble_tune.comparison import current_comparison
from ensemble_tune.comparison_table import comparison_table
from ensemble_tune.errors import ConfigError, RunError, quoted, suggest
from ensemble_tune.fused import simple_scores
from ensemble_tune.storage import Location
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.pareto import front
from ensemble_tune.tune.record import EpochRecord, Mode, Objective, Status, TrialRecord, rank

_CROSSFIT = ("crossfit_", "gain_over_")
"""How scores begin that are of training blocks and not of val."""
_BARS = " ▏▎▍▌▋▊▉█"
TITLES = {
    "base": "Base models, scored on val",
    "probe": "One epoch each, to know what it takes",
    "fold": "Fold trainings, scored on the frames that they held out, fold 0 on val",
    "meta": "Fusions, scored on val",
    "compare": "Fusions fitted on other blocks, scored on a block of training frames; block 0 is val",
    "final": "Final training",
}
"""What a person calls the stages of a run, in their order."""
_TOLD = {
    "architecture": "",
    "encoder": "",
    "fold": "fold ",
    "kind": "",
    "bases": "of ",
    "block": "block ",
    "split": "measured on ",
}
"""What tells trials of a table apart at a glance; all parameters are on a trial's own page."""


def read_run(out: Location, stage: str | None = None) -> list[TrialRecord]:
    """A run's trials. Raises RunError where there is no run."""
    if not Ledger.exists(out / LEDGER):
        raise RunError(f"no search is in {out}; run first: ensemble-tune run --data DATA --out {quoted(out)}")
    return Ledger(out / LEDGER).trials(stage)


def leaderboard(out: Location, *, stage: str | None = None, top: int = 10) -> RenderableType:
    """The best trials of every stage, or of one, the best first. Raises RunError."""
    records = read_run(out, stage)
    present = dict.fromkeys(record.stage for record in records)
    fusions = _ended([record for record in records if record.stage == "meta"])
    comparison = current_comparison(out, fusions)
    if comparison is not None:
        present.pop("compare", None)  # the table of the comparison says it all
    stages = [*(stage for stage in TITLES if stage in present), *(stage for stage in present if stage not in TITLES)]
    sessions = Ledger(out / LEDGER).sessions()
    lowest = {session.stage for session in sessions if session.goal.get("mode") == "min"}
    tables = {
        stage: _stage_table(stage, [r for r in records if r.stage == stage], top, "min" if stage in lowest else "max")
        for stage in stages
    }
    for session in sessions:
        if session.stage in tables:  # the last one stays
            tables[session.stage].caption = f"ended: {session.reason}" if session.reason else None
            tables[session.stage].caption_justify = "left"
    return Group(*tables.values(), *([comparison_table(comparison)] if comparison is not None else []))


def compromises(out: Location, objectives: Sequence[Objective]) -> RenderableType:
    """Of every stage the trials that none beats in all objectives. Raises RunError or ConfigError."""
    records = read_run(out)
    known = sorted({name for record in records for name in record.scores})
    for each in objectives:
        if each.metric not in known:
            raise ConfigError(f"{out} has no score {each.metric!r}; {suggest(each.metric, known)}")
    tables = []
    for stage in dict.fromkeys(
        record.stage for record in records if record.stage in ("base", "meta") or record.stage not in TITLES
    ):
        table = Table(title=TITLES.get(stage, stage), title_justify="left", title_style="bold", box=SIMPLE, padding=0)
        table.add_column("trial", no_wrap=True)
        for each in objectives:
            table.add_column(each.metric, justify="right", no_wrap=True)
        table.add_column("what")
        for record in front([record for record in records if record.stage == stage], objectives):
            scores = [f"{record.scores[each.metric]:.4g}" for each in objectives]
            table.add_row(record.trial, *scores, told(record))
        table.caption = "finished trials that no other beats in all of these scores"
        tables.append(table)
    return Group(*tables)


def summary(out: Location, split: str | None, final: Mapping[str, float]) -> Table:
    """A run's answer: every kind of fusion beside the simpler ones, and what the exported one scores at the end.

    Where fusions were not compared: best single model, mean of the bases and best fitted fusion, on val. split, final:
    what the final training measured on, and its scores. Raises RunError where no fusion has ended.
    """
    table = _compared(out)
    if split is not None:
        scored = (("miou", "miou"), ("mean of its members", "mean.miou"), ("its best member", "member-1.miou"))
        figures = ", ".join(f"{name} {_number(final[key])}" for name, key in scored if key in final)
        measured = f"exported ensemble on {split}: {figures}"
        table.caption = f"{table.caption}\n{measured}" if table.caption else measured
    return table


def _compared(out: Location) -> Table:
    ranked = _ended(read_run(out, "meta"))
    comparison = current_comparison(out, ranked)
    if comparison is not None:
        return comparison_table(comparison)
    if not ranked:
        raise RunError(
            f"no fusion has ended in {out}; run first: ensemble-tune search meta --data DATA --out {quoted(out)}"
        )
    found = simple_scores(ranked)
    trained = next((record for record in ranked if record.params["kind"] != "mean"), None)
    rows = [("best single", found.get("best_single")), ("mean of bases", found.get("mean")), ("meta", trained)]
    table = Table(title="Ensemble", title_justify="left", title_style="bold")
    for column in ("", "val miou", "val small miou", "trial"):
        table.add_column(column, justify="left" if column in ("", "trial") else "right")
    for name, record in rows:
        if record is not None:
            scores = [_number(record.scores.get(score, math.nan)) for score in ("miou", "small_miou")]
            kind = str(record.params["kind"])
            chosen = "  <- exported" if record is ranked[0] else ""
            table.add_row(name if kind == "mean" else f"{name} ({kind})", *scores, record.trial + chosen)
    return table


def _ended(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that have ended with a score, best first."""
    return rank([record for record in records if record.status is not Status.RUNNING], "max")


def manifest_lines(document: Mapping[str, Any]) -> str:
    """A manifest in a few lines for a person."""
    bases = [f"  {base.get('trial', '')}  {base['architecture']}  {base['encoder']}" for base in document["bases"]]
    scores = document.get("scores", {})
    lines = []
    for told, crossfit in (("on val", False), ("cross-fitted", True)):
        own = [f"{name} {score:.4f}" for name, score in scores.items() if name.startswith(_CROSSFIT) == crossfit]
        lines += [f"{told}: {', '.join(own)}"] if own else []
    return "\n".join([f"{document['fusion']['kind']} of", *bases, *lines])


def trial_page(out: Location, name: str) -> RenderableType:
    """One trial's parameters, learning curve and per-class IoU. Raises RunError or ConfigError."""
    known = {record.trial: record for record in read_run(out)}
    if name not in known:
        raise ConfigError(f"{out} has no trial {name!r}; {suggest(name, known)}")
    record = known[name]
    rows = [row for row in Ledger(out / LEDGER).epochs(record.stage) if row.trial == name]
    parts: list[RenderableType] = [
        Text(f"{name}  {_standing(record)}", style="bold"),
        _pairs("Parameters", record.params),
    ]
    if rows:
        parts.append(_curve(rows, record.best_epoch))
    classes = {key.removeprefix("iou."): score for key, score in record.scores.items() if key.startswith("iou.")}
    if classes:
        parts.append(_classes(classes, record.best_epoch))
    parts.append(_pairs("From", {"seed": record.seed, **record.provenance}))
    return Group(*parts)


def _stage_table(stage: str, records: Sequence[TrialRecord], top: int, mode: Mode) -> Table:
    ranked = rank(records, mode)
    counts = {status: sum(record.status is status for record in records) for status in Status}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    # Narrow enough for a terminal of 80 columns; what is left out is on each trial's own page.
    title = f"{TITLES.get(stage, stage)} ({said})"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=0)
    table.add_column("trial", no_wrap=True)
    ours = stage in TITLES
    for column in ("miou" if ours else "score", "small" if ours else "", "epoch", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("what")
    table.add_column("status")
    rest = [record for record in records if record not in ranked]
    for record in [*ranked, *rest][:top]:
        own = record.scores.get("miou", math.nan) if ours else math.nan if record.score is None else record.score
        scores = [_number(own), _number(record.scores.get("small_miou", math.nan)) if ours else ""]
        epoch = f"{record.best_epoch or '-'}/{record.epochs}"
        end = record.error or record.status.value
        table.add_row(record.trial, *scores, epoch, f"{record.seconds:.0f}", told(record), end)
    return table


def told(record: TrialRecord) -> str:
    """What tells a trial from others at a glance, by its parameters."""
    known = " ".join(f"{_TOLD[name]}{record.params[name]}" for name in _TOLD if name in record.params)
    return known or " ".join(f"{name} {value_text(value)}" for name, value in record.params.items())


def _pairs(title: str, values: Mapping[str, object]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, value_text(value))
    return table


def _curve(rows: Sequence[EpochRecord], best_epoch: int | None) -> Table:
    table = Table(title="Learning curve", title_justify="left")
    names = [name for name in ("train_loss", "loss", "miou") if any(name in row.scores for row in rows)]
    table.add_column("epoch", justify="right")
    for name in (*names, "seconds"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("")
    for row in rows:
        mark = " best" if row.epoch == best_epoch else ""
        score = row.scores.get("miou", math.nan)
        cells = [_number(row.scores.get(name, math.nan)) for name in names]
        table.add_row(str(row.epoch), *cells, f"{row.busy:.1f}", _bar(score, 20) + mark)
    return table


def _classes(ious: Mapping[str, float], epoch: int | None) -> Table:
    table = Table(title=f"IoU of each class at epoch {epoch}", title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("")
    for name, iou in sorted(ious.items(), key=lambda each: (math.isnan(each[1]), -each[1])):
        table.add_row(name, _number(iou), _bar(iou, 20))
    return table


def _bar(share: float, width: int) -> str:
    """A bar of `width` characters for a share in [0, 1]; nothing for nan."""
    if math.isnan(share):
        return ""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    return _BARS[8] * (eighths // 8) + _BARS[eighths % 8].strip()


def _number(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.4f}"


def value_text(value: object) -> str:
    """A parameter's value for a person."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _standing(record: TrialRecord) -> str:
    score = "" if record.score is None else f"  miou {record.score:.4f} at epoch {record.best_epoch}"
    return f"{record.status}{score}{f'  {record.error}' if record.error else ''}"
