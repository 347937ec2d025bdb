"""The page: all that a run has to tell, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ensemble_tune.errors import ConfigError
from ensemble_tune.report.answer import answer
from ensemble_tune.report.compromise import compromise_plot
from ensemble_tune.report.confusion import confusion_plot
from ensemble_tune.report.curves import curves_plot
from ensemble_tune.report.fusions import class_plots, fusion_table, gains_plot
from ensemble_tune.report.members import member_table
from ensemble_tune.report.pictures import pictures
from ensemble_tune.report.plot import Plot
from ensemble_tune.report.run_view import RunView
from ensemble_tune.report.timeline import timeline_plot
from ensemble_tune.report.trial_table import trial_tables
from ensemble_tune.report.tuning import tuning_plots
from ensemble_tune.storage import Location, location, make_folder, write_text
from ensemble_tune.tune.record import Status

REPORT = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A call of a search, for people."""

    stage: str
    started: str
    hours: str
    slots: int
    ended: str
    host: str


def write_report(
    run: str | Location,
    to: str | Location | None = None,
    *,
    data: str | None = None,
    final: str | Location | None = None,
    price: float | None = None,
    cache: str | Path | None = None,
) -> Location:
    """Writes one HTML page about a run, be it under way or ended, and returns where it is.

    run: a run folder, here or in an object store. to: the file; None is report.html in the run folder. data: where the
    frames are, for the pictures; None is what the manifest says. final: what `train` wrote to; None is the run's own.
    price: what a machine costs an hour. cache: a local folder for what is fetched or made of the data. Raises RunError
    where no search is in `run`, ConfigError where `to` cannot be written.
    """
    run = location(run)
    to = run / REPORT if to is None else location(to)
    view = RunView.of(run, None if final is None else location(final))
    if to.is_dir():
        raise ConfigError(f"--to is the file to write, but {to} is a folder; try {to / REPORT}")
    try:
        make_folder(to.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{error}, with --to {REPORT}") from None
    page = render(view, data=data, price=price, cache=None if cache is None else Path(cache))
    write_text(to, page)
    return to


def render(view: RunView, *, data: str | None = None, price: float | None = None, cache: Path | None = None) -> str:
    """The page's text; data, price, cache as above."""
    return _template().render(
        view=view,
        answer=answer(view, price=price),
        fusions=fusion_table(view),
        members=member_table(view),
        gains=_there(gains_plot(view.comparison) if view.comparison is not None else None),
        classes=[*class_plots(view), *_there(confusion_plot(view))],
        pictures=pictures(view.final, data, cache),
        curves=[each for stage in view.searches for each in _there(curves_plot(stage))],
        tuning={stage.title: tuning_plots(stage) for stage in view.searches},
        compromise=_there(compromise_plot(view)),
        timeline=_there(timeline_plot(view)),
        tables=trial_tables(view),
        statuses=[status.value for status in Status],
        provenance=_provenance(view),
        sessions=_sessions(view),
        made=view.read.strftime("%Y-%m-%d %H:%M UTC"),
        version=version("ensemble-tune"),
        # All ours, or plotly's: nothing of a run is in them.
        css=Markup(_text("page.css")),
        script=Markup(_text("page.js")),
        plotly=Markup(get_plotlyjs()),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ensemble_tune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _text(name: str) -> str:
    return (resources.files("ensemble_tune.report") / name).read_text(encoding="utf-8")


def _there(plot: Plot | None) -> list[Plot]:
    return [] if plot is None else [plot]


def _provenance(view: RunView) -> list[tuple[str, str]]:
    """What all trials' rows say of where they are from; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for stage in view.stages:
        for trial in stage.trials:
            for name, value in trial.provenance.items():
                found.setdefault(name, {})[value] = None
    return [("run folder", str(view.place)), *((name, ", ".join(values)) for name, values in found.items())]


def _sessions(view: RunView) -> Sequence[Session]:
    told = []
    for each in sorted(view.sessions, key=lambda session: session.started):
        minutes = (each.updated - each.started).total_seconds() / 60
        told.append(
            Session(
                stage=each.stage,
                started=each.started.strftime("%Y-%m-%d %H:%M:%S"),
                hours=f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h",
                slots=each.slots,
                ended=each.reason or ("its driver died" if each.ended is None and view.standing != "running" else ""),
                host=f"{each.host}/{each.pid}",
            )
        )
    return told
