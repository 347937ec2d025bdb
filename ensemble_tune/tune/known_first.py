"""Known values first: what worked elsewhere is tried before a sampler draws anything."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ensemble_tune.trial import Value
from ensemble_tune.tune.blind_sampler import nth_step
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.sampler import Sampler
from ensemble_tune.tune.search_space import SearchSpace


class KnownFirst:
    """A sampler one of whose trials is a known point, and whose others are another sampler's."""

    def __init__(self, point: Mapping[str, Value], sampler: Sampler, number: int = 0) -> None:
        """number: the trial that shall be the known point."""
        self._point = point
        self._sampler = sampler
        self._number = number

    def propose(self, number: int) -> dict[str, Value]:
        """The known point as its trial; where that was a given one, never."""
        return dict(self._point) if number == self._number else self._sampler.propose(number)

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """The other sampler learns from all trials."""
        self._sampler.observe(record, curve)


def nearest(values: Mapping[str, Value], space: SearchSpace) -> dict[str, Value]:
    """The point of a space that is nearest to these values.

    A parameter that cannot take its value takes the nearest of its range, or the first of its choices; one that has no
    value here, the middle of its range.
    """
    return space.draw(_Nearest(values))


class _Nearest:
    """Draws what is nearest to known values."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A float in [low, high]."""
        middle = math.sqrt(low * high) if log else (low + high) / 2
        value = min(high, max(low, float(self._values.get(name, middle))))
        return value if step is None else nth_step(low, step, round((value - low) / step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """An int in [low, high]."""
        value = self.suggest_float(name, low, high, step=None, log=log)
        return low + step * round((value - low) / step)

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Value:
        """One of the choices."""
        value = self._values.get(name)
        return choices[choices.index(value)] if value in choices else choices[0]
