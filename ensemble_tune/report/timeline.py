"""When each slot trained what: gaps are time that was paid for and not used."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import plotly.graph_objects as go

from ensemble_tune.report.plot import BLUE, GREEN, GREY, OCHRE, ORANGE, PINK, PURPLE, RED, TEAL, Plot, plot, short
from ensemble_tune.report.run_view import RunView
from ensemble_tune.tune.record import EpochRecord
from ensemble_tune.tune.session import SessionRecord

_COLOURS = {"base": BLUE, "fold": TEAL, "meta": ORANGE, "compare": PURPLE, "final": GREEN, "probe": OCHRE}
_OTHERS = (PINK, RED, OCHRE)
_STARTING = "a worker starts"
_TOGETHER_SECONDS = 1.0
"""Epochs of a trial that follow each other so closely are one bar."""
_SLACK_SECONDS = 0.5
"""By which bars of one slot may overlap: what a worker says of its times is rounded, and told by its own clock."""
_MOST_BARS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A worker busy with one thing; times in seconds since 1970."""

    start: float
    end: float
    worker: str
    kind: str
    """The stage, or that the worker starts."""
    what: str


def bars(rows: Sequence[EpochRecord]) -> list[Bar]:
    """What workers did, in the order of time. rows: epochs of any trials."""
    found: list[Bar] = []
    by_life: dict[tuple[str, int, str], list[EpochRecord]] = defaultdict(list)
    for row in rows:
        by_life[row.trial, row.attempt, row.worker].append(row)
    for (trial, _, worker), own in by_life.items():
        last: Bar | None = None
        for row in sorted(own, key=lambda row: row.epoch):
            saved = row.seconds.get("checkpoint", 0.0)  # after the epoch was reported
            end = row.reported.timestamp() + saved
            start = end - row.busy
            if last is not None and start - last.end < _TOGETHER_SECONDS:
                last = Bar(start=last.start, end=max(end, last.end), worker=worker, kind=row.stage, what=trial)
                found[-1] = last
                continue
            if row.seconds.get("start"):
                begun = start - row.seconds["start"]
                found.append(Bar(start=begun, end=start, worker=worker, kind=_STARTING, what=trial))
            last = Bar(start=start, end=end, worker=worker, kind=row.stage, what=trial)
            found.append(last)
    return sorted(found, key=lambda bar: bar.start)


def slots(found: Sequence[Bar]) -> list[int]:
    """The slot of each bar, from 0: a worker keeps its own, and a new one takes the first that is free."""
    free: list[float] = []
    own: dict[str, int] = {}
    places = []
    for bar in found:
        place = own.get(bar.worker, -1)
        if place < 0 or free[place] > bar.start + _SLACK_SECONDS:
            place = next((k for k, until in enumerate(free) if until <= bar.start + _SLACK_SECONDS), len(free))
            own[bar.worker] = place
        if place == len(free):
            free.append(0.0)
        free[place] = max(free[place], bar.end)
        places.append(place)
    return places


class Clock:
    """Time in which a search ran: the nights between two calls of it are cut out."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        """spans: starts and ends in seconds since 1970; they may overlap. At least one."""
        merged: list[tuple[float, float]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1] + _TOGETHER_SECONDS:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        self._starts = [start for start, _ in merged]
        self._lengths = [end - start for start, end in merged]
        self._before = [0.0, *accumulate(self._lengths)]

    def __call__(self, moment: float) -> float:
        """Seconds of search until then."""
        place = max(0, bisect_right(self._starts, moment) - 1)
        return self._before[place] + min(max(0.0, moment - self._starts[place]), self._lengths[place])

    @property
    def cuts(self) -> list[float]:
        """Where two calls meet."""
        return self._before[1:-1]


def busy_share(found: Sequence[Bar], sessions: Sequence[SessionRecord]) -> float:
    """How much of all slots' time was spent on trials; nan where it is not known."""
    there = math.fsum(each.slots * (each.updated - each.started).total_seconds() for each in sessions)
    busy = math.fsum(bar.end - bar.start for bar in found if bar.kind != _STARTING)
    return min(1.0, busy / there) if there > 0 else math.nan


def timeline_plot(view: RunView) -> Plot | None:
    """Who trained what and when; None while nothing was trained."""
    rows = [row for stage in view.stages for own in stage.rows.values() for row in own]
    found = bars(rows)
    if not found:
        return None
    sessions = [(each.started.timestamp(), each.updated.timestamp()) for each in view.sessions]
    clock = Clock([*sessions, *((bar.start, bar.end) for bar in found)])
    place_of = slots(found)
    left_out = max(0, len(found) - _MOST_BARS)
    shown = list(zip(found, place_of, strict=True))[-_MOST_BARS:]
    longest = max(clock(bar.end) for bar, _ in shown)
    unit, seconds = ("hours", 3600.0) if longest > 2 * 3600 else ("minutes", 60.0)
    others = iter(_OTHERS * len(view.stages))
    figure = go.Figure()
    for kind in [*(stage.name for stage in view.stages), _STARTING]:
        own = [(bar, place) for bar, place in shown if bar.kind == kind]
        if own:
            figure.add_bar(
                x=short((clock(bar.end) - clock(bar.start)) / seconds for bar, _ in own),
                base=short(clock(bar.start) / seconds for bar, _ in own),
                y=[place + 1 for _, place in own],
                text=[f"{bar.what}: {_duration(bar.end - bar.start)}" for bar, _ in own],
                textposition="none",
                orientation="h",
                marker={
                    "color": GREY if kind == _STARTING else _COLOURS.get(kind) or next(others),
                    "line": {"width": 0.5},
                },
                name=kind,
                hovertemplate="%{text}<extra></extra>",
            )
    for cut in clock.cuts:
        figure.add_vline(x=cut / seconds, line={"color": RED, "dash": "dot", "width": 1})
    share = busy_share(found, view.sessions)
    return plot(
        "timeline",
        figure,
        title="What each slot did, and when",
        told=("" if math.isnan(share) else f"Slots were busy for {share:.0%} of the time that they were there. ")
        + "Blank is idle."
        + (" A dotted line is where one call ended and another went on." if clock.cuts else "")
        + (f" The first {left_out} bars are left out." if left_out else ""),
        height=min(900, 150 + 26 * (1 + max(place_of))),
        barmode="overlay",
        xaxis={"title": {"text": f"{unit} of search"}},
        yaxis={"title": {"text": "slot"}, "autorange": "reversed", "dtick": max(1, (1 + max(place_of)) // 20)},
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
