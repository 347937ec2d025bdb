"""A figure as the page holds it: data for plotly.js, with words for whoever cannot see it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# Each is told from both a white and a nearly black page.
BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, PINK, OCHRE, GREY = (
    "#4c8dff",
    "#f08c2e",
    "#3fa45b",
    "#e5534b",
    "#a371f7",
    "#2ba3a8",
    "#db61a2",
    "#b58a1b",
    "#8b949e",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure."""

    name: str
    """Its element's id."""
    title: str
    told: str
    """What there is to see, in a sentence or two."""
    height: int
    """In pixels."""
    figure: str
    """JSON that may stand inside a script element."""


def plot(name: str, figure: Any, *, title: str, told: str, height: int = 360, **layout: Any) -> Plot:
    """Takes a plotly figure; layout: of it, beside what all figures share. The page gives it the colours of the day."""
    for name_of_none in ("template", "title", "width"):  # Optuna sets them
        figure.layout[name_of_none] = None
    figure.update_layout(
        height=height,
        margin={"l": 40, "r": 16, "t": 24, "b": 40},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"namelength": -1},
        **layout,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True, title_standoff=10)
    return Plot(name=name, title=title, told=told, height=height, figure=figure.to_json().replace("<", "\\u003c"))


def short(values: Iterable[float | None]) -> list[float | None]:
    """Numbers as a figure needs them: five digits; None for what is none."""
    return [None if value is None or math.isnan(value) else float(f"{value:.5g}") for value in values]


def thinned(ordered: Sequence[T], most: int) -> list[T]:
    """All, or where they are too many, the first half of so many, and others at even distances.

    ordered: the best first.
    """
    if len(ordered) <= most:
        return list(ordered)
    first, rest, others = ordered[: most // 2], ordered[most // 2 :], most - most // 2
    return [*first, *(rest[place * len(rest) // others] for place in range(others))]
