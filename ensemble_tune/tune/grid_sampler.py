"""Every combination of a finite space, once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value
from ensemble_tune.tune.blind_sampler import nth_step
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.search_space import Parameter, SearchSpace
from ensemble_tune.tune.seed import derive_seed

MOST_POINTS = 100_000


class SpaceUsedUpError(LookupError):
    """No point is left to propose: the search ends."""


class GridSampler:
    """Every point once, in an order that the seed shuffles, so that a search which ends early saw all of the space.

    What was observed counts as proposed, whoever proposed it: a search that goes on proposes the points that are left.
    """

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        """Raises ConfigError for a space that is not finite, or has more than 100,000 points."""
        self._space = space
        self._values = {parameter.name: _values(parameter) for parameter in space.parameters}
        self._points: list[dict[str, Value]] = []
        for point in self._all():
            if len(self._points) == MOST_POINTS:
                raise ConfigError(
                    f"a grid may have {MOST_POINTS:,} points, but this space has more; fix parameters, take larger "
                    "steps, or use the sampler qmc"
                )
            self._points.append(point)
        random.Random(derive_seed(seed, "grid")).shuffle(self._points)
        self._next = 0
        self._taken: set[tuple[int, ...]] = set()

    def propose(self, number: int) -> dict[str, Value]:
        """The next point that is not taken. Raises SpaceUsedUpError."""
        while self._next < len(self._points):
            point = self._points[self._next]
            self._next += 1
            if self._key(point) not in self._taken:
                return dict(point)
        raise SpaceUsedUpError(f"all {len(self._points)} points of the grid are taken")

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """A point that has a trial is taken, however the trial ends."""
        if self._space.contains(record.params):
            self._taken.add(self._key(record.params))

    def _all(self) -> Iterator[dict[str, Value]]:
        """Every point, in the order of the space's parameters and of their values."""
        picks = [0]
        while True:
            walk = _Walk(self._values, picks)
            yield self._space.draw(walk)
            # As an odometer counts, over the parameters that exist for this point alone.
            picks, sizes = walk.picks, walk.sizes
            while picks and picks[-1] == sizes[len(picks) - 1] - 1:
                picks.pop()
            if not picks:
                return
            picks[-1] += 1

    def _key(self, point: Mapping[str, Value]) -> tuple[int, ...]:
        """A point by the place of each value; a parameter that does not exist is -1."""
        return tuple(
            _place(parameter, point[parameter.name]) if parameter.name in point else -1
            for parameter in self._space.parameters
        )


class _Walk:
    """Draws from a space by place: first the given places, then place 0."""

    def __init__(self, values: Mapping[str, tuple[Value, ...]], picks: list[int]) -> None:
        self._values = values
        self._left = iter(picks)
        self.picks: list[int] = []
        """The place of each value that was drawn."""
        self.sizes: list[int] = []
        """Of how many."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """The value whose turn it is."""
        return float(self._pick(name))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """The value whose turn it is."""
        return int(self._pick(name))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Value:
        """The value whose turn it is."""
        return self._pick(name)

    def _pick(self, name: str) -> Value:
        values = self._values[name]
        self.picks.append(next(self._left, 0))
        self.sizes.append(len(values))
        return values[self.picks[-1]]


def _values(parameter: Parameter) -> tuple[Value, ...]:
    """All values of a parameter. Raises ConfigError where they are not finitely, or far too, many."""
    if parameter.choices:
        return parameter.choices
    low, high = parameter.low or 0, parameter.high or 0
    if parameter.step is None and not parameter.whole:
        raise ConfigError(
            f"a grid needs finitely many values, but {parameter.name} is any number from {low} to {high}; give it a "
            "step or choices, or use another sampler"
        )
    count = round((high - low) / (parameter.step or 1)) + 1
    if count > MOST_POINTS:
        raise ConfigError(
            f"a grid may have {MOST_POINTS:,} points, but {parameter.name} alone has {count:,} values; "
            "take a larger step"
        )
    if parameter.whole:
        return tuple(range(int(low), int(high) + 1, int(parameter.step or 1)))
    return tuple(nth_step(low, parameter.step or 1, place) for place in range(count))


def _place(parameter: Parameter, value: Value) -> int:
    """Which of its values a parameter has; floats as near as they came back from a file."""
    if parameter.choices:
        return parameter.choices.index(value)
    return round((float(value) - (parameter.low or 0)) / (parameter.step or 1))
