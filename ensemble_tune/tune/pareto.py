"""Several objectives: the trials that none beats in all of them, and the one to take."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble_tune.errors import ConfigError, RunError, suggest
from ensemble_tune.tune.record import Objective, Status, TrialRecord

RULES = ("best", "knee")

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BOUND = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|<|>)\s*([^<>=]+?)\s*")


def front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """The finished trials that no other beats: as good in every objective and better in one.

    The best by the first objective comes first; of equals, the earlier. A trial that lacks a score, or whose score is
    not finite, is not among them. O(n log n) for up to two objectives, O(n * size of the front) for more.
    """
    costs = {record.trial: _costs(record, objectives) for record in records if record.status is Status.FINISHED}
    comparable = [r for r in records if r.trial in costs and all(map(math.isfinite, costs[r.trial]))]
    # Whatever beats a trial comes before it.
    ordered = sorted(comparable, key=lambda record: (costs[record.trial], record.number))
    if len(objectives) <= 2:
        return _staircase(ordered, costs)
    unbeaten: list[TrialRecord] = []
    for record in ordered:
        if not any(_beats(costs[other.trial], costs[record.trial]) for other in unbeaten):
            unbeaten.append(record)
    return unbeaten


def pick(records: Sequence[TrialRecord], objectives: Sequence[Objective], rule: str) -> TrialRecord:
    """One trial by a rule.

    best: the best by the first objective; a stopped trial may be, at its best epoch.
    knee: the trial of the front with the greatest sum of gains, where an objective's gain is 0 at its worst value on
    the front and 1 at its best. With two objectives that is the one farthest from the straight line between the
    front's ends. Source: Das 1999, On characterizing the knee of the Pareto curve based on normal-boundary
    intersection.
    "milliseconds<20,miou>=0.5": the best by the first objective among the finished trials that keep these bounds; any
    score may have one.
    Of equals, the earlier. Raises ConfigError for a rule that is none or that no trial meets, RunError where no trial
    has a score.
    """
    rule = rule.strip()
    if rule == "best":
        return _best([record for record in records if record.ended_well], objectives)
    if rule == "knee":
        unbeaten = front(records, objectives)
        return _knee(unbeaten, objectives) if unbeaten else _best([], objectives)
    finished = [record for record in records if record.status is Status.FINISHED]
    met: list[Bound] = []
    for bound in parse_bounds(rule):
        finished = bound.keep(finished, met)
        met.append(bound)
    return _best(finished, objectives)


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on one score."""

    score: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.score}{self.sign}{self.limit:g}"

    def keep(self, records: Sequence[TrialRecord], met: Sequence[Bound] = ()) -> list[TrialRecord]:
        """The trials that keep to it. Raises ConfigError where none does. met: bounds that all of them keep."""
        known = sorted({name for record in records for name in record.scores})
        if records and self.score not in known:
            raise ConfigError(f"no score is called {self.score!r}; {suggest(self.score, known)}")
        measured = [r for r in records if math.isfinite(r.scores.get(self.score, math.nan))]
        kept = [record for record in measured if _COMPARE[self.sign](record.scores[self.score], self.limit)]
        if measured and not kept:
            near = min(measured, key=lambda record: abs(record.scores[self.score] - self.limit))
            those = f" with {', '.join(map(str, met))}" if met else ""
            raise ConfigError(
                f"no finished trial{those} has {self}; the nearest is {near.trial} with {self.score} "
                f"{near.scores[self.score]:g}; loosen the bound"
            )
        return kept


def parse_bounds(rule: str) -> list[Bound]:
    """The bounds of a rule such as "milliseconds<20, miou>=0.5". Raises ConfigError."""
    if not any(sign in rule for sign in "<>"):
        raise ConfigError(
            f'a pick is best, knee or a bound such as "milliseconds<20", not {rule!r}; {suggest(rule, RULES)}'
        )
    return [_bound(text) for text in rule.split(",")]


def _bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text)
    limit = _number(match[3]) if match else math.nan
    if match is None or math.isnan(limit):
        raise ConfigError(f'a bound is a score, a sign and a number, but got {text!r}; try "milliseconds<20"')
    return Bound(match[1], match[2], limit)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _costs(record: TrialRecord, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The scores that count, each the better the lower; nan where one is missing."""
    return tuple(
        record.scores.get(objective.metric, math.nan) * (-1.0 if objective.mode == "max" else 1.0)
        for objective in objectives
    )


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _staircase(ordered: Sequence[TrialRecord], costs: dict[str, tuple[float, ...]]) -> list[TrialRecord]:
    """The front of one or two objectives: each is as good in the last one as every trial before it, or its equal."""
    unbeaten: list[TrialRecord] = []
    for record in ordered:
        best = costs[unbeaten[-1].trial] if unbeaten else None
        cost = costs[record.trial]
        if best is None or cost == best or cost[-1] < best[-1]:
            unbeaten.append(record)
    return unbeaten


def _knee(unbeaten: Sequence[TrialRecord], objectives: Sequence[Objective]) -> TrialRecord:
    """The trial with the greatest sum of gains; the front is not empty."""
    columns = list(zip(*(_costs(record, objectives) for record in unbeaten), strict=True))
    ends = [(min(column), max(column)) for column in columns]

    def gain(record: TrialRecord) -> float:
        costs = zip(_costs(record, objectives), ends, strict=True)
        return float(sum((worst - cost) / (worst - best) for cost, (best, worst) in costs if worst > best))

    return max(unbeaten, key=gain)


def _best(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> TrialRecord:
    scored = [record for record in records if math.isfinite(_costs(record, objectives[:1])[0])]
    if not scored:
        raise RunError(
            f"a pick needs a trial with a score, but none has ended with {objectives[0].metric}; search first"
        )
    return min(scored, key=lambda record: (_costs(record, objectives[:1]), record.number))
