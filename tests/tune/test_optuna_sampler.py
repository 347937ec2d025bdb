import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from records import trial_record

from ensemble_tune.trial import Value
from ensemble_tune.tune.optuna_sampler import OptunaSampler
from ensemble_tune.tune.record import Mode, Objective, Status
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search_space import SearchSpace

SPACE = SearchSpace.parse("""
[parameters]
kind = { choices = ["wide", "deep"] }
width = { low = 8, high = 64, step = 8, when = { kind = "wide" } }
depth = { low = 1, high = 9, when = { kind = "deep" } }
rate = { low = 1e-4, high = 1.0, log = true }
drop = { low = 0.0, high = 0.5, step = 0.1 }
fixed = "here"
""")
INSIDE: dict[str, Any] = {"kind": "deep", "depth": 3, "rate": 0.1, "drop": 0.2, "fixed": "here"}


def make(
    name: str, *, seed: int = 7, mode: Mode = "max", cost: bool = False, space: SearchSpace = SPACE
) -> OptunaSampler:
    more = [Objective("cost", "min")] if cost else []
    return OptunaSampler(space, name=name, seed=seed, objectives=[Objective("score", mode), *more])


def trials(sampler: OptunaSampler) -> list[FrozenTrial]:
    return sampler._study.trials


def tell(
    sampler: OptunaSampler,
    number: int,
    params: Mapping[str, Value],
    status: Status = Status.FINISHED,
    score: float | None = 0.5,
    cost: float | None = None,
    curve: Mapping[int, float] | None = None,
) -> None:
    scores = {} if score is None else {"score": score} | ({} if cost is None else {"cost": cost})
    record = trial_record(number, status=status, params=params, best_epoch=2, score=score, scores=scores)
    sampler.observe(record, curve or ({} if score is None else {1: score - 1, 2: score, 3: score - 0.5}))


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", ["tpe", "gp"])
class TestTheTruth:
    def test_nothing_is_left_running_once_it_ended(self, name: str) -> None:
        sampler = make(name)
        ends = [status for status in Status if status.is_end]
        for number, status in enumerate(ends):
            tell(sampler, number, sampler.propose(number), status, None if status is Status.FAILED else 0.5)
        assert TrialState.RUNNING not in [trial.state for trial in trials(sampler)]
        assert len(trials(sampler)) == len(ends) and not sampler._open

    def test_a_trial_is_worth_its_best_epoch(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0), score=0.7, curve={1: 0.1, 2: 0.7, 3: 0.2})
        (trial,) = trials(sampler)
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)

    @pytest.mark.parametrize("status", [Status.FAILED, Status.OUT_OF_MEMORY])
    def test_a_failed_trial_is_infeasible(self, name: str, status: Status) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0))
        tell(sampler, 1, sampler.propose(1), status, None)
        fine, failed = trials(sampler)
        assert failed.state in (TrialState.COMPLETE, TrialState.PRUNED) and max(failed.constraints.values()) > 0
        assert max(fine.constraints.values(), default=0.0) <= 0

    def test_a_trial_that_failed_after_good_epochs_is_infeasible_too(self, name: str) -> None:
        sampler = make(name)
        params = sampler.propose(0)
        tell(sampler, 0, params, Status.PAUSED)
        tell(sampler, 1, sampler.propose(1), Status.FAILED)
        tell(sampler, 0, params, Status.FAILED)
        known = [t for t in trials(sampler) if t.state is not TrialState.FAIL]
        assert all(max(t.constraints.values()) > 0 for t in known)
        assert [t.params for t in known if t.params["rate"] == params["rate"]]

    @pytest.mark.parametrize("status", [Status.FINISHED, Status.STOPPED])
    def test_a_trial_whose_every_score_is_nan_has_failed(self, name: str, status: Status) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0))
        tell(sampler, 1, sampler.propose(1), status, None, curve={1: math.nan, 2: math.nan})
        assert max(trials(sampler)[1].constraints.values()) > 0

    def test_one_that_runs_into_infinity_has_failed(self, name: str) -> None:
        sampler = make(name, mode="min")
        tell(sampler, 0, sampler.propose(0), score=math.inf, curve={1: math.inf})
        assert max(trials(sampler)[0].constraints.values()) > 0

    def test_a_lost_trial_says_nothing(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0), Status.LOST, 0.3)
        (trial,) = trials(sampler)
        assert trial.state is TrialState.FAIL and not trial.constraints

    def test_one_that_ended_before_its_first_epoch_says_nothing(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0), Status.STOPPED, None)
        assert [t.state for t in trials(sampler)] == [TrialState.FAIL]

    def test_what_is_told_of_a_paused_trial_is_replaced_when_it_ends(self, name: str) -> None:
        sampler = make(name)
        params = sampler.propose(0)
        tell(sampler, 0, params, Status.PAUSED, 0.3)
        assert [t.state for t in trials(sampler)] == [TrialState.COMPLETE if name == "gp" else TrialState.PRUNED]
        tell(sampler, 0, params, Status.FINISHED, 0.8)
        (trial,) = trials(sampler)
        assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.8, {})

    def test_trials_of_another_run_are_none_of_this_one(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, -1, INSIDE, score=0.1)
        params = sampler.propose(0)
        tell(sampler, -2, INSIDE, score=0.2)
        tell(sampler, 0, params, score=0.3)
        assert sorted(t.value or 0 for t in trials(sampler)) == [0.1, 0.2, 0.3]

    def test_points_inside_the_space_are_learnt_from_and_others_are_not(self, name: str) -> None:
        sampler = make(name)
        for number, change in enumerate([{}, {"rate": 7.0}, {"drop": 0.25}, {"fixed": "there"}, {"more": 1}]):
            tell(sampler, number, INSIDE | change)
        (known,) = trials(sampler)
        assert known.params == {"kind": "deep", "depth": 3, "rate": 0.1, "drop": 0.2}

    def test_a_proposal_that_came_back_changed_is_forgotten(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, 0, sampler.propose(0) | {"fixed": "there"})
        assert [t.state for t in trials(sampler)] == [TrialState.FAIL]

    def test_whole_numbers_that_the_ledger_gave_back_as_floats_are_known(self, name: str) -> None:
        sampler = make(name)
        tell(sampler, 0, {"kind": "wide", "width": 16.0, "rate": 0.1, "drop": 0.0, "fixed": "here"})
        assert trials(sampler)[0].params["width"] == 16

    def test_with_several_objectives_every_value_counts_in_its_direction(self, name: str) -> None:
        sampler = make(name, cost=True)
        tell(sampler, 0, sampler.propose(0), score=0.4, cost=9.0)
        assert trials(sampler)[0].values == [0.4, 9.0]
        maximize, minimize = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        assert sampler._study.directions == [maximize, minimize]

    def test_a_trial_without_one_of_the_objectives_says_nothing(self, name: str) -> None:
        sampler = make(name, cost=True)
        tell(sampler, 0, sampler.propose(0), score=0.4)
        tell(sampler, 1, sampler.propose(1), score=0.4, cost=math.nan)
        assert [t.state for t in trials(sampler)] == [TrialState.FAIL] * 2


