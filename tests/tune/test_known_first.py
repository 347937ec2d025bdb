from typing import Any

import pytest
from records import trial_record

from ensemble_tune.tune.known_first import KnownFirst, nearest
from ensemble_tune.tune.sampler import make_sampler
from ensemble_tune.tune.search_space import SearchSpace


def space(parameters: str) -> SearchSpace:
    return SearchSpace.parse(f"[parameters]\n{parameters}")


@pytest.mark.parametrize(
    ("parameter", "known", "expected"),
    [
        ("x = { low = 1.0, high = 3.0 }", 2.5, 2.5),
        ("x = { low = 1.0, high = 3.0 }", 9, 3.0),
        ("x = { low = 1.0, high = 3.0 }", 0.1, 1.0),
        ("x = { low = 1.0, high = 3.0 }", None, 2.0),
        ("x = { low = 0.01, high = 1.0, log = true }", None, 0.1),
        ("x = { low = 0.0, high = 0.5, step = 0.1 }", 0.29, 0.3),
        ("x = { low = 2, high = 9 }", 4, 4),
        ("x = { low = 2, high = 8, step = 3 }", 7, 8),
        ("x = { low = 2, high = 8, step = 3 }", 99, 8),
        ("x = { low = 1, high = 100, log = true }", None, 10),
        ('x = { choices = ["a", "b"] }', "b", "b"),
        ('x = { choices = ["a", "b"] }', "c", "a"),
        ('x = "a"', "b", "a"),
    ],
)
def test_the_nearest_value_is_taken(parameter: str, known: Any, expected: Any) -> None:
    point = nearest({} if known is None else {"x": known}, space(parameter))
    assert point == {"x": pytest.approx(expected) if isinstance(expected, float) else expected}
    assert type(point["x"]) is type(expected)


def test_conditions_are_those_of_the_point_itself() -> None:
    conditional = space(
        'kind = { choices = ["a", "b"] }\nx = { low = 0.0, high = 1.0, when = { kind = "a" } }\n'
        'y = { low = 0.0, high = 1.0, when = { kind = "b" } }'
    )
    assert nearest({"kind": "b", "x": 0.3, "y": 0.7}, conditional) == {"kind": "b", "y": 0.7}


@pytest.mark.parametrize("place", [0, 2])
def test_the_known_point_is_its_trial_and_all_others_are_the_samplers(place: int) -> None:
    one = space("x = { low = 0.0, high = 1.0 }")
    wanted = [make_sampler("random", one, seed=3, objectives=[]).propose(number) for number in range(4)]
    wanted[place] = {"x": 0.25}
    known = KnownFirst({"x": 0.25}, make_sampler("random", one, seed=3, objectives=[]), place)
    assert [known.propose(number) for number in range(4)] == wanted


def test_the_sampler_learns_from_the_known_point() -> None:
    one = space('x = { choices = ["a", "b", "c"] }')
    known = KnownFirst({"x": "b"}, make_sampler("grid", one, seed=0, objectives=[]))
    known.observe(trial_record(0, params={"x": "b"}), {})
    rest = {str(known.propose(number)["x"]) for number in (1, 2)}
    assert rest == {"a", "c"}
