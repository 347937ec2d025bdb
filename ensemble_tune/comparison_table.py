"""How a comparison of fusions looks in a terminal."""

from __future__ import annotations

import math

from rich.box import SIMPLE
from rich.table import Table

from ensemble_tune.comparison import NO_GAIN, Comparison
from ensemble_tune.ensemble.bootstrap import Interval


def comparison_table(comparison: Comparison) -> Table:
    """Each fusion beside the simpler ones."""
    table = Table(title="Fusions compared", title_justify="left", title_style="bold", box=SIMPLE, padding=0)
    table.add_column("fusion", no_wrap=True)
    simple = comparison.fusions[0].name
    for column in ("cross", "val", "small", "ece", "ms", f"over {simple}", "over mean"):
        table.add_column(column, justify="right", no_wrap=True)
    for fusion in comparison.fusions:
        gains = {each.over: each.miou for each in fusion.gains}
        mark = " *" if fusion.name == comparison.chosen.name else ""
        crossfit, val = fusion.crossfit, fusion.val
        scores = [f"{score:.3f}" for score in (crossfit.miou, val.miou, crossfit.small_miou, crossfit.ece)]
        cost = f"{fusion.costs['milliseconds']:.1f}" if "milliseconds" in fusion.costs else "-"
        table.add_row(fusion.name + mark, *scores, cost, _gain(gains.get(simple)), _gain(gains.get("mean")))
    table.caption = (
        "cross: mIoU on training frames, fitted on other blocks; small objects and calibration error of the same;\n"
        "gains in points with 95% intervals; * exported: the simplest\n"
        "than which no other is measurably better, and no worse on val"
    )
    for over in dict.fromkeys((simple, "mean")):
        alike = [
            each.name for each in comparison.fusions if any(g.over == over and g.miou.spans_zero for g in each.gains)
        ]
        if alike:
            table.caption += f"\n{NO_GAIN} over {over}: {', '.join(alike)}"
    if comparison.left_out:
        table.caption += f"\nnot compared, for want of time or since a fit failed: {', '.join(comparison.left_out)}"
    table.caption_justify = "left"
    return table


def _gain(interval: Interval | None) -> str:
    if interval is None:
        return ""
    value, low, high = (100 * each for each in (interval.value, interval.low, interval.high))
    return f"{value:+.1f}" if math.isnan(low) else f"{value:+.1f} ({low:+.1f},{high:+.1f})"