@pytest.mark.parametrize("resumed", [False, True])
def test_a_stopped_trial_is_pruned_with_its_best_scores_so_far(resumed: bool) -> None:
    sampler = make("tpe")
    params = sampler.propose(0)
    if resumed:
        sampler = make("tpe")
    tell(sampler, 0, params, Status.STOPPED, 0.9, curve={1: math.nan, 2: 0.9, 3: math.nan, 4: 0.2})
    (trial,) = trials(sampler)
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {2: 0.9, 4: 0.9}


def test_under_min_the_best_so_far_is_the_lowest() -> None:
    sampler = make("tpe", mode="min")
    tell(sampler, 0, sampler.propose(0), Status.STOPPED, 0.1, curve={1: 0.3, 2: 0.1, 3: 0.4})
    assert trials(sampler)[0].intermediate_values == {1: 0.3, 2: 0.1, 3: 0.1}
    assert sampler._study.direction == optuna.study.StudyDirection.MINIMIZE


def test_a_gaussian_process_learns_from_stopped_trials() -> None:
    """It sees completed ones alone, and under early stopping few are."""
    sampler = make("gp")
    tell(sampler, 0, sampler.propose(0), Status.STOPPED, 0.9)
    assert [(t.state, t.value) for t in trials(sampler)] == [(TrialState.COMPLETE, 0.9)]


