from collections import Counter
from collections.abc import Sequence

import pytest
from records import trial_record

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value
from ensemble_tune.tune.record import Objective, Status, TrialRecord
from ensemble_tune.tune.sampler import SAMPLERS, NoSampler, Sampler, SpaceUsedUpError, derive_seed, make_sampler
from ensemble_tune.tune.search_space import SearchSpace

FINITE = SearchSpace.parse("""
[parameters]
kind = { choices = ["wide", "deep"] }
width = { low = 8, high = 64, step = 8, when = { kind = "wide" } }
depth = { low = 1, high = 9, when = { kind = "deep" } }
drop = { low = 0.0, high = 0.5, step = 0.1 }
fixed = "here"
""")
SPACE = SearchSpace.parse("""
[parameters]
kind = { choices = ["wide", "deep"] }
width = { low = 8, high = 64, step = 8, when = { kind = "wide" } }
depth = { low = 1, high = 9, when = { kind = "deep" } }
rate = { low = 1e-4, high = 1.0, log = true }
drop = { low = 0.0, high = 0.5, step = 0.1 }
fixed = "here"
""")
ONE = (Objective("score"),)
TWO = (Objective("score"), Objective("cost", "min"))


def ended(number: int, params: dict[str, Value], status: Status) -> tuple[TrialRecord, dict[int, float]]:
    """A trial that is best in epoch 2; a failed or a lost one has no epoch."""
    if status in (Status.FAILED, Status.LOST):
        return trial_record(number, status=status, params=params), {}
    score = -float(params["drop"]) - (0.5 if params["kind"] == "deep" else 0.0)
    scores = {"score": score, "cost": float(params.get("width", 1))}
    record = trial_record(number, status=status, params=params, best_epoch=2, score=score, scores=scores)
    return record, {1: score - 1, 2: score, 3: score - 0.5}


