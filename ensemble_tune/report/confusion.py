"""What is taken for what."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ensemble_tune.ensemble.evidence import ENSEMBLE, Evidence
from ensemble_tune.report.plot import Plot, plot
from ensemble_tune.report.run_view import RunView

_MOST_NAMED = 20
"""With more classes than that there is no room for numbers."""


def confusion_plot(view: RunView) -> Plot | None:
    """Of the final training's frames, else of the cross-fitted ones; None where the evidence of neither is there."""
    final = view.final
    if final is not None and ENSEMBLE in final.evidence:
        return _plot(final.evidence[ENSEMBLE], view.final_frames)
    if view.comparison is not None and (evidence := view.crossfit(view.comparison.chosen)) is not None:
        return _plot(evidence, "cross-fitted on the training frames")
    return None


def _plot(evidence: Evidence, where: str) -> Plot:
    counts = evidence.confusions.sum(0).astype(float)
    truth = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, truth, out=np.full_like(counts, np.nan), where=truth > 0)
    many = len(evidence.classes) > _MOST_NAMED
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(each) else round(each, 1) for each in row] for row in shares.tolist()],
            x=list(evidence.classes),
            y=list(evidence.classes),
            zmin=0,
            zmax=100,
            colorscale=[[0, "rgba(76,141,255,0)"], [1, "rgba(76,141,255,0.85)"]],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{z:.1f}% of %{y} is taken for %{x}<extra></extra>",
            **({} if many else {"texttemplate": "%{z:.0f}", "textfont": {"size": 11}}),
        )
    )
    wrong = shares - np.diag(np.full(len(shares), np.inf))
    told = f"Of each true class (row) the share of pixels, in percent, that is taken for each class, {where}."
    if np.nanmax(wrong, initial=0) > 0:
        row, column = np.unravel_index(np.nanargmax(wrong), wrong.shape)
        told += (
            f" The largest confusion: {shares[row, column]:.0f}% of {evidence.classes[row]} "
            f"is taken for {evidence.classes[column]}."
        )
    return plot(
        "confusion",
        figure,
        title="Confusion matrix",
        told=told,
        height=160 + (14 if many else 34) * len(evidence.classes),
        xaxis={"title": {"text": "predicted"}, "showgrid": False, "tickangle": -45},
        yaxis={"title": {"text": "truth"}, "showgrid": False, "autorange": "reversed"},
    )
