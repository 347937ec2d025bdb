"""Samplers propose parameters and learn from how trials ended."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from typing import Protocol

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Mode, Status, TrialRecord, is_better
from ensemble_tune.tune.search_space import Parameter, SearchSpace

SAMPLERS = ("tpe", "random")


class Sampler(Protocol):
    """Proposes parameters; a proposal depends on the seed, the trial's number and what was observed."""

    def propose(self, number: int) -> dict[str, Value]:
        """The parameters of the stage's trial `number`."""

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Learns how a trial ended; `curve` is its metric by epoch. Also for trials of an earlier process."""


class OptunaSampler:
    """Optuna's proposals, told the truth: a trial is worth its best epoch, and an early-stopped one is pruned."""

    def __init__(self, space: SearchSpace, *, name: str, seed: int, mode: Mode) -> None:
        if name not in SAMPLERS:
            raise ConfigError(f"no sampler is called {name!r}; {suggest(name, SAMPLERS)}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._name = name
        self._seed = seed
        self._mode = mode
        self._study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._asked: dict[int, optuna.trial.Trial] = {}
        """Trials that were proposed here and have not ended."""

    def propose(self, number: int) -> dict[str, Value]:
        """Draws from the space; seeded by the trial's number, so that a resumed search goes on as it would have."""
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        self._asked[number] = trial
        return self._space.draw(trial)  # type: ignore[arg-type]

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Tells Optuna; parameters from outside the space, such as a user's own points, teach it nothing."""
        asked = self._asked.pop(record.number, None)
        if not self._space.contains(record.params):
            if asked is not None:
                self._study.tell(asked, state=TrialState.FAIL)
            return
        ended = self._frozen(record, self._best_so_far(curve))
        if asked is None:
            self._study.add_trial(ended)
        else:
            for epoch, score in ended.intermediate_values.items():
                asked.report(score, epoch)
            self._study.tell(asked, ended.value if ended.state == TrialState.COMPLETE else None, state=ended.state)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self._seed, f"{self._name}-{number}")
        if self._name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        # group=True lets parameters that exist only under a condition be modelled together with the others.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # no user can act on it
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)

    def _best_so_far(self, curve: Mapping[int, float]) -> dict[int, float]:
        """The best score up to each epoch: what a pruned trial is worth is its best epoch, not its last."""
        best: dict[int, float] = {}
        for epoch, score in sorted(curve.items()):
            if not math.isnan(score):
                past = next(reversed(best.values()), score)
                best[epoch] = score if is_better(score, past, self._mode) else past
        return best

    def _frozen(self, record: TrialRecord, curve: Mapping[int, float]) -> FrozenTrial:
        if record.status is Status.FAILED or record.score is None:
            state = TrialState.FAIL
        else:
            state = TrialState.PRUNED if record.status is Status.STOPPED else TrialState.COMPLETE
        searched = self._space.searched(record.params)
        return create_trial(
            state=state,
            value=record.score if state == TrialState.COMPLETE else None,
            params={p.name: record.params[p.name] for p in searched},
            distributions={p.name: _distribution(p) for p in searched},
            intermediate_values=dict(curve),
        )


class NoSampler:
    """For a search whose trials are all given: proposes nothing, learns nothing."""

    def propose(self, number: int) -> dict[str, Value]:
        """Raises LookupError: no trial is left to propose."""
        raise LookupError(f"trial {number} is not among the given ones")

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Nothing to learn."""


def derive_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2**31) for one purpose, independent of every other purpose's."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4], "big") >> 1


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's own form of a parameter; the same as drawing from it declares."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        low, high = int(parameter.low or 0), int(parameter.high or 0)
        return IntDistribution(low, high, log=parameter.log, step=int(parameter.step or 1))
    step = None if parameter.step is None else float(parameter.step)
    return FloatDistribution(float(parameter.low or 0.0), float(parameter.high or 0.0), log=parameter.log, step=step)
