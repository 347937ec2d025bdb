"""Prints what ensemble_gain.py found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble_tune.comparison import measured
from ensemble_tune.ensemble.bootstrap import Interval, gain
from ensemble_tune.ensemble.evidence import Evidence

SINGLE = "single, all compute"
"""What the models that were given the ensemble's whole compute are called."""


@dataclass
class Figures:
    """What is known of one model of a seed."""

    evidence: Evidence
    """Cross-fitted."""
    val: float
    test: dict[str, float]
    milliseconds: float


def table(seeds: Sequence[Mapping[str, Figures]]) -> None:
    """Prints a row a fusion that every seed has, and what the exported ones gain."""
    names = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    others = [name for name in ("mean", SINGLE) if name in names]
    print(f"\n{len(seeds)} seeds; gains in points of cross-fitted mIoU, with 95% intervals")
    print(
        f"{'':22}{'crossfit':>9}{'small':>7}{'val':>7}{'test':>7}{'small':>7}{'ms':>6}"
        + "".join(f"{'over ' + other:>26}" for other in others)
    )
    for name in names:
        own = [seed[name] for seed in seeds]
        crossfit = [measured(each.evidence) for each in own]
        cells = [
            statistics.fmean(each.miou for each in crossfit),
            statistics.fmean(each.small_miou for each in crossfit),
            statistics.fmean(each.val for each in own),
            statistics.fmean(each.test["miou"] for each in own),
            statistics.fmean(each.test["small_miou"] for each in own),
        ]
        gains = [points(over(seeds, name, other)) if name != other else "" for other in others]
        shown = "".join(f"{cell:7.3f}" for cell in cells[1:])
        ms = statistics.fmean(each.milliseconds for each in own)
        print(f"{name:22}{cells[0]:9.3f}{shown}{ms:6.1f}" + "".join(f"{each:>26}" for each in gains))
    spread = [statistics.pstdev([measured(seed[name].evidence).miou for seed in seeds]) for name in names]
    print(f"standard deviation of the cross-fitted mIoU over seeds: {min(spread):.3f} to {max(spread):.3f}\n")
    for name in names:
        for other in others:
            if name != other:
                print(f"{name} over {other}: {relative(seeds, name, other)}")


def relative(seeds: Sequence[Mapping[str, Figures]], name: str, other: str) -> str:
    """A gain as a share of the other's score, and that of the small objects in points."""
    found = over(seeds, name, other)
    base = statistics.fmean(measured(seed[other].evidence).miou for seed in seeds)
    share = f"{found.value / base:+.1%} ({found.low / base:+.1%}, {found.high / base:+.1%}) relative"
    return f"{share}; small objects {points(over(seeds, name, other, small=True))} points"


def over(seeds: Sequence[Mapping[str, Figures]], name: str, other: str, *, small: bool = False) -> Interval:
    """A gain in mIoU, of all classes or of the small ones."""
    better, worse = ([seed[each].evidence for seed in seeds] for each in (name, other))
    return gain(better, worse, classes=better[0].small if small else None)


def points(found: Interval) -> str:
    """A gain with its interval."""
    return f"{100 * found.value:+.2f} ({100 * found.low:+.2f}, {100 * found.high:+.2f})"
