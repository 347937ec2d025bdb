"""The best compromises between mIoU and time."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from ensemble_tune.comparison import fusion_name
from ensemble_tune.ensemble.score_names import MILLISECONDS
from ensemble_tune.errors import quoted
from ensemble_tune.report.plot import BLUE, GREY, ORANGE, RED, Plot, plot, short
from ensemble_tune.report.run_view import RunView
from ensemble_tune.results import told
from ensemble_tune.tune.pareto import front, pick
from ensemble_tune.tune.record import Objective, TrialRecord

_MOST_POINTS = 1500


def compromise_plot(view: RunView) -> Plot | None:
    """mIoU on val against milliseconds an image, base models and fusions; None where none has both."""
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
    figure = go.Figure()
    for name, words, colour, symbol in (("base", "base models", GREY, "circle"), ("meta", "fusions", BLUE, "diamond")):
        records = found.get(name, [])[:_MOST_POINTS]
        if records:
            figure.add_scatter(
                **_places(records),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=words,
                hovertemplate="%{text}<br>%{x:.2f} ms, mIoU %{y:.4f}<extra></extra>",
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
        how = f": ensemble-tune export {quoted(view.place)} --pick knee" if own == "meta" else ""
        said = (
            f" No other beats those on the line, {len(unbeaten)} of {len(found[own])}, in both; "
            f"the knee is {knee.trial}{how}."
        )
    return plot(
        "compromise",
        figure,
        title="Pareto front: mIoU against time",
        told=f"mIoU on val against milliseconds an image; up and left is better.{said}",
        height=380,
        xaxis={"title": {"text": "milliseconds an image"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "mIoU on val"}},
        hovermode="closest",
    )


def _places(records: list[TrialRecord]) -> dict[str, object]:
    return {
        "x": short(record.scores[MILLISECONDS] for record in records),
        "y": short(record.scores["miou"] for record in records),
        "text": [f"{record.trial}: {_what(record)}" for record in records],
    }


def _what(record: TrialRecord) -> str:
    return fusion_name(record.params) if record.stage == "meta" else told(record)
