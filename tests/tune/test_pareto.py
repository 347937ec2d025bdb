import math
import random
from collections.abc import Sequence

import pytest
from records import trial_record

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.tune.pareto import front, pick
from ensemble_tune.tune.record import Objective, Status, TrialRecord

MIOU, TIME, SIZE = Objective("miou"), Objective("milliseconds", "min"), Objective("parameters", "min")
BOTH = (MIOU, TIME)


def trial(number: int, miou: float, time: float = 1.0, status: Status = Status.FINISHED, **more: float) -> TrialRecord:
    scores = {"miou": miou, "milliseconds": time, **more}
    return trial_record(number, status=status, best_epoch=1, score=miou, scores=scores)


def numbers(records: Sequence[TrialRecord]) -> list[int]:
    return [record.number for record in records]


# Best first: 3 is the slow one, 1 bends outwards, 0 the fast one; 2 and 4 are beaten.
FIVE = [trial(0, 0.40, 10), trial(1, 0.55, 14), trial(2, 0.50, 15), trial(3, 0.60, 30), trial(4, 0.40, 11)]


def test_the_front_is_what_no_trial_beats_the_best_first() -> None:
    assert numbers(front(FIVE, BOTH)) == [3, 1, 0]
    assert numbers(front(FIVE, [MIOU])) == [3]
    assert numbers(front(FIVE, [TIME, MIOU])) == [0, 1, 3]


def test_equals_are_all_on_the_front_the_earlier_first() -> None:
    assert numbers(front([*reversed(FIVE), trial(5, 0.55, 14)], BOTH)) == [3, 1, 5, 0]
    assert numbers(front([trial(1, 0.5), trial(0, 0.5)], [MIOU])) == [0, 1]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.FINISHED])
def test_only_finished_trials_are_on_the_front(status: Status) -> None:
    assert numbers(front([*FIVE, trial(5, 0.9, 1, status)], BOTH)) == [3, 1, 0]


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf])
def test_a_trial_without_a_score_is_not_on_the_front(time: float) -> None:
    unmeasured = trial_record(6, score=0.9, scores={"miou": 0.9})
    assert numbers(front([*FIVE, trial(5, 0.9, time), unmeasured], BOTH)) == [3, 1, 0]


@pytest.mark.parametrize("objectives", [(MIOU,), BOTH, (MIOU, TIME, SIZE)])
def test_the_front_is_what_comparing_all_with_all_gives(objectives: Sequence[Objective]) -> None:
    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        gains = [(one.scores[o.metric] - other.scores[o.metric]) * (1 if o.mode == "max" else -1) for o in objectives]
        return min(gains) >= 0 and max(gains) > 0

    for seed in range(20):
        draw = random.Random(seed).randrange
        records = [trial(i, draw(6), draw(6), parameters=draw(6)) for i in range(40)]
        unbeaten = [r for r in records if not any(beats(other, r) for other in records)]
        assert sorted(numbers(front(records, objectives))) == numbers(unbeaten)


def test_the_front_of_two_objectives_is_found_among_many() -> None:
    """All of 20,000 are on it: comparing each with each would take minutes."""
    records = [trial(i, i, i) for i in range(20_000)]
    assert len(front(records, BOTH)) == 20_000


def test_best_is_the_best_by_the_first_objective() -> None:
    assert pick(FIVE, BOTH, "best").number == 3
    assert pick(FIVE, [TIME, MIOU], "best").number == 0
    assert pick([trial(1, 0.5), trial(0, 0.5), trial(2, 0.4)], BOTH, "best").number == 0


def test_a_stopped_trial_may_be_the_best_but_no_other_that_did_not_finish() -> None:
    assert pick([*FIVE, trial(5, 0.9, 1, Status.STOPPED)], BOTH, "best").number == 5
    for status in (Status.FAILED, Status.LOST, Status.RUNNING, Status.PAUSED):
        assert pick([*FIVE, trial(5, 0.9, 1, status)], BOTH, "best").number == 3


def test_the_knee_is_the_trial_farthest_from_the_line_between_the_ends() -> None:
    assert pick(FIVE, BOTH, "knee").number == 1


def test_the_knee_does_not_depend_on_units() -> None:
    scaled = [trial(r.number, r.scores["miou"] * 1000 - 7, r.scores["milliseconds"] / 60_000) for r in FIVE]
    assert pick(scaled, BOTH, "knee").number == 1


def test_where_the_front_bends_inwards_the_knee_is_an_end_of_it() -> None:
    assert pick([trial(0, 0.4, 10), trial(1, 0.45, 28), trial(2, 0.6, 30)], BOTH, "knee").number == 2


def test_the_knee_of_one_trial_or_one_objective_is_the_best() -> None:
    assert pick(FIVE[:1], BOTH, "knee").number == 0
    assert pick(FIVE, [MIOU], "knee").number == 3


@pytest.mark.parametrize(
    ("rule", "number"),
    [
        ("milliseconds<20", 1),
        ("milliseconds<14", 0),
        ("milliseconds<=14", 1),
        ("milliseconds > 10", 3),
        ("milliseconds>=10, milliseconds <30", 1),
        ("miou>=0.4,milliseconds<=1.1e1", 0),
        ("iou.traffic light>=0.5", 4),
    ],
)
def test_a_bound_takes_the_best_that_keeps_it(rule: str, number: int) -> None:
    records = [*FIVE[:4], trial(4, 0.40, 11, **{"iou.traffic light": 0.5})]
    assert pick(records, BOTH, rule).number == number


def test_a_stopped_trial_keeps_no_bound() -> None:
    assert pick([*FIVE, trial(5, 0.9, 1, Status.STOPPED)], BOTH, "milliseconds<20").number == 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            "milliseconds<10",
            "no finished trial has milliseconds<10; the nearest is base-0000 with milliseconds 10; loosen",
        ),
        (
            "miou>0.5,milliseconds<12",
            "no finished trial with miou>0.5 has milliseconds<12; the nearest is base-0001 with milliseconds 14;",
        ),
        ("millisecond<20", "no score is called 'millisecond'; did you mean 'milliseconds'?"),
        ("nee", "a pick is best, knee or a bound such as \"milliseconds<20\", not 'nee'; did you mean 'knee'?"),
        ("milliseconds<fast", "a bound is a score, a sign and a number, but got 'milliseconds<fast'; try"),
        ("milliseconds<nan", "a bound is a score, a sign and a number, but got 'milliseconds<nan'; try"),
        ("<20", "a bound is a score, a sign and a number, but got '<20'; try"),
        ("milliseconds<20,", "a bound is a score, a sign and a number, but got ''; try"),
        ("milliseconds==20", "a pick is best, knee or a bound"),
        ("10<milliseconds<20", "a bound is a score, a sign and a number, but got '10<milliseconds<20'; try"),
    ],
)
def test_a_rule_that_picks_nothing_is_refused_in_one_line(rule: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        pick(FIVE, BOTH, rule)
    assert str(refusal.value).startswith(said) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("rule", ["best", "knee", "milliseconds<20"])
def test_without_a_finished_trial_there_is_nothing_to_pick(rule: str) -> None:
    with pytest.raises(RunError, match="a pick needs a trial with a score, but none has ended with miou"):
        pick([trial_record(0, status=Status.FAILED)], BOTH, rule)
