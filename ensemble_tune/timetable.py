"""How a run of limited hours shares them among its stages, by what each has cost so far."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ensemble_tune.final_folder import FINAL
from ensemble_tune.storage import Location
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import TrialRecord

_BASE_SHARE, _BASE_ALONE_SHARE = 0.5, 0.88
"""Of all hours: a fusion cannot find what no base model has learnt. The second where no fusion is fitted."""
_TRAINED_SHARE = 0.7
"""Of all hours: what the trainings that are planned may take. The rest is for those that are stopped early, and for
what a slot takes longer than was probed: a training that the end of the hours cuts off is lost to the ensemble."""
_FULL_TRAININGS, _ONE_AFTER_ANOTHER = 4, 2
"""So many base models could be trained to their end, and so many of them one after another on each slot, however many
slots there are: more than are fused."""
_FEWEST_EPOCHS, _ENOUGH_EPOCHS, _MOST_EPOCHS = 4, 40, 60
"""Models that are trained from scratch for fewer epochs than are enough gain more by longer training than an ensemble
gains by another member: then each slot trains one alone, or several slots one. For fewer than the most a slot trains
one to the end of the hours."""
_MORE_CORES = 0.5
"""Twice the cores train 2 ** 0.5 times as fast, as it was on two of them with a small encoder at 90x120."""
_MOST_CORES = 8
"""For one training, as a multiple of its usual share; more than twice that share was not measured."""
_AMPLE = 2.0
"""Times the epochs that are sure to fit, where the hours may cut a training off at any epoch and nothing is lost."""
_FOLDS_SHARE = 0.7
"""Of what the base search leaves; the rest is for fitting and comparing fusions, and for the final training."""
_META_SHARE = 0.4
"""Of what the folds leave."""
_COMPARE_SHARE = 0.7
"""Of what the search of fusions leaves."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """The hours of a run."""

    hours: float | None
    """All of them, earlier calls included; None is without limit."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Hours that earlier calls used, by stage."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of_run(cls, out: Location, hours: float | None) -> Timetable:
        """That of a run folder, from what its ledger says of earlier calls."""
        return cls(hours, used_by_stage(out) if hours else {})

    @property
    def left(self) -> float:
        """Hours; infinite where there is no limit, 0 where they are over."""
        if self.hours is None:
            return float("inf")
        return max(0.0, self.hours - sum(self.before.values()) - (self.clock() - self.started) / 3600)

    @property
    def base(self) -> float | None:
        """Hours of the base search in all, earlier calls included; None is without limit."""
        return None if self.hours is None else _BASE_SHARE * self.hours

    @property
    def base_alone(self) -> float | None:
        """The same where no fusion is fitted."""
        return None if self.hours is None else _BASE_ALONE_SHARE * self.hours

    def epochs(self, seconds: float, slots: int) -> int:
        """How long base models should be trained, where an epoch takes so many seconds on each of so many slots."""
        if self.hours is None:
            return _MOST_EPOCHS
        alone = self._trained(seconds)
        shared = alone * min(slots / _FULL_TRAININGS, 1 / _ONE_AFTER_ANOTHER)
        return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(max(shared, min(alone, _ENOUGH_EPOCHS)))))

    def few(self, seconds: float, slots: int, *, fewest: int, anytime: bool) -> tuple[int, int]:
        """How many base models are trained at once, and for how many epochs, where no fusion is fitted.

        seconds: of an epoch on each of so many slots. fewest: how few may be trained at once, on the cores of all;
        `slots` where cores cannot be shared out. anytime: whether a training that is cut off is worth what it has come
        to; then those that have all the hours are given more epochs than these hold.
        """
        fewest = max(fewest, math.ceil(slots / _MOST_CORES))
        counts = range(slots, fewest - 1, -1)
        at_once = next((n for n in counts if self._trained(seconds, slots // n) >= _ENOUGH_EPOCHS), fewest)
        most = self._trained(seconds, slots // at_once)
        if at_once == slots and most >= _MOST_EPOCHS:  # each slot has time for more than one
            return slots, self.epochs(seconds, slots)
        return at_once, max(_FEWEST_EPOCHS, round(most * (_AMPLE if anytime else 1.0)))

    def _trained(self, seconds: float, cores: int = 1) -> float:
        """Epochs of a training that has all the time, on so many times the cores that an epoch takes the seconds on."""
        return math.inf if self.hours is None else _TRAINED_SHARE * self.hours * 3600 / seconds * cores**_MORE_CORES

    def members(self, ranked: Sequence[TrialRecord], most: int, folds: int, slots: int) -> int:
        """How many of the base trials can have their folds trained in time: `most` at most, 0 where not even one can.

        ranked: the best first. slots: trainings side by side.
        """
        if self.hours is None:
            return min(most, len(ranked))
        # What earlier calls did after the base search changes nothing, so that going on trains no other members.
        searched = self.before.get("base", 0.0) + self.before.get("probe", 0.0) + (self.clock() - self.started) / 3600
        budget = _FOLDS_SHARE * max(0.0, self.hours - searched) * 3600
        return _held([record.seconds for record in ranked[:most]], budget, folds, slots)

    def holds_fits(self, ranked: Sequence[TrialRecord], wanted: int, folds: int, slots: int) -> bool:
        """Whether there is time for the folds that fitting a fusion of two members, or of the one wanted, needs."""
        return self.members(ranked, wanted, folds, slots) >= min(2, wanted)

    def will_hold_fits(self, seconds: float, wanted: int, folds: int, slots: int) -> bool:
        """The same before the base search, where each training will take so many seconds on a slot."""
        if self.hours is None:
            return True
        budget = _FOLDS_SHARE * (1 - _BASE_SHARE) * self.hours * 3600
        fewest = min(2, wanted)
        return _held([seconds] * fewest, budget, folds, slots) == fewest

    def meta(self, used: float) -> float | None:
        """Hours of the search of fusions in all, of which so many are used; asked for when it begins."""
        return None if self.hours is None else used + _META_SHARE * self.left

    @property
    def compare(self) -> float:
        """Hours of comparing fusions, asked for when it begins."""
        return _COMPARE_SHARE * self.left


def _held(seconds: Sequence[float], budget: float, folds: int, slots: int) -> int:
    """Of how many models, which took so many seconds each, the first ones' folds can be trained within a budget."""
    for count in range(len(seconds), 0, -1):
        # Each of K fold models sees (K - 1) / K of the frames.
        each = [own * (folds - 1) / folds for own in seconds[:count]]
        if max(max(each), folds * sum(each) / min(slots, folds * count)) <= budget:
            return count
    return 0


def used_by_stage(out: Location) -> Counter[str]:
    """The hours that each stage of a run folder has taken so far."""
    used: Counter[str] = Counter()
    for folder in (out / LEDGER, out / FINAL / LEDGER):
        for session in Ledger(folder).sessions() if Ledger.exists(folder) else ():
            used[session.stage] += (session.updated - session.started).total_seconds() / 3600  # type: ignore[assignment]
    return used
