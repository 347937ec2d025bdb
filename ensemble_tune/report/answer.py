"""What a person wants to know first: the best ensemble, how sure that is, what it cost, and what to do next."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ensemble_tune.comparison import NO_GAIN, Comparison, fusion_name
from ensemble_tune.ensemble.bootstrap import Interval, gain, mean_iou
from ensemble_tune.ensemble.evidence import ENSEMBLE
from ensemble_tune.ensemble.score_names import MILLISECONDS, PARAMETERS
from ensemble_tune.errors import quoted
from ensemble_tune.fused import fused_members
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told
from ensemble_tune.tune.record import Status, TrialRecord

_LATE = 0.8
"""A best trial that came after so large a share of all says that the search had not settled."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that counts."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first thing on the page."""

    label: str
    title: str
    members: tuple[str, ...]
    """A line for each model that is fused."""
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    """What to run next."""


def answer(view: RunView, *, price: float | None = None) -> Answer:
    """price: what a machine costs an hour."""
    best, stages = view.best, view.searches
    scores: list[Tile] = []
    if best is not None:
        scores = _of_ensemble(view, best)
    elif view.final is not None:
        scores = _on_test(view)
    elif stages and stages[-1].ranked:
        first = stages[-1].ranked[0]
        scores = [Tile(f"best {stages[-1].metric}", _score(first.score), f"{first.trial} at epoch {first.best_epoch}")]
    return Answer(
        label="Best ensemble" if best is not None or view.final is not None else "Best trial",
        title=_title(view),
        members=_members(view),
        tiles=(*scores, *_costs(view, price)),
        notes=tuple(_notes(view)),
        commands=tuple(_commands(view)),
    )


def _title(view: RunView) -> str:
    best = view.best
    if best is not None:
        members, params = fused_members(best), best.params
        name = fusion_name(params)
        named = "the best single model" if len(members) == 1 else f"{name} of {len(members)} models"
        flip, folds = bool(params.get("flip")), int(params["folds"]) if params.get("deploy") == "folds" else 0
        return named + _passes(len(members), flip, folds)
    if view.final is not None:
        manifest = view.final.manifest
        count = len(manifest.bases)
        named = "a single model" if count == 1 else f"{manifest.fusion.kind} of {count} models"
        return named + _passes(count, manifest.fusion.flip, manifest.folds if manifest.deploy == "folds" else 0)
    ranked = next((stage.ranked for stage in reversed(view.searches) if stage.ranked), [])
    return f"{ranked[0].trial}: {told(ranked[0])}" if ranked else "no trial has a score yet"


def _passes(models: int, flip: bool, folds: int) -> str:
    """What else runs for an image, without which nobody gets the scores; folds: that stand for a model, 0 for none."""
    each = "each by its" if models > 1 else "by its"
    return (f", {each} {folds} fold models" if folds else "") + (", mirrored too" if flip else "")


def _members(view: RunView) -> tuple[str, ...]:
    if view.best is None:
        bases = view.final.manifest.bases if view.final is not None else ()
        return tuple(f"{base.architecture} {base.encoder}" for base in bases)
    base = view.stage("base")
    records = {record.trial: record for record in base.trials} if base is not None else {}
    lines = []
    for name in fused_members(view.best):
        record = records.get(name)
        told_of = "" if record is None else f"  {told(record)}, mIoU on val {_score(record.score)}"
        lines.append(name + told_of)
    return tuple(lines)


def _of_ensemble(view: RunView, best: TrialRecord) -> list[Tile]:
    """Its scores on the frames that say most."""
    # Where there is no test, the final training is measured on val, which chose it; that tile comes last.
    of_best = view.final is not None and not view.trained_another and view.final.split != "val"
    tiles = _on_test(view) if of_best else []
    fusion = view.comparison.chosen if view.comparison is not None else None
    if fusion is not None:
        evidence = view.crossfit(fusion)
        whole = mean_iou(evidence) if evidence is not None else None
        tiles.append(Tile("mIoU, cross-fitted", *_with_interval(fusion.crossfit.miou, whole)))
        if not of_best:
            tiles += [Tile(f"over {each.over}", *_points(each.miou)) for each in fusion.gains if each.over in _SHOWN]
    tiles.append(Tile("mIoU on val", _score(best.score), _FLATTERS))
    return tiles


_SHOWN = ("best single", "mean")
_FLATTERS = "chose it, so it flatters"


def _on_test(view: RunView) -> list[Tile]:
    """What the final training measured; gains only on frames that chose nothing."""
    final = view.final
    if final is None or final.split is None or "miou" not in final.scores:
        return []
    own = final.evidence.get(ENSEMBLE)
    value = final.scores["miou"]
    if final.split == "val":
        return [Tile("mIoU on val", _score(value), _FLATTERS)]
    tiles = [Tile(f"mIoU on {final.split}", *_with_interval(value, None if own is None else mean_iou(own)))]
    for name, words in (("mean", "over the mean of its models"), ("member-1", "over its best model")):
        if name == final.manifest.fusion.kind:
            continue  # itself
        other = final.evidence.get(name)
        if own is not None and other is not None:
            tiles.append(Tile(words, *_points(gain([own], [other]))))
        elif f"{name}.miou" in final.scores:
            tiles.append(Tile(words, f"{100 * (value - final.scores[f'{name}.miou']):+.1f} points"))
    return tiles


def _costs(view: RunView, price: float | None) -> list[Tile]:
    wall = math.fsum((s.updated - s.started).total_seconds() / 3600 for s in view.sessions)
    nodes, gpus = (math.fsum(getattr(s, name) for s in view.sessions) for name in ("node_hours", "gpu_hours"))
    tiles = []
    if view.sessions:
        used = [f"{_hours(gpus)} of GPUs"] if gpus else []
        used += [f"{_hours(nodes)} of machines"] if not math.isclose(nodes, wall, rel_tol=0.01) else []
        used += [] if price is None else [f"{nodes * price:,.2f} at {price:g} an hour"]
        tiles.append(Tile("took", _hours(wall), ", ".join(used)))
    records = [record for stage in view.stages for record in stage.trials]
    counts = Counter(record.status for record in records)
    said = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    tiles.append(Tile("trials", f"{len(records):,}", said))
    best = view.best
    if best is not None and MILLISECONDS in best.scores:
        size = f"{best.scores[PARAMETERS]:.1f} M parameters" if PARAMETERS in best.scores else ""
        tiles.append(Tile("an image takes, in batches", f"{best.scores[MILLISECONDS]:.1f} ms", size))
    return tiles


def _notes(view: RunView) -> list[str]:
    """What a person should know before trusting the figures, or spending more."""
    notes = []
    if view.standing == "interrupted":
        notes.append("It was interrupted; the same command goes on from here.")
    if view.comparison is not None:
        notes += _unchosen(view.comparison)
        if view.comparison.left_out:
            notes.append(
                f"Not compared, for want of time or since a fit failed: {', '.join(view.comparison.left_out)}."
            )
    elif view.best is not None:
        notes.append("Fusions were not cross-fitted, so no interval says whether one is better than a simpler one.")
    if view.trained_another:
        notes.append(f"The final training is of {view.trained_another}, not of this one.")
    base = view.stage("base")
    if base is not None and len(base.trials) >= 10 and base.ranked:
        place = 1 + [record.trial for record in base.trials].index(base.ranked[0].trial)
        if place > _LATE * len(base.trials):
            notes.append(
                f"The best base model is trial {place} of {len(base.trials)}: more of them may find a better one."
            )
    return notes


def _unchosen(comparison: Comparison) -> list[str]:
    """Why the fusion of the highest cross-fitted score is not taken, where it is another."""
    chosen, highest = comparison.chosen, comparison.highest
    if chosen is highest:
        return []
    gain = {each.over: each.miou for each in highest.gains}.get(chosen.name)
    points = 100 * (highest.crossfit.miou - chosen.crossfit.miou)
    why = f"that is {NO_GAIN}: the simpler one is taken"
    if gain is None or gain.above_zero:
        on_val = 100 * (highest.val.miou - chosen.val.miou)
        why = f"{on_val:+.1f} on val, where members are as they are deployed: {chosen.name} is taken"
    return [f"{highest.name} scores {points:+.1f} points over {chosen.name} in cross-fitting, but {why}."]


def _commands(view: RunView) -> list[str]:
    """The next step, as a person types it."""
    place = quoted(view.place)
    manifest = view.manifest
    data = quoted(manifest.data) if manifest is not None and manifest.data is not None else "DATA"
    stages = {stage.name for stage in view.stages if stage.name != "final"}
    if view.standing == "running":
        return [f"ensemble-tune report {place}"]
    if view.final is not None:
        return [f"ensemble-tune segment {quoted(view.final.place)} IMAGES --out MASKS"]
    if view.best is not None:
        return [
            f"ensemble-tune export {place} --to best.toml",
            f"ensemble-tune train best.toml --data {data} --out {quoted(view.place / 'final')} --run {place}",
        ]
    if "base" in stages:
        split = (
            " --split blocks"
            if any(r.provenance.get("split") == "blocks" for each in view.stages for r in each.trials)
            else ""
        )
        return [f"ensemble-tune search meta --data {data} --out {place}{split}"]
    return [f"ensemble-tune results {place}"]


def _with_interval(value: float, interval: Interval | None) -> tuple[str, str]:
    if interval is None or math.isnan(interval.low):
        return _score(value), ""
    return _score(value), f"95% interval {interval.low:.3f} to {interval.high:.3f}"


def _points(interval: Interval) -> tuple[str, str]:
    value, low, high = (100 * each for each in (interval.value, interval.low, interval.high))
    if math.isnan(low):
        return f"{value:+.1f} points", ""
    told = f": {NO_GAIN}" if interval.spans_zero else ""
    return f"{value:+.1f} points", f"95% interval {low:+.1f} to {high:+.1f}{told}"


def _score(score: float | None) -> str:
    return "-" if score is None or math.isnan(score) else f"{score:.3f}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h"