@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    """What holds for any of them, whatever becomes of the trials."""

    FATES = (Status.FINISHED, Status.STOPPED, Status.FINISHED, Status.FAILED, Status.FINISHED, Status.LOST)

    def space(self, name: str) -> SearchSpace:
        return FINITE if name == "grid" else SPACE

    def make(self, name: str, objectives: Sequence[Objective], seed: int = 7) -> Sampler:
        return make_sampler(name, self.space(name), seed=seed, objectives=objectives)

    def run(self, sampler: Sampler, numbers: range) -> list[dict[str, Value]]:
        proposals = []
        for number in numbers:
            proposals.append(sampler.propose(number))
            sampler.observe(*ended(number, proposals[-1], self.FATES[number % len(self.FATES)]))
        return proposals

    def count(self, name: str, most: int, gp: int) -> int:
        """A Gaussian process takes half a second a proposal, from the eleventh trial that it can learn from on."""
        return gp if name == "gp" else most

    def test_every_proposal_is_inside_the_space(self, name: str, objectives: Sequence[Objective]) -> None:
        proposals = self.run(self.make(name, objectives), range(self.count(name, 25, gp=11)))
        assert all(self.space(name).contains(p) for p in proposals)
        assert {p["kind"] for p in proposals} == {"wide", "deep"}
        assert all(p["fixed"] == "here" for p in proposals)

    def test_the_same_seed_and_history_give_the_same_proposals(
        self, name: str, objectives: Sequence[Objective]
    ) -> None:
        numbers = range(self.count(name, 20, gp=11))
        assert self.run(self.make(name, objectives), numbers) == self.run(self.make(name, objectives), numbers)

    def test_another_seed_gives_others(self, name: str, objectives: Sequence[Objective]) -> None:
        assert self.run(self.make(name, objectives), range(3)) != self.run(self.make(name, objectives, 8), range(3))

    def test_each_trial_of_a_search_gets_its_own_proposal(self, name: str, objectives: Sequence[Objective]) -> None:
        sampler = self.make(name, objectives)
        proposals = {tuple(sampler.propose(number).items()) for number in range(12)}
        assert len(proposals) == 12 if name != "tpe" else len(proposals) > 10

    def test_a_resumed_sampler_proposes_what_an_unbroken_one_would(
        self, name: str, objectives: Sequence[Objective]
    ) -> None:
        numbers = range(self.count(name, 20, gp=12))
        unbroken = self.run(self.make(name, objectives), numbers)
        resumed = self.make(name, objectives)
        done = len(numbers) - 2
        for number in range(done):
            resumed.observe(*ended(number, unbroken[number], self.FATES[number % len(self.FATES)]))
        assert self.run(resumed, numbers[done:]) == unbroken[done:]

    def test_what_runs_or_waits_is_taken_up_where_it_stands(self, name: str, objectives: Sequence[Objective]) -> None:
        """One trial still runs, and one is paused, when the process dies; both finish in the next one."""
        done = self.count(name, 12, gp=9 if objectives == ONE else 6)

        def go_on(sampler: Sampler, runs: dict[str, Value], waits: dict[str, Value]) -> list[dict[str, Value]]:
            ahead = sampler.propose(done + 2)
            sampler.observe(*ended(done, runs, Status.FINISHED))
            sampler.observe(*ended(done + 1, waits, Status.FINISHED))
            return [ahead, sampler.propose(done + 3)]

        unbroken = self.make(name, objectives)
        before = self.run(unbroken, range(done))
        runs, waits = unbroken.propose(done), unbroken.propose(done + 1)
        unbroken.observe(*ended(done + 1, waits, Status.PAUSED))
        after = go_on(unbroken, runs, waits)
        resumed = self.make(name, objectives)
        for number, params in enumerate(before):
            resumed.observe(*ended(number, params, self.FATES[number % len(self.FATES)]))
        resumed.observe(trial_record(done, status=Status.RUNNING, params=runs), {})
        resumed.observe(*ended(done + 1, waits, Status.PAUSED))
        assert go_on(resumed, runs, waits) == after

    def test_what_is_outside_the_space_does_no_harm(self, name: str, objectives: Sequence[Objective]) -> None:
        sampler = self.make(name, objectives)
        params = self.make(name, objectives).propose(0)
        for number, change in enumerate([{"drop": 7.0}, {"drop": 0.25}, {"fixed": "there"}, {"more": 1}]):
            sampler.observe(*ended(number, params | change, Status.FINISHED))
        assert sampler.propose(4)


def test_random_covers_every_value_and_no_other() -> None:
    space = SearchSpace.parse("""
    [parameters]
    whole = { low = 1, high = 3 }
    steps = { low = 2, high = 6, step = 2 }
    log = { low = 1, high = 4, log = true }
    float = { low = 0.0, high = 0.3, step = 0.1 }
    flag = { choices = [true, false] }
    free = { low = -1.0, high = 1.0 }
    rate = { low = 1e-4, high = 1.0, log = true }
    """)
    sampler = make_sampler("random", space, seed=0, objectives=ONE)
    points = [sampler.propose(number) for number in range(3000)]
    seen = {name: Counter(point[name] for point in points) for name in space.names}
    for name, values in {
        "whole": [1, 2, 3],
        "steps": [2, 4, 6],
        "float": [0.0, 0.1, 0.2, 0.3],
        "flag": [True, False],
    }.items():
        assert set(seen[name]) == set(values)
        assert min(seen[name].values()) > 0.85 * 3000 / len(values)
    assert set(seen["log"]) == {1, 2, 3, 4} and seen["log"][1] > 1.5 * seen["log"][2] > 2 * seen["log"][4]
    below = sum(float(point["rate"]) < 1e-2 for point in points) / 3000
    assert abs(below - 0.5) < 0.05 and abs(sum(float(p["free"]) for p in points) / 3000) < 0.06


def test_random_depends_on_nothing_but_seed_and_number() -> None:
    one, other = (make_sampler("random", SPACE, seed=3, objectives=ONE) for _ in range(2))
    other.observe(*ended(0, other.propose(5), Status.FINISHED))
    assert [one.propose(number) for number in range(9)] == [other.propose(number) for number in reversed(range(9))][
        ::-1
    ]


