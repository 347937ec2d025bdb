"""What is wrong with a data set: a rule, and all that break it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ensemble_tune.ensemble.folds import natural_order
from ensemble_tune.errors import DataError

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule that a data set breaks."""

    rule: str
    """With its remedy, where that is not plain."""
    offenders: tuple[str, ...] = ()
    """Who breaks it, in natural order; empty where the rule says it."""

    def __str__(self) -> str:
        """One line: the rule, and how many break it, of which the first are named."""
        if not self.offenders:
            return self.rule
        shown = ", ".join(self.offenders[:_SHOWN])
        count = len(self.offenders)
        return f"{self.rule}; {count} break{'s' if count == 1 else ''} this: {shown}{', ...' if count > _SHOWN else ''}"


def faults_of(rule: str, offenders: Iterable[str]) -> list[Fault]:
    """The rule as a fault where any break it; else nothing."""
    ordered = tuple(sorted(offenders, key=natural_order))
    return [Fault(rule, ordered)] if ordered else []


def refuse(faults: Sequence[Fault]) -> None:
    """Raises DataError where there is a fault: the first one, and how many there are beside it."""
    if faults:
        others = len(faults) - 1
        more = f"{others} more {'rule is' if others == 1 else 'rules are'} broken, see: ensemble-tune data check DIR"
        raise DataError(f"{faults[0]}; {more}" if others else str(faults[0]))
