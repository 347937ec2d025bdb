import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from records import trial_record

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Mode, Status, TrialRecord
from ensemble_tune.tune.sampler import SAMPLERS, NoSampler, OptunaSampler, derive_seed
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


def worth(params: dict[str, Value]) -> float:
    return -((math.log10(float(params["rate"])) + 2) ** 2) - (0.5 if params["kind"] == "deep" else 0.0)


def ended(
    number: int, params: dict[str, Value], status: Status = Status.FINISHED
) -> tuple[TrialRecord, dict[int, float]]:
    score = worth(params)
    failed = status is Status.FAILED
    record = trial_record(number, status=status, params=params, best_epoch=2, score=None if failed else score)
    return record, {} if failed else {1: score - 1, 2: score, 3: score - 0.5}


def study(sampler: OptunaSampler) -> optuna.Study:
    return sampler._study


@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    def make(self, name: str, seed: int = 7, mode: Mode = "max") -> OptunaSampler:
        return OptunaSampler(SPACE, name=name, seed=seed, mode=mode)

    def run(self, sampler: OptunaSampler, numbers: range, status: Status = Status.FINISHED) -> list[dict[str, Value]]:
        proposals = []
        for number in numbers:
            proposals.append(sampler.propose(number))
            sampler.observe(*ended(number, proposals[-1], status))
        return proposals

    def test_every_proposal_is_inside_the_space(self, name: str) -> None:
        proposals = self.run(self.make(name), range(25))
        assert all(SPACE.contains(p) for p in proposals)
        assert {p["kind"] for p in proposals} == {"wide", "deep"}

    def test_the_same_seed_and_history_give_the_same_proposals(self, name: str) -> None:
        assert self.run(self.make(name), range(15)) == self.run(self.make(name), range(15))

    def test_another_seed_gives_others(self, name: str) -> None:
        assert self.run(self.make(name), range(3)) != self.run(self.make(name, seed=8), range(3))

    def test_each_trial_of_a_search_gets_its_own_proposal(self, name: str) -> None:
        sampler = self.make(name)
        rates = [sampler.propose(number)["rate"] for number in range(12)]
        assert len(set(rates)) == 12

    def test_a_resumed_sampler_proposes_what_an_unbroken_one_would(self, name: str) -> None:
        unbroken = self.run(self.make(name), range(20))
        resumed = self.make(name)
        for number in range(14):
            resumed.observe(*ended(number, unbroken[number]))
        assert self.run(resumed, range(14, 20)) == unbroken[14:]

    def test_nothing_is_left_running_once_it_was_observed(self, name: str) -> None:
        sampler = self.make(name)
        for number, status in enumerate((Status.FINISHED, Status.STOPPED, Status.FAILED)):
            sampler.observe(*ended(number, sampler.propose(number), status))
        states = [trial.state for trial in study(sampler).trials]
        assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]

    def test_a_trial_whose_every_score_is_nan_has_failed(self, name: str) -> None:
        sampler = self.make(name)
        params = sampler.propose(0)
        sampler.observe(trial_record(0, params=params), {1: math.nan, 2: math.nan})
        assert [t.state for t in study(sampler).trials] == [TrialState.FAIL]
        sampler.propose(1)

    def test_a_trial_is_worth_its_best_epoch(self, name: str) -> None:
        sampler = self.make(name)
        sampler.observe(*ended(0, params := sampler.propose(0)))
        assert study(sampler).trials[0].value == worth(params)

    def test_a_stopped_trial_is_pruned_with_its_best_scores_so_far(self, name: str) -> None:
        for resumed in (False, True):
            sampler = self.make(name)
            params = sampler.propose(0)
            if resumed:
                sampler = self.make(name)
            record = trial_record(0, status=Status.STOPPED, params=params, best_epoch=2, score=0.9)
            sampler.observe(record, {1: math.nan, 2: 0.9, 3: math.nan, 4: 0.2})
            (trial,) = study(sampler).trials
            assert trial.state == TrialState.PRUNED
            assert trial.intermediate_values == {2: 0.9, 4: 0.9}

    def test_under_min_the_best_so_far_is_the_lowest(self, name: str) -> None:
        sampler = self.make(name, mode="min")
        record = trial_record(0, status=Status.STOPPED, params=sampler.propose(0), best_epoch=2, score=0.1)
        sampler.observe(record, {1: 0.3, 2: 0.1, 3: 0.4})
        assert study(sampler).trials[0].intermediate_values == {1: 0.3, 2: 0.1, 3: 0.1}
        assert study(sampler).direction == optuna.study.StudyDirection.MINIMIZE

    def test_points_inside_the_space_are_learnt_from_and_others_are_not(self, name: str) -> None:
        sampler = self.make(name)
        inside: dict[str, Any] = {"kind": "deep", "depth": 3, "rate": 0.1, "drop": 0.2, "fixed": "here"}
        for number, change in enumerate([{}, {"rate": 7.0}, {"drop": 0.25}, {"fixed": "there"}, {"more": 1}]):
            sampler.observe(*ended(number, inside | change))
        (known,) = study(sampler).trials
        assert known.params == {"kind": "deep", "depth": 3, "rate": 0.1, "drop": 0.2}

    def test_a_proposal_that_came_back_changed_is_forgotten(self, name: str) -> None:
        sampler = self.make(name)
        params = sampler.propose(0)
        sampler.observe(*ended(0, params | {"fixed": "there"}))
        assert [t.state for t in study(sampler).trials] == [TrialState.FAIL]

    def test_whole_numbers_that_the_ledger_gave_back_as_floats_are_known(self, name: str) -> None:
        sampler = self.make(name)
        sampler.observe(*ended(0, {"kind": "wide", "width": 16.0, "rate": 0.1, "drop": 0.0, "fixed": "here"}))
        assert study(sampler).trials[0].params["width"] == 16


def test_tpe_learns_and_random_does_not() -> None:
    def late(name: str) -> float:
        scores = []
        for seed in range(4):
            sampler = OptunaSampler(SPACE, name=name, seed=seed, mode="max")
            for number in range(40):
                params = sampler.propose(number)
                sampler.observe(*ended(number, params))
                scores += [worth(params)] if number >= 20 else []
        return sum(scores) / len(scores)

    assert late("tpe") > late("random") + 0.2


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no sampler is called 'tep'; did you mean 'tpe'\?"):
        OptunaSampler(SPACE, name="tep", seed=0, mode="max")


def test_a_search_of_given_trials_proposes_nothing() -> None:
    sampler = NoSampler()
    sampler.observe(trial_record(0), {})
    with pytest.raises(LookupError):
        sampler.propose(1)


def test_seeds_of_different_purposes_differ_and_hold() -> None:
    seeds = {derive_seed(seed, f"trial-{i}") for seed in range(10) for i in range(100)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "trial-0") == 1505861081