def test_quasi_random_points_fill_the_space_more_evenly_than_random_ones() -> None:
    space = SearchSpace.parse("[parameters]\nx = { low = 0.0, high = 1.0 }\ny = { low = 0.0, high = 1.0 }")

    def filled(name: str) -> int:
        """How many of 64 equal cells 64 points hit."""
        sampler = make_sampler(name, space, seed=1, objectives=ONE)
        points = [sampler.propose(number) for number in range(64)]
        return len({(int(float(p["x"]) * 8), int(float(p["y"]) * 8)) for p in points})

    assert filled("qmc") == 64 > filled("random") + 15


def test_quasi_random_points_go_on_after_a_resume_wherever_that_is() -> None:
    sampler = make_sampler("qmc", SPACE, seed=1, objectives=ONE)
    points = [sampler.propose(number) for number in range(30)]
    assert make_sampler("qmc", SPACE, seed=1, objectives=ONE).propose(20) == points[20]
    assert sampler.propose(3) == points[3] and sampler.propose(29) == points[29]


class TestGrid:
    def grid(self, seed: int = 0, space: SearchSpace = FINITE) -> Sampler:
        return make_sampler("grid", space, seed=seed, objectives=ONE)

    def all(self, sampler: Sampler, begin: int = 0) -> list[dict[str, Value]]:
        points: list[dict[str, Value]] = []
        with pytest.raises(SpaceUsedUpError):
            while True:
                points.append(sampler.propose(begin + len(points)))
        return points

    def test_every_point_comes_once_and_then_none(self) -> None:
        points = self.all(self.grid())
        assert len(points) == len({tuple(sorted(p.items())) for p in points}) == (8 + 9) * 6
        assert all(FINITE.contains(point) for point in points)
        assert {point["drop"] for point in points} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}

    def test_what_was_observed_is_not_proposed_again(self) -> None:
        before = self.all(self.grid())
        resumed = self.grid()
        # Its ledger may hold whole numbers as floats, and floats with their rounding.
        resumed.observe(trial_record(0, status=Status.RUNNING, params=before[0]), {})
        resumed.observe(
            trial_record(1, status=Status.FAILED, params=before[1] | {"drop": before[1]["drop"] + 1e-15}), {}
        )
        deep = next(p for p in before[2:] if p["kind"] == "deep")
        resumed.observe(trial_record(2, params=deep | {"depth": float(deep["depth"])}), {})
        assert self.all(resumed, 3) == [point for point in before[2:] if point != deep]

    def test_a_search_that_ends_early_saw_all_of_the_space(self) -> None:
        sampler = self.grid()
        some = [sampler.propose(number) for number in range(20)]
        assert {p["kind"] for p in some} == {"wide", "deep"} and len({p["drop"] for p in some}) == 6

    def test_fixed_values_alone_are_one_point(self) -> None:
        assert self.all(self.grid(space=SearchSpace.parse("[parameters]\na = 1"))) == [{"a": 1}]

    def test_a_space_that_is_not_finite_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match=r"but rate is any number from 0\.0001 to 1\.0; give it a step or choices"
        ):
            self.grid(space=SPACE)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a = { low = 0, high = 100000 }", "a alone has 100,001 values"),
            ("a = { low = 1, high = 400 }\nb = { low = 1, high = 251 }", "this space has more"),
        ],
    )
    def test_a_space_too_large_to_try_out_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=f"a grid may have 100,000 points, but {said}"):
            self.grid(space=SearchSpace.parse(f"[parameters]\n{text}"))


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no sampler is called 'tep'; did you mean 'tpe'\?"):
        make_sampler("tep", SPACE, seed=0, objectives=ONE)


def test_a_search_of_given_trials_proposes_nothing() -> None:
    sampler = NoSampler()
    sampler.observe(trial_record(0), {})
    with pytest.raises(SpaceUsedUpError):
        sampler.propose(1)


def test_seeds_of_different_purposes_differ_and_hold() -> None:
    seeds = {derive_seed(seed, f"trial-{i}") for seed in range(10) for i in range(100)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "trial-0") == 1505861081
