"""The best compromises between two objectives of a search, between mIoU and time where it had one; and their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ensemble_tune.choices import choices
from ensemble_tune.comparison import fusion_name
from ensemble_tune.ensemble.score_names import MILLISECONDS, PARAMETERS
from ensemble_tune.errors import quoted
from ensemble_tune.report.plot import BLUE, GREY, ORANGE, RED, Plot, plot, short
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told
from ensemble_tune.tune.aim import objectives_of
from ensemble_tune.tune.pareto import front, pick
from ensemble_tune.tune.record import Objective, Status, TrialRecord

_MOST_POINTS = 1500
_SMALLEST, _LARGEST = 6.0, 22.0
"""Diameters in pixels of markers whose area grows with the parameters."""
_USUAL = (Objective("miou"), Objective(MILLISECONDS, "min"))
_WORDS = {"miou": ("mIoU", "mIoU on val"), MILLISECONDS: ("time", "milliseconds an image")}
"""What people call a score, in short and at an axis; others go by their own names."""


def compromise_plot(view: RunView) -> Plot | None:
    """The first objective against the second, base models and fusions; None where no trial has both scores."""
    # Fusions are what a person takes; their search may have gone after other scores than that of the base models.
    for own in ("meta", "base"):
        objectives = _objectives(view, own)
        found = {name: _comparable(view, name, objectives) for name in ("base", "meta")}
        if found[own]:
            return _plot(view, own, found, objectives)
    return None


def _objectives(view: RunView, stage: str) -> tuple[Objective, Objective]:
    """The first two that a stage's search went after; mIoU and time where it went after one."""
    found = objectives_of(view.sessions, stage)
    return (found[0], found[1]) if len(found) > 1 else _USUAL


def _comparable(view: RunView, name: str, objectives: Sequence[Objective]) -> list[TrialRecord]:
    """A stage's trials that have both scores, the best first."""
    stage = view.stage(name)
    ranked = [] if stage is None else stage.ranked
    return [r for r in ranked if all(math.isfinite(r.scores.get(each.metric, math.nan)) for each in objectives)]


def _plot(
    view: RunView, own: str, found: Mapping[str, Sequence[TrialRecord]], objectives: tuple[Objective, Objective]
) -> Plot:
    """own: the stage whose front is drawn."""
    up, across = objectives
    height, width = (_WORDS.get(each.metric, (each.metric, each.metric)) for each in objectives)
    most = max(_millions(record) for records in found.values() for record in records)
    figure = go.Figure()
    for name, words, colour, symbol in (("base", "base models", GREY, "circle"), ("meta", "fusions", BLUE, "diamond")):
        records = found[name][:_MOST_POINTS]
        if records:
            figure.add_scatter(
                **_places(records, objectives),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": _sizes(records, most), "opacity": 0.8},
                name=words,
                customdata=[_size_told(record) for record in records],
                hovertemplate=f"%{{text}}<br>{across.metric} %{{x}}, {height[0]} %{{y}}%{{customdata}}<extra></extra>",
            )
    # A base model by itself may be taken too; one that is a fusion already counts once.
    offered = choices(found[own], found["base"]) if own == "meta" else found[own]
    unbeaten = front(offered, objectives)
    said = ""
    if unbeaten:
        figure.add_scatter(
            **_places(unbeaten, objectives),
            mode="lines",
            line={"color": ORANGE, "shape": "vh", "width": 2},
            name="front",
            hoverinfo="skip",
        )
        knee = pick(offered, objectives, "knee")
        figure.add_scatter(
            **_places([knee], objectives),
            mode="markers",
            marker={"color": RED, "symbol": "circle-open", "size": 16, "line": {"width": 2}},
            name="knee",
            hoverinfo="skip",
        )
        asked = "" if objectives == _USUAL else "".join(f" --objective {quoted(_typed(each))}" for each in objectives)
        how = f": ensemble-tune export {quoted(view.place)} --pick knee{asked}" if own == "meta" else ""
        finished = sum(record.status is Status.FINISHED for record in offered)
        said = (
            f" No other finished one beats those on the line, {len(unbeaten)} of {finished}, in both; "
            f"the knee is {knee.trial}{how}."
        )
    larger = " The larger a mark, the more parameters." if most else ""
    better = f"{'up' if up.mode == 'max' else 'down'} and {'right' if across.mode == 'max' else 'left'}"
    return plot(
        "compromise",
        figure,
        title=f"Pareto front: {height[0]} against {width[0]}",
        told=f"{height[1]} against {width[1]}; {better} is better.{larger}{said}",
        height=380,
        xaxis={"title": {"text": width[1]}, "rangemode": "tozero"},
        yaxis={"title": {"text": height[1]}},
        hovermode="closest",
    )


def _millions(record: TrialRecord) -> float:
    """Of parameters; 0 where nobody counted them."""
    found = record.scores.get(PARAMETERS, 0.0)
    return found if math.isfinite(found) else 0.0


def _sizes(records: Sequence[TrialRecord], most: float) -> list[float]:
    return [round(max(_SMALLEST, _LARGEST * math.sqrt(_millions(each) / most)), 1) if most else 8.0 for each in records]


def _size_told(record: TrialRecord) -> str:
    millions = _millions(record)
    return f", {millions:.1f} M parameters" if millions else ""


def _places(records: Sequence[TrialRecord], objectives: tuple[Objective, Objective]) -> dict[str, object]:
    up, across = objectives
    return {
        "x": short(record.scores[across.metric] for record in records),
        "y": short(record.scores[up.metric] for record in records),
        "text": [f"{record.trial}: {_what(record)}" for record in records],
    }


def _typed(objective: Objective) -> str:
    return objective.metric if objective.mode == "max" else f"{objective.metric}:min"


def _what(record: TrialRecord) -> str:
    return fusion_name(record.params) if record.stage == "meta" else told(record)
