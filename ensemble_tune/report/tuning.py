"""What parameters did: Optuna's own plots of a study in memory, rebuilt from the ledger."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization import plot_parallel_coordinate, plot_param_importances, plot_slice
from plotly.colors import sample_colorscale

from ensemble_tune.report.plot import BLUE, GREY, ORANGE, Plot, plot, thinned
from ensemble_tune.report.run_view import StageView

_FEWEST = 8
"""Of fewer trials nothing can be said about what mattered."""
_MOST_LINES, _MOST_POINTS = 200, 1500
_SLICES = 6
_BEST_SHARE, _FEWEST_BEST = 0.1, 4
"""Importance is that for being among the best tenth, or among the best four."""
_DECADE = 10.0
_LARGEST = 2.0**53
"""Beyond it a whole number is not what its float is."""
_NAME = "trial"
_SCALE = [[0.0, GREY], [0.6, BLUE], [1.0, ORANGE]]


def study_of(stage: StageView) -> optuna.Study | None:
    """A study in memory of the trials that have a score, each at its best epoch; None where nothing was varied.

    A stopped trial counts with what it had reached, which is less than it might have. The ledger does not say what the
    space was: a range is what occurs in it, and logarithmic where it spans more than a decade.
    """
    scored = [trial for trial in stage.ranked if trial.score is not None and math.isfinite(trial.score)]
    distributions = {
        name: distribution
        for name in stage.varied
        if (distribution := _distribution([t.params[name] for t in scored if name in t.params])) is not None
    }
    if len(scored) < 2 or not distributions:
        return None
    with _quiet():
        study = optuna.create_study(direction="maximize" if stage.mode == "max" else "minimize")
    for trial in sorted(scored, key=lambda trial: trial.number):
        own = {name: each for name, each in distributions.items() if name in trial.params}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=trial.score,
                params={name: _as(each, trial.params[name]) for name, each in own.items()},
                distributions=own,
                user_attrs={_NAME: trial.trial},
            )
        )
    return study


def tuning_plots(stage: StageView) -> list[Plot]:
    """Importance, parallel coordinates, and a slice for each of the parameters that mattered most."""
    study = study_of(stage)
    if study is None:
        return []
    with _quiet():
        order = _by_importance(study)
        plots = [_importance(stage, study)] if len(order) > 1 and len(_trials(study)) >= _FEWEST else []
        plots.append(_parallel(stage, study, order))
        shown = _thinned(stage, study)
        plots += [_slice(stage, shown, name, len(_trials(study))) for name in order[:_SLICES]]
    return plots


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Optuna says of a study that nobody asked it for."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # "A new study created": it is the run's, and not new
    try:
        with warnings.catch_warnings():
            # Few trials in a condition, methods that are experimental: the page says how many trials there are.
            warnings.filterwarnings("ignore", module=r"optuna\.")
            yield
    finally:
        optuna.logging.set_verbosity(before)  # as it was


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    """Its own: Optuna would copy them all, each time."""
    return study.get_trials(deepcopy=False)


def _best_first(stage: StageView, study: optuna.Study) -> list[FrozenTrial]:
    return sorted(_trials(study), key=lambda trial: trial.value or 0.0, reverse=stage.mode == "max")


def _evaluator(study: optuna.Study) -> PedAnovaImportanceEvaluator:
    share = max(_BEST_SHARE, _FEWEST_BEST / len(_trials(study)))
    return PedAnovaImportanceEvaluator(target_quantile=min(0.5, share))


def _by_importance(study: optuna.Study) -> list[str]:
    return list(get_param_importances(study, evaluator=_evaluator(study)))


def _importance(stage: StageView, study: optuna.Study) -> Plot:
    figure = plot_param_importances(study, evaluator=_evaluator(study))
    figure.update_traces(marker_color=BLUE, hovertemplate="%{y}: %{x:.2f}<extra></extra>")
    names = list(figure.data[0].y)
    trials = len(_trials(study))
    return plot(
        f"importance-{stage.name}",
        figure,
        title=f"Which parameters mattered: {stage.title.lower()}",
        told=f"PED-ANOVA over {trials} trials: how much each parameter says about who is among the best"
        + (", a hint at most from so few trials." if trials < 50 else "."),
        height=120 + 28 * len(names),
        xaxis={"title": {"text": "importance"}, "range": [0, 1.2 * max(figure.data[0].x)]},
        yaxis={"title": {"text": ""}},
        showlegend=False,
    )


def _parallel(stage: StageView, study: optuna.Study, order: Sequence[str]) -> Plot:
    best = _best_first(stage, study)
    shown = optuna.create_study(direction=study.direction)
    # The best last, so that they are drawn above the others.
    shown.add_trials(best[:_MOST_LINES][::-1])
    metric = stage.metric or "score"
    figure = plot_parallel_coordinate(shown, params=list(order[:_SLICES]), target_name=metric)
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.x[0] is not None]
    places = [trace.y[0] if stage.mode == "max" else 1 - trace.y[0] for trace in lines]
    for trace, colour in zip(lines, sample_colorscale(_SCALE, places), strict=True):
        trace.line.color = colour
        trace.opacity = 0.8
    figure.data[-1].marker.update(colorscale=_SCALE, reversescale=stage.mode == "min", showscale=False)
    figure.for_each_annotation(lambda note: note.font.update(color=None))  # the page's own
    left_out = max(0, len(best) - _MOST_LINES)
    return plot(
        f"parallel-{stage.name}",
        figure,
        title=f"Parallel coordinates: {stage.title.lower()}",
        told=f"A line for each trial through its {metric} and its most important parameters; the best are orange."
        + (f" The {left_out} worst are left out." if left_out else ""),
        height=420,
        hovermode="closest",
    )


def _thinned(stage: StageView, study: optuna.Study) -> optuna.Study:
    """A study of the trials that slices show: of ten thousand in six slices a page would be too large."""
    if len(_trials(study)) <= _MOST_POINTS:
        return study
    shown = optuna.create_study(direction=study.direction)
    # In the order in which they were begun, which their colours show.
    shown.add_trials(sorted(thinned(_best_first(stage, study), _MOST_POINTS), key=lambda trial: trial.number))
    return shown


def _slice(stage: StageView, study: optuna.Study, name: str, in_all: int) -> Plot:
    """study: the trials to show. in_all: how many there are."""
    metric = stage.metric or "score"
    figure = plot_slice(study, params=[name], target_name=metric)
    trace, axis, trials = figure.data[0], figure.layout.xaxis, _trials(study)
    # Optuna's colour is a trial's number in the study: early grey, late orange.
    trace.text = [trials[number].user_attrs[_NAME] for number in trace.marker.color]
    trace.marker.update(colorscale=_SCALE, showscale=False, size=8, line={"width": 0})
    trace.hovertemplate = "%{text}: %{x}, %{y:.4f}<extra></extra>"
    if axis.categoryarray is not None:  # texts come in quotation marks
        trace.x, axis.categoryarray = ([str(each).strip("'") for each in own] for own in (trace.x, axis.categoryarray))
    return plot(
        f"slice-{stage.name}-{name}",
        figure,
        title=name,
        told=f"{metric} of each trial against {name}; late trials are orange."
        + (
            f" {in_all - len(trials)} trials between the best and the worst are left out."
            if in_all > len(trials)
            else ""
        ),
        height=280,
    )


def _distribution(values: Sequence[Any]) -> BaseDistribution | None:
    """What such values may have been drawn from; None where there is one value alone."""
    if len(set(map(repr, values))) < 2:
        return None
    if any(isinstance(value, int | float) and not abs(value) <= _LARGEST for value in values):
        return None  # Optuna's axes have no place for it
    if any(isinstance(value, bool | str) for value in values):
        return CategoricalDistribution(sorted(set(values), key=repr))
    low, high = min(values), max(values)
    log = low > 0 and high / low > _DECADE
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _as(distribution: BaseDistribution, value: Any) -> Any:
    return float(value) if isinstance(distribution, FloatDistribution) else value
