"""Learning curves of a stage: who was trained to the end, who was stopped and when, who is under way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from ensemble_tune.report.plot import BLUE, GREY, OCHRE, ORANGE, RED, Plot, plot, short, thinned
from ensemble_tune.report.run_view import StageView
from ensemble_tune.tune.record import Status, TrialRecord

_MOST_LINES, _MOST_POINTS = 300, 60
_STYLES = {
    Status.FINISHED: ("finished", {"color": BLUE, "width": 1.5}, "circle"),
    Status.STOPPED: ("stopped early", {"color": GREY, "width": 1, "dash": "dot"}, "x"),
    Status.PAUSED: ("paused", {"color": OCHRE, "width": 1, "dash": "dot"}, "line-ns-open"),
    Status.RUNNING: ("running", {"color": OCHRE, "width": 1.5}, "circle-open"),
    Status.FAILED: ("failed", {"color": RED, "width": 1, "dash": "dot"}, "x"),
    Status.OUT_OF_MEMORY: ("out of memory", {"color": RED, "width": 1, "dash": "dot"}, "x-thin-open"),
    Status.LOST: ("lost", {"color": RED, "width": 1, "dash": "dot"}, "x-open"),
}


def curves_plot(stage: StageView) -> Plot | None:
    """The score by epoch; None where no trial has had two epochs with a score."""
    curves = {trial.trial: _curve(stage, trial) for trial in stage.trials}
    there = [trial for trial in stage.trials if curves[trial.trial]]
    if all(len(curves[trial.trial]) < 2 for trial in there):
        return None
    best = next(iter(stage.ranked), None)
    shown = _shown(stage, there)
    figure = go.Figure()
    for status, (name, line, symbol) in _STYLES.items():
        own = [trial for trial in shown if trial.status is status and trial is not best]
        if own:
            _add_lines(figure, [(trial.trial, curves[trial.trial]) for trial in own], name, line)
            _add_ends(figure, [(trial.trial, curves[trial.trial][-1]) for trial in own], name, line, symbol)
    if best is not None and curves[best.trial]:
        name, line = f"best: {best.trial}", {"color": ORANGE, "width": 3}
        _add_lines(figure, [(best.trial, curves[best.trial])], name, line)
        _add_ends(figure, [(best.trial, curves[best.trial][-1])], name, line, _STYLES[best.status][2])
    left_out = len(there) - len(shown)
    counts = {name: sum(trial.status is status for trial in there) for status, (name, _, _) in _STYLES.items()}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return plot(
        f"curves-{stage.name}",
        figure,
        title=f"Learning curves: {stage.title.lower()}",
        told=f"{stage.metric} by epoch: {told}. A cross marks where a trial was stopped or failed."
        + (f" {left_out} curves between the best and the worst are left out." if left_out else ""),
        height=400,
        xaxis={"title": {"text": "epoch"}, "rangemode": "tozero"},
        yaxis={"title": {"text": stage.metric}},
        hovermode="closest",
    )


def _curve(stage: StageView, trial: TrialRecord) -> list[tuple[int, float]]:
    """Epochs with scores, thinned out where they are many; the best and the last stay."""
    known = [(row.epoch, row.scores.get(stage.metric or "", math.nan)) for row in stage.rows[trial.trial]]
    known = [(epoch, score) for epoch, score in known if not math.isnan(score)]
    every = math.ceil(len(known) / _MOST_POINTS)
    return [
        point for place, point in enumerate(known) if place % every == 0 or point[0] in (trial.best_epoch, known[-1][0])
    ]


def _shown(stage: StageView, there: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All, or where they are too many the best half of so many, and others at even distances."""
    places = {trial.trial: place for place, trial in enumerate(stage.ranked)}
    ordered = sorted(there, key=lambda trial: places.get(trial.trial, len(places)))
    return thinned(ordered, _MOST_LINES)


def _add_lines(
    figure: go.Figure,
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    name: str,
    line: dict[str, object],
) -> None:
    """Curves of one kind as one trace, with gaps between them: hundreds of traces would be slow."""
    points = list(_with_gaps(curves))
    figure.add_scatter(
        x=[epoch for _, epoch, _ in points],
        y=short(score for _, _, score in points),
        text=[trial for trial, _, _ in points],
        mode="lines",
        line=line,
        name=name,
        legendgroup=name,
        hovertemplate="%{text}, epoch %{x}: %{y:.4f}<extra></extra>",
    )


def _with_gaps(
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]],
) -> Iterator[tuple[str | None, int | None, float | None]]:
    for trial, curve in curves:
        for epoch, score in curve:
            yield trial, epoch, score
        yield None, None, None


def _add_ends(
    figure: go.Figure,
    ends: Sequence[tuple[str, tuple[int, float]]],
    name: str,
    line: dict[str, object],
    symbol: str,
) -> None:
    figure.add_scatter(
        x=[epoch for _, (epoch, _) in ends],
        y=short(score for _, (_, score) in ends),
        text=[trial for trial, _ in ends],
        mode="markers",
        marker={"color": line["color"], "symbol": symbol, "size": 7},
        legendgroup=name,
        showlegend=False,
        hovertemplate=f"%{{text}}, {name} at epoch %{{x}}: %{{y:.4f}}<extra></extra>",
    )
