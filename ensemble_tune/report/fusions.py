"""Each fusion against the simpler ones: a table, the gains with their intervals, IoU by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from ensemble_tune.comparison import NO_GAIN, Comparison, fusion_name, measured
from ensemble_tune.ensemble.bootstrap import Interval
from ensemble_tune.ensemble.evidence import ENSEMBLE
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.report.plot import BLUE, GREEN, GREY, OCHRE, ORANGE, PINK, PURPLE, RED, TEAL, Plot, plot, short
from ensemble_tune.report.run_view import RunView
from ensemble_tune.tune.record import Status

_COLOURS = (ORANGE, BLUE, GREEN, PURPLE, TEAL, PINK, OCHRE, RED)
_MARKS = ((BLUE, "circle"), (ORANGE, "diamond-open"), (GREY, "square-open"))
_SMALL = "small objects"
_AT_FIRST = ("best single", "mean")
"""The simpler fusions that gains are shown over before a reader asks for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of texts under a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    chosen: int | None
    """The row that is exported, where one is."""
    told: str


def fusion_table(view: RunView) -> TextTable | None:
    """Of the comparison, or without one of the best fusion of each kind; None while no fusion has a score."""
    if view.comparison is not None:
        return _compared(view.comparison)
    meta = view.stage("meta")
    ended = [record for record in meta.ranked if record.status is not Status.RUNNING] if meta is not None else []
    if not ended:
        return None
    best = {fusion_name(record.params): record for record in reversed(ended)}
    shown = sorted(best.items(), key=lambda item: ended.index(item[1]))
    rows = []
    for name, record in shown:
        cost = record.scores.get(MILLISECONDS, math.nan)
        scores = [_number(record.scores.get(score, math.nan)) for score in ("miou", "small_miou")]
        rows.append((name, record.trial, *scores, "-" if math.isnan(cost) else f"{cost:.1f}"))
    return TextTable(
        head=("fusion", "trial", "mIoU on val", _SMALL, "ms an image"),
        rows=tuple(rows),
        chosen=0,
        told="The best of each kind on val, which chose it. They were not cross-fitted: no interval tells them apart.",
    )


def class_gains_plot(comparison: Comparison) -> Plot | None:
    """What the exported fusion gains by class, in points; the highest one where that is the simplest; else None."""
    fusion = comparison.chosen if comparison.chosen.gains else comparison.highest
    gains = [each for each in fusion.gains if each.over in _AT_FIRST and each.ious] or list(fusion.gains[-1:])
    gains = [each for each in gains if each.ious]
    if not gains:
        return None
    last = gains[-1].ious
    order = sorted((name for name in last if not math.isnan(last[name].value)), key=lambda name: last[name].value)
    figure = go.Figure()
    for each, colour in zip(gains, _COLOURS, strict=False):
        shown = {name: each.ious[name] for name in order if name in each.ious}
        if not math.isnan(each.small_miou.value):
            shown[_SMALL] = each.small_miou
        figure.add_scatter(**_with_bars(shown, colour), name=f"over {each.over}", offsetgroup=each.over)
    figure.add_vline(x=0, line={"color": GREY, "dash": "dot"})
    return plot(
        "class-gains",
        figure,
        title=f"Gains of {fusion.name} by class",
        told="Points of cross-fitted IoU with 95% intervals, each class by itself; of twenty such "
        f"intervals one misses by chance. {_SMALL.capitalize()}: the mean of their classes.",
        height=130 + 26 * (len(order) + 1) * len(gains),
        scattermode="group",
        xaxis={"title": {"text": "points of IoU"}},
        yaxis={"categoryorder": "array", "categoryarray": [_SMALL, *order]},
    )


def gains_plot(comparison: Comparison) -> Plot:
    """What each fusion gains over each simpler one, in points."""
    figure = go.Figure()
    names = [fusion.name for fusion in comparison.fusions]
    for simpler, colour in zip(names[:-1], _COLOURS * 2, strict=False):
        pairs = [(fusion.name, fusion.over(simpler).miou) for fusion in comparison.fusions[names.index(simpler) + 1 :]]
        figure.add_scatter(
            **_with_bars(dict(pairs), colour),
            name=f"over {simpler}",
            offsetgroup=simpler,
            visible=True if simpler in _AT_FIRST or len(names) <= 3 else "legendonly",
        )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dot"})
    chosen = comparison.chosen
    return plot(
        "gains",
        figure,
        title="Gains over simpler fusions",
        told=f"Points of cross-fitted mIoU with 95% intervals. {chosen.name} is exported: it is the simplest "
        "than which no other is measurably better, that is, by an interval above 0, and no worse on val. "
        "Click a name to show or hide it.",
        height=120 + 38 * len(names),
        scattermode="group",
        xaxis={"title": {"text": "points of mIoU"}},
        yaxis={"categoryorder": "array", "categoryarray": names[:0:-1]},
    )