def test_a_stopped_trial_of_several_objectives_ranks_behind_all_finished_ones() -> None:
    """Optuna cannot compare scores so far of several objectives; with them it raises."""
    sampler = make("tpe", cost=True)
    for number in range(30):
        params = sampler.propose(number)
        tell(sampler, number, params, Status.STOPPED if number % 2 else Status.FINISHED, 0.5 + number, float(number))
    stopped = [t for t in trials(sampler) if t.state is TrialState.PRUNED]
    assert len(stopped) == 15 and not any(t.intermediate_values or t.constraints for t in stopped)
    assert not {t.number for t in sampler._study.best_trials} & {t.number for t in stopped}
    below, above = optuna.samplers._tpe.sampler._split_trials(sampler._study, trials(sampler), 12)
    assert {t.state for t in below} == {TrialState.COMPLETE} and len(below) + len(above) == 30


def test_a_failure_has_the_worst_value_that_a_gaussian_process_has_seen() -> None:
    sampler = make("gp", cost=True)
    tell(sampler, 0, sampler.propose(0), Status.FAILED, None)
    assert trials(sampler)[0].state is TrialState.FAIL  # no value yet to give it
    for number, (score, cost) in enumerate([(0.5, 3.0), (0.2, 1.0), (0.4, 2.0)], start=1):
        tell(sampler, number, sampler.propose(number), score=score, cost=cost)
    assert (trials(sampler)[0].state, trials(sampler)[0].values) == (TrialState.COMPLETE, [0.2, 3.0])
    # A Gaussian process refuses trials of which some have the constraint and others have not.
    assert all(len(trial.constraints) == 1 for trial in trials(sampler))


def test_a_gaussian_process_leaves_the_proposals_of_a_long_search_to_tpe() -> None:
    sampler = make("gp")
    for number in range(40):
        params = sampler.propose(number)
        failed = params["kind"] == "wide"
        tell(sampler, number, params, Status.FAILED if failed else Status.FINISHED, None if failed else 0.5)
    assert isinstance(sampler._seeded(499), optuna.samplers.GPSampler)
    assert isinstance(sampler._seeded(500), optuna.samplers.TPESampler)
    kinds = [sampler.propose(number)["kind"] for number in range(500, 540)]
    assert kinds.count("deep") > 30, "what failed repels it, too"
    assert make("gp").propose(500) == make("gp").propose(500) != make("gp").propose(501)


def test_tpe_learns() -> None:
    def worth(params: Mapping[str, Value]) -> float:
        return -((math.log10(float(params["rate"])) + 2) ** 2) - (0.5 if params["kind"] == "deep" else 0.0)

    def late(name: str) -> float:
        scores = []
        for seed in range(4):
            sampler = make_sampler(name, SPACE, seed=seed, objectives=[Objective("score")])
            for number in range(40):
                params = sampler.propose(number)
                score = worth(params)
                sampler.observe(trial_record(number, params=params, best_epoch=1, score=score), {1: score})
                scores += [score] if number >= 20 else []
        return sum(scores) / len(scores)

    assert late("tpe") > late("random") + 0.2


CLIFF = SearchSpace.parse("""
[parameters]
batch = { low = 1, high = 64 }
rate = { low = 1e-4, high = 1.0, log = true }
""")


def over_the_cliff(name: str, told: Status, *, seeds: range, numbers: range, since: int) -> float:
    """The share of proposals with a batch above 32, which cannot be trained; up to there, larger is better."""
    over = []
    for seed in seeds:
        sampler = make(name, seed=seed, space=CLIFF)
        for number in numbers:
            params = sampler.propose(number)
            batch = int(params["batch"])
            if batch > 32:
                tell(sampler, number, params, told, None)
            else:
                tell(sampler, number, params, score=batch / 64 - 0.3 * abs(math.log10(float(params["rate"])) + 2))
            over += [batch > 32] if number >= since else []
    return sum(over) / len(over)


def test_failures_repel_tpe_and_lost_trials_do_not() -> None:
    """The best of what can be trained lies at the cliff: who forgets the failures proposes them again and again."""
    failed, lost = (
        over_the_cliff("tpe", told, seeds=range(6), numbers=range(40), since=15)
        for told in (Status.FAILED, Status.LOST)
    )
    assert failed < 0.45 and lost > 0.6


def test_failures_repel_a_gaussian_process() -> None:
    assert over_the_cliff("gp", Status.FAILED, seeds=range(1), numbers=range(15), since=11) < 0.3
