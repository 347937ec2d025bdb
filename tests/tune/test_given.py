from pathlib import Path

import pytest

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.given import MisfitError, fit, load_points
from ensemble_tune.tune.search_space import SearchSpace

SPACE = SearchSpace.parse("""
[parameters]
kind = { choices = ["wide", "deep"] }
width = { low = 8, high = 64, step = 8, when = { kind = "wide" } }
depth = { low = 1, high = 9, when = { kind = "deep" } }
rate = { low = 1e-4, high = 1.0, log = true }
flag = { choices = [true, false] }
fixed = "here"
""")
GOOD = 'kind = "deep"\ndepth = 3\nrate = 1\nflag = true'


def write(tmp_path: Path, *points: str) -> Path:
    path = tmp_path / "known.toml"
    path.write_text("".join(f"[[points]]\n{point}\n" for point in points))
    return path


def test_points_come_in_their_order_with_the_fixed_values(tmp_path: Path) -> None:
    points = load_points(write(tmp_path, GOOD, 'kind = "wide"\nwidth = 16\nrate = 0.5\nflag = false\nseed = 7'), SPACE)
    assert points == [
        {"kind": "deep", "depth": 3, "rate": 1.0, "flag": True, "fixed": "here"},
        {"kind": "wide", "width": 16, "rate": 0.5, "flag": False, "fixed": "here", "seed": 7},
    ]
    assert SPACE.contains(points[0]) and isinstance(points[0]["rate"], float)


def test_a_fixed_value_may_be_named_too(tmp_path: Path) -> None:
    (point,) = load_points(write(tmp_path, f'{GOOD}\nfixed = "here"'), SPACE)
    assert point["fixed"] == "here"


def test_a_seed_that_the_space_searches_is_a_parameter_like_any_other(tmp_path: Path) -> None:
    space = SearchSpace.parse("[parameters]\nseed = { choices = [1, 2] }")
    assert load_points(write(tmp_path, "seed = 2"), space) == [{"seed": 2}]
    with pytest.raises(ConfigError, match="seed must be one of 1, 2, but got 3"):
        load_points(write(tmp_path, "seed = 3"), space)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (GOOD.replace("rate", "rat"), "no parameter is called 'rat'; did you mean 'rate'?"),
        (GOOD.replace("rate = 1", ""), "rate has no value; give a number from 0.0001 to 1.0"),
        (GOOD.replace("rate = 1", "rate = 7"), "rate must be a number from 0.0001 to 1.0, but got 7"),
        (GOOD.replace("rate = 1", "rate = nan"), "rate must be a number from 0.0001 to 1.0, but got nan"),
        (GOOD.replace("depth = 3", "depth = 3.5"), "depth must be a whole number from 1 to 9, but got 3.5"),
        (GOOD.replace("flag = true", "flag = 1"), "flag must be one of True, False, but got 1"),
        (GOOD.replace('"deep"', '"dep"'), "kind must be one of 'wide', 'deep', but got 'dep'"),
        (GOOD.replace("rate = 1", "rate = [1]"), "rate must be a number, a text or a boolean, but got [1]"),
        (
            'kind = "wide"\nwidth = 12\nrate = 1\nflag = true',
            "width must be a whole number from 8 to 64 in steps of 8, but got 12",
        ),
        (f"{GOOD}\nwidth = 8", "width exists only where kind is 'wide', but it is 'deep'; drop width"),
        (f'{GOOD}\nfixed = "there"', "fixed is always 'here' in this space, but got 'there'; drop it"),
        (f"{GOOD}\nseed = -1", "seed must be a whole number from 0, but got -1; try 0"),
        (f"{GOOD}\nseed = 0.5", "seed must be a whole number from 0, but got 0.5; try 0"),
    ],
)
def test_a_wrong_point_is_refused_in_one_line_that_names_file_and_point(tmp_path: Path, point: str, said: str) -> None:
    path = write(tmp_path, GOOD, point)
    with pytest.raises(ConfigError) as refusal:
        load_points(path, SPACE)
    assert str(refusal.value) == f"{path}, point 2: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs at least one point, but has none"),
        ("points = []", "needs at least one point, but has none"),
        ("points = 3", "needs at least one point, but has none"),
        ("[points]\nrate = 1", "needs at least one point, but has none"),
        ("[[point]]\nrate = 1", "holds points alone, but has 'point'; put it under"),
        ("[[points]\n", "given points are a TOML file, but"),
    ],
)
def test_a_file_without_points_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"known\.toml") as refusal:
        load_points(path, SPACE)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"given points are a readable TOML file, but .*none\.toml is not"):
        load_points(tmp_path / "none.toml", SPACE)
    (tmp_path / "image.toml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match=r"image\.toml is not"):
        load_points(tmp_path / "image.toml", SPACE)


def test_values_that_fit_lose_what_the_space_does_not_know() -> None:
    values = {"kind": "wide", "width": 16.0, "depth": 3, "rate": 1, "flag": False, "fixed": "there", "more": 1}
    point = fit(values, SPACE)
    assert point == {"kind": "wide", "width": 16, "rate": 1.0, "flag": False, "fixed": "here"}
    assert isinstance(point["width"], int)


def test_a_misfit_names_the_parameter_and_the_value() -> None:
    with pytest.raises(MisfitError) as misfit:
        fit({"kind": "deep", "rate": 1, "flag": True}, SPACE)
    assert (misfit.value.parameter.name, misfit.value.value) == ("depth", None)
    with pytest.raises(MisfitError) as misfit:
        fit({"kind": "deep", "depth": 30, "rate": 1, "flag": True}, SPACE)
    assert (misfit.value.parameter.name, misfit.value.value) == ("depth", 30)