def class_plots(view: RunView) -> list[Plot]:
    """IoU by class: on the frames that chose nothing, and cross-fitted; else the best trial's on val."""
    plots = []
    final = view.final
    if final is not None and final.evidence:
        by_name = {("its best model" if name == "member-1" else name): each for name, each in final.evidence.items()}
        shown = [name for name in (ENSEMBLE, "mean", "its best model") if name in by_name]
        ious = {name: measured(by_name[name]).ious for name in shown}
        plots.append(_classes("classes-final", view.final_frames, ious))
    elif final is not None and _ious(final.scores):
        plots.append(_classes("classes-final", view.final_frames, {ENSEMBLE: _ious(final.scores)}))
    if view.comparison is not None:
        chosen = view.comparison.chosen.name
        fusions = [each for each in view.comparison.fusions if each.name in (chosen, *_AT_FIRST)]
        fusions.sort(key=lambda fusion: fusion.name != chosen)
        plots.append(_classes("classes", "cross-fitted", {each.name: each.crossfit.ious for each in fusions}))
        gains = class_gains_plot(view.comparison)
        plots += [] if gains is None else [gains]
    if not plots:
        ranked = next((stage.ranked for stage in reversed(view.searches) if stage.ranked), [])
        if ranked and _ious(ranked[0].scores):
            plots.append(_classes("classes", "on val", {ranked[0].trial: _ious(ranked[0].scores)}))
    return plots


def _compared(comparison: Comparison) -> TextTable:
    names = [fusion.name for fusion in comparison.fusions]
    simpler = [name for name in _AT_FIRST if name in names[:-1]]
    small = [] if math.isnan(comparison.fusions[0].crossfit.small_miou) else simpler
    rows = []
    for fusion in comparison.fusions:
        gains = {each.over: each for each in fusion.gains}
        scores = (fusion.crossfit.miou, fusion.val.miou, fusion.crossfit.small_miou, fusion.crossfit.ece)
        cost = f"{fusion.costs[MILLISECONDS]:.1f}" if MILLISECONDS in fusion.costs else "-"
        over = [_points(gains[name].miou) if name in gains else "" for name in simpler]
        over += [_points(gains[name].small_miou) if name in gains else "" for name in small]
        rows.append((fusion.name, fusion.trial, *map(_number, scores), cost, *over))
    return TextTable(
        head=(
            "fusion",
            "trial",
            "mIoU, cross-fitted",
            "mIoU on val",
            _SMALL,
            "calibration error",
            "ms an image",
            *(f"over {name}, points" for name in simpler),
            *(f"{_SMALL} over {name}, points" for name in small),
        ),
        rows=tuple(rows),
        chosen=names.index(comparison.chosen.name),
        told="The simplest first. Cross-fitted, as small objects and calibration error are too: scored on each block "
        "of training frames by a fit on the others. In brackets 95% intervals.",
    )


def _with_bars(intervals: Mapping[str, Interval], colour: str) -> dict[str, object]:
    """Markers at the intervals' figures, in points, with a bar from low to high; by the name on the other axis."""
    values = [100 * each.value for each in intervals.values()]
    pairs = list(zip(intervals.values(), values, strict=True))
    return {
        "x": short(values),
        "y": list(intervals),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": short(100 * each.high - value for each, value in pairs),
            "arrayminus": short(value - 100 * each.low for each, value in pairs),
            "color": colour,
        },
        "text": [_points(each) for each in intervals.values()],
        "mode": "markers",
        "marker": {"color": colour, "size": 9},
        "orientation": "h",
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }


def _classes(name: str, where: str, ious: Mapping[str, Mapping[str, float]]) -> Plot:
    """ious: of each model by class, the one that counts first."""
    first = next(iter(ious.values()))
    order = sorted(first, key=lambda each: -math.inf if math.isnan(first[each]) else first[each])
    figure = go.Figure()
    for (model, own), (colour, symbol) in reversed(list(zip(ious.items(), _MARKS, strict=False))):
        figure.add_scatter(
            x=short(own.get(each, math.nan) for each in order),
            y=order,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=model,
            hovertemplate=f"%{{y}}: %{{x:.3f}}<extra>{model}</extra>",
        )
    absent = [each for each in order if math.isnan(first[each])]
    best, worst = order[-1], next((each for each in order if each not in absent), order[0])
    return plot(
        name,
        figure,
        title=f"IoU by class, {where}",
        told=f"Best {best} ({_number(first[best])}), worst {worst} ({_number(first[worst])})."
        + (f" Not in these frames: {', '.join(absent)}." if absent else ""),
        height=130 + 26 * len(order),
        xaxis={"range": [0, 1], "title": {"text": "IoU"}},
        yaxis={"categoryorder": "array", "categoryarray": order},
    )


def _ious(scores: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("iou."): score for name, score in scores.items() if name.startswith("iou.")}


def _points(interval: Interval) -> str:
    value, low, high = (100 * each for each in (interval.value, interval.low, interval.high))
    told = f"{value:+.1f}" if math.isnan(low) else f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{told}, {NO_GAIN}" if interval.spans_zero else told


def _number(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"
