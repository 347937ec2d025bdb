"""The best compromises between mIoU, time and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from ensemble_tune.comparison import fusion_name
from ensemble_tune.ensemble.score_names import MILLISECONDS, PARAMETERS
from ensemble_tune.report.plot import BLUE, GREY, ORANGE, RED, Plot, plot, short
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told
from ensemble_tune.tune.pareto import front, pick
from ensemble_tune.tune.record import Objective, TrialRecord

_MOST_POINTS = 1500
_SMALLEST, _LARGEST = 6.0, 22.0
"""Diameters in pixels of markers whose area grows with the parameters."""


def compromise_plot(view: RunView) -> Plot | None:
    """mIoU on val against milliseconds an image, base models and fusions, each as large as its parameters are many.

    None where none has both.
    """
    found = {
        name: [
            record
            for record in stage.ranked
            if all(math.isfinite(record.scores.get(score, math.nan)) for score in ("miou", MILLISECONDS))
        ]
        for name in ("base", "meta")
        if (stage := view.stage(name)) is not None
    }
    if not any(found.values()):
        return None
    most = max(_millions(record) for records in found.values() for record in records)
    figure = go.Figure()
    for name, words, colour, symbol in (("base", "base models", GREY, "circle"), ("meta", "fusions", BLUE, "diamond")):
        records = found.get(name, [])[:_MOST_POINTS]
        if records:
            figure.add_scatter(
                **_places(records),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": _sizes(records, most), "opacity": 0.8},
                name=words,
                customdata=[_size_told(record) for record in records],
                hovertemplate="%{text}<br>%{x:.2f} ms, mIoU %{y:.4f}%{customdata}<extra></extra>",
            )
    objectives = (Objective("miou"), Objective(MILLISECONDS, "min"))
    own = "meta" if found.get("meta") else "base"
    unbeaten = front(found[own], objectives)
    said = ""
    if unbeaten:
        figure.add_scatter(
            **_places(unbeaten),
            mode="lines",
            line={"color": ORANGE, "shape": "vh", "width": 2},
            name="front",
            hoverinfo="skip",
        )
        knee = pick(found[own], objectives, "knee")
        figure.add_scatter(
            **_places([knee]),
            mode="markers",
            marker={"color": RED, "symbol": "circle-open", "size": 16, "line": {"width": 2}},
            name="knee",
            hoverinfo="skip",
        )
        how = f": ensemble-tune export {view.place} --pick knee" if own == "meta" else ""
        said = (
            f" No other beats those on the line, {len(unbeaten)} of {len(found[own])}, in both; "
            f"the knee is {knee.trial}{how}."
        )
    larger = " The larger a mark, the more parameters." if most else ""
    return plot(
        "compromise",
        figure,
        title="Pareto front: mIoU against time",
        told=f"mIoU on val against milliseconds an image; up and left is better.{larger}{said}",
        height=380,
        xaxis={"title": {"text": "milliseconds an image"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "mIoU on val"}},
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


def _places(records: list[TrialRecord]) -> dict[str, object]:
    return {
        "x": short(record.scores[MILLISECONDS] for record in records),
        "y": short(record.scores["miou"] for record in records),
        "text": [f"{record.trial}: {_what(record)}" for record in records],
    }


def _what(record: TrialRecord) -> str:
    return fusion_name(record.params) if record.stage == "meta" else told(record)
