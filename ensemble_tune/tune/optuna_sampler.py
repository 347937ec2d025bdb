"""Optuna's samplers, told the truth about every trial."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Objective, Status, TrialRecord, is_better
from ensemble_tune.tune.search_space import Parameter, SearchSpace
from ensemble_tune.tune.seed import derive_seed

_FAILS = "fails"
"""The constraint that a failed trial violates."""
_MOST_BY_GP = 500
"""What a Gaussian process takes for a proposal grows with the cube of the trials: soon after these it is seconds."""


class OptunaSampler:
    """Proposals by `tpe` or `gp`. What they are told of a trial is worth its best epoch.

    | the trial      | tpe                                          | gp                                          |
    |----------------|----------------------------------------------|---------------------------------------------|
    | finished       | its value                                    | its value                                   |
    | stopped/paused | pruned, its best scores so far               | its best value so far                       |
    | failed, or     | infeasible: worse than any other             | infeasible, the worst value seen            |
    | out of memory  |                                              |                                             |
    | runs           | running: others keep away                    | running: others keep away                   |
    | lost           | nothing                                      | nothing                                     |

    Optuna forgets a trial that FAILed, so a failed one is told as PRUNED, or COMPLETE, and violates a constraint. A
    Gaussian process sees COMPLETE trials alone: under early stopping it would have next to nothing to learn from,
    while a stopped trial's best value is what it reached at least. With several objectives a pruned trial has no
    scores so far, since Optuna cannot compare such: it ranks behind every finished one, before every failed one.

    `gp` leaves trial 500 and those after it to TPE, which learns from the same: thousands would wait for a Gaussian
    process. What exists only under a condition it draws at random.
    """

    def __init__(self, space: SearchSpace, *, name: str, seed: int, objectives: Sequence[Objective]) -> None:
        self._space = space
        self._name = name
        self._seed = seed
        self._objectives = tuple(objectives)
        self._storage = optuna.storages.InMemoryStorage()
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # "A new study created": a search may be an older one's
        self._study = optuna.create_study(
            storage=self._storage,
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in objectives],
        )
        optuna.logging.set_verbosity(before)  # as it was
        # group=True lets parameters that exist only under a condition be modelled together with the others.
        with warnings.catch_warnings():
            # That `multivariate` and `group` may change one day: the version is pinned, and no user chose them.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._tpe = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True)
        self._id = self._storage.get_study_id_from_name(self._study.study_name)
        self._open: dict[int, FrozenTrial] = {}
        """Trials of this search that have not ended, by number, as the study holds them: telling is writing there, so
        that what is told of a paused trial is replaced when it gets further."""
        self._worst: list[float] = []
        """The worst value seen of each objective; empty before the first."""
        self._failed: list[FrozenTrial] = []
        """The failed trials that a Gaussian process was told."""

    def propose(self, number: int) -> dict[str, Value]:
        """Draws from the space; seeded by the trial's number, so that a resumed search goes on as it would have."""
        self._study.sampler = self._seeded(number)
        asked = self._study.ask()
        params = self._space.draw(asked)  # type: ignore[arg-type]
        self._open[number] = self._stored(self._storage.get_trial_id_from_study_id_trial_number(self._id, asked.number))
        return params

    def observe(self, record: TrialRecord, curve: Mapping[int, float]) -> None:
        """Tells Optuna; parameters from outside the space, such as a user's own points, teach it nothing."""
        told = self._open.get(record.number)
        if not self._space.contains(record.params):
            if told is not None:
                told.state = TrialState.FAIL
                del self._open[record.number]
            return
        if told is None:
            told = self._open[record.number] = self._take_up(record.params)
        if record.status is not Status.RUNNING:
            self._tell(told, record, curve)
        if record.status.is_end:
            del self._open[record.number]

    def _tell(self, told: FrozenTrial, record: TrialRecord, curve: Mapping[int, float]) -> None:
        scores = [record.score, *(record.scores.get(objective.metric) for objective in self._objectives[1:])]
        values = [score for score in scores if score is not None and math.isfinite(score)]
        # Of a trial whose every epoch scored nan, the parameters cannot be trained, even where nothing was raised.
        diverged = bool(curve) and (record.score is None or not math.isfinite(record.score))
        if record.status.is_infeasible or (diverged and record.status in (Status.FINISHED, Status.STOPPED)):
            self._repel(told, record)
        elif record.status is Status.LOST or (record.status.is_end and len(values) < len(scores)):
            told.state = TrialState.FAIL
        elif len(values) < len(scores):
            return
        elif record.status is Status.FINISHED or self._name == "gp":
            told.state, told.values = TrialState.COMPLETE, values
            told.intermediate_values = {}
            if self._name == "gp":
                self._compare(told, values)
        else:
            told.state = TrialState.PRUNED
            told.intermediate_values = self._best_so_far(curve) if len(self._objectives) == 1 else {}

    def _repel(self, told: FrozenTrial, record: TrialRecord) -> None:
        if told.constraints:
            # Of a trial that went well before it failed; a constraint is written once.
            told.state = TrialState.FAIL
            told = self._take_up(record.params)
        told.set_constraint(_FAILS, 1.0)
        told.intermediate_values = {}
        if self._name != "gp":
            told.state = TrialState.PRUNED
            return
        if not self._failed:
            # From now on a second process learns what fails, and it needs to know that these did not.
            for other in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                if other is not told:
                    other.set_constraint(_FAILS, 0.0)
        self._failed.append(told)
        self._value_failed()

    def _compare(self, told: FrozenTrial, values: Sequence[float]) -> None:
        """Takes a value that the Gaussian process learns from."""
        if self._failed and not told.constraints:
            told.set_constraint(_FAILS, 0.0)
        both = zip(values, self._worst or values, self._objectives, strict=True)
        worst = [old if is_better(new, old, objective.mode) else new for new, old, objective in both]
        if worst != self._worst:
            self._worst = worst
            self._value_failed()

    def _value_failed(self) -> None:
        """A failed trial needs a value: the worst seen. Before there is one, no failure can be told."""
        for told in self._failed:
            told.state = TrialState.COMPLETE if self._worst else TrialState.FAIL
            told.values = self._worst or None

    def _take_up(self, params: Mapping[str, Value]) -> FrozenTrial:
        """A trial that was not asked for here, as one that runs."""
        searched = self._space.searched(params)
        running = create_trial(
            state=TrialState.RUNNING,
            params={p.name: params[p.name] for p in searched},
            distributions={p.name: _distribution(p) for p in searched},
        )
        return self._stored(self._storage.create_new_trial(self._id, template_trial=running))

    def _stored(self, trial_id: int) -> FrozenTrial:
        """The study's own copy; only a storage in memory gives it away."""
        return self._storage.get_trial(trial_id)

    def _seeded(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler for one proposal, whatever was proposed before it."""
        seed = derive_seed(self._seed, f"{self._name}-{number}")
        if self._name == "gp" and number < _MOST_BY_GP:
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        # As TPESampler(seed=seed) does; but that also asks the system for chance, which takes longer than to propose.
        for lazy in (self._tpe._rng, self._tpe._random_sampler._rng):
            lazy.rng.seed(seed)
        return self._tpe

    def _best_so_far(self, curve: Mapping[int, float]) -> dict[int, float]:
        """The best score up to each epoch: what a pruned trial is worth is its best epoch, not its last."""
        best: dict[int, float] = {}
        for epoch, score in sorted(curve.items()):
            if not math.isnan(score):
                past = next(reversed(best.values()), score)
                best[epoch] = score if is_better(score, past, self._objectives[0].mode) else past
        return best


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's own form of a parameter; the same as drawing from it declares."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        low, high = int(parameter.low or 0), int(parameter.high or 0)
        return IntDistribution(low, high, log=parameter.log, step=int(parameter.step or 1))
    step = None if parameter.step is None else float(parameter.step)
    return FloatDistribution(float(parameter.low or 0.0), float(parameter.high or 0.0), log=parameter.log, step=step)
