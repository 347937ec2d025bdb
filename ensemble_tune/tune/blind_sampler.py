"""Samplers that learn nothing: a proposal is a function of the seed and the trial's number.

Optuna's own would serve, but for three things: its random sampler keeps every trial and costs 240 microseconds for
each, too much to simulate 100,000 of them; its quasi-random one begins the sequence anew after a resume, and draws
parameters that exist under a condition independently.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from decimal import Decimal

from ensemble_tune.trial import Value
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.seed import derive_seed


class RandomSampler:
    """Independent draws."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._space = space
        self._seed = seed

    def propose(self, number: int) -> dict[str, Value]:
        """Draws from the space, seeded by the trial's number."""
        generator = random.Random(derive_seed(self._seed, f"random-{number}"))
        return self._space.draw(_Draw(lambda name: generator.random()))

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Nothing to learn."""


class QmcSampler:
    """Quasi-random points: trial `number` is the point of that number in one scrambled Sobol sequence.

    Every parameter has its own dimension, whether or not it exists for a point. Source: Owen 1998, Scrambling Sobol'
    and Niederreiter-Xing points.
    """

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        from scipy.stats import qmc  # type: ignore[import-untyped]  # a second to import

        self._space = space
        self._dimensions = {name: dimension for dimension, name in enumerate(space.names)}
        self._sequence = qmc.Sobol(len(self._dimensions), scramble=True, rng=derive_seed(seed, "qmc"))
        self._at = 0
        """The number of the point that the sequence gives next."""

    def propose(self, number: int) -> dict[str, Value]:
        """The point of this number; the next one costs a microsecond, another the way to it."""
        if number < self._at:
            self._sequence.reset()
            self._at = 0
        if number > self._at:
            self._sequence.fast_forward(number - self._at)
        self._at = number + 1
        (point,) = self._sequence.random(1).tolist()
        return self._space.draw(_Draw(lambda name: point[self._dimensions[name]]))

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Nothing to learn."""


class _Draw:
    """Makes values of a space from uniform numbers."""

    def __init__(self, uniform: Callable[[str], float]) -> None:
        """uniform: a number in [0, 1) for a parameter's name."""
        self._uniform = uniform

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A float in [low, high]."""
        uniform = self._uniform(name)
        if step is not None:
            return nth_step(low, step, int(uniform * (round((high - low) / step) + 1)))
        if log:
            # Rounding must not lead out of the range.
            return min(high, max(low, math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))))
        return min(high, low + uniform * (high - low))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """An int in [low, high]; under `log`, each as likely as the logarithm's interval that rounds to it."""
        uniform = self._uniform(name)
        if log:
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            return min(high, max(low, round(math.exp(first + uniform * (last - first)))))
        return low + step * int(uniform * ((high - low) // step + 1))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Value:
        """One of the choices."""
        return choices[int(self._uniform(name) * len(choices))]


def nth_step(low: float, step: float, number: int) -> float:
    """The value `number` steps above `low`, as a person would write it: three steps of 0.1 are 0.3."""
    return float(Decimal(str(low)) + number * Decimal(str(step)))
