"""Samplers propose parameters and learn from how trials ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.trial import Value
from ensemble_tune.tune.blind_sampler import QmcSampler, RandomSampler
from ensemble_tune.tune.grid_sampler import GridSampler, SpaceUsedUpError
from ensemble_tune.tune.optuna_sampler import OptunaSampler
from ensemble_tune.tune.record import Objective, TrialRecord
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.seed import derive_seed

__all__ = ["SAMPLERS", "NoSampler", "Sampler", "SpaceUsedUpError", "derive_seed", "make_sampler"]

SAMPLERS = ("tpe", "random", "qmc", "gp", "grid")


class Sampler(Protocol):
    """Proposes parameters; a proposal depends on the seed, the trial's number and what was observed."""

    def propose(self, number: int) -> dict[str, Value]:
        """The parameters of the stage's trial `number`. Raises SpaceUsedUpError where none are left."""

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Learns how a trial stands; `curve` is its metric by epoch. May be told again as the trial gets further.

        A search that goes on tells every trial of the earlier process, in the order of their numbers, those that
        still run or wait too: so no point is proposed twice. Trials of another run have numbers below 0.
        """


class NoSampler:
    """For a search whose trials are all given: proposes nothing, learns nothing."""

    def propose(self, number: int) -> dict[str, Value]:
        """Raises SpaceUsedUpError: no trial is left to propose."""
        raise SpaceUsedUpError(f"trial {number} is not among the given ones")

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Nothing to learn."""


def make_sampler(name: str, space: SearchSpace, *, seed: int, objectives: Sequence[Objective]) -> Sampler:
    """A sampler by name. Raises ConfigError for an unknown one, or where it cannot search this space.

    tpe: Tree-structured Parzen estimator, conditions included. random: independent draws. qmc: points of a Sobol
    sequence, spread more evenly. gp: a Gaussian process; for spaces of few parameters, and slower. grid: every
    combination once. objectives: the first one is what trials are stopped by.
    """
    if name == "random":
        return RandomSampler(space, seed=seed)
    if name == "qmc":
        return QmcSampler(space, seed=seed)
    if name == "grid":
        return GridSampler(space, seed=seed)
    if name in ("tpe", "gp"):
        return OptunaSampler(space, name=name, seed=seed, objectives=objectives)
    raise ConfigError(f"no sampler is called {name!r}; {suggest(name, SAMPLERS)}")
