import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.search_space import SearchSpace

TEXT = """
[parameters]
attention = { choices = ["scse", "none"], when = { architecture = ["unet", "unetplusplus"] } }
ratio = { low = 2, high = 8, step = 2, when = { attention = "scse" } }
architecture = { choices = ["unet", "unetplusplus", "deeplabv3"] }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = { low = 4, high = 16, step = 4 }
dropout = { low = 0.0, high = 0.5, step = 0.1 }
weight_decay = 1e-4
"""


def space() -> SearchSpace:
    return SearchSpace.parse(TEXT, "my.toml")


def draws(of: SearchSpace, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [of.draw(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no parameters; write them under [parameters]"),
        ("parameters = 3", "has no parameters; write them under [parameters]"),
        ("[parameters]", "has no parameters; write them under [parameters]"),
        ("[parameter]\na = 1", "has no table 'parameter'; put everything under [parameters]"),
        ("[parameters\n", "is not valid TOML"),
        ("[parameters]\na = { lo = 1, high = 2 }", "a has no key 'lo'; did you mean 'low'?"),
        ("[parameters]\na = { choice = [1] }", "a has no key 'choice'; did you mean 'choices'?"),
        ("[parameters]\na = {}", "a needs a number as low, but got None; or give choices"),
        ("[parameters]\na = { low = 1 }", "a needs a number as high, but got None"),
        ("[parameters]\na = { low = '1', high = 2 }", "a needs a number as low, but got '1'"),
        ("[parameters]\na = { low = true, high = 2 }", "a needs a number as low, but got True"),
        ("[parameters]\na = { low = nan, high = 2 }", "a needs a number as low, but got nan"),
        ("[parameters]\na = { low = 0, high = inf }", "a needs a number as high, but got inf"),
        ("[parameters]\na = { low = 2, high = 1 }", "the range of a is empty: low 2 is not below high 1"),
        ("[parameters]\na = { low = 2, high = 2 }", "the range of a is empty: low 2 is not below high 2"),
        ("[parameters]\na = { low = 0.0, high = 1.0, log = true }", "a is logarithmic, so low must be above 0"),
        ("[parameters]\na = { low = -1, high = 1, log = true }", "a is logarithmic, so low must be above 0"),
        ("[parameters]\na = { low = 1, high = 2, log = 1 }", "log of a must be true or false, but got 1"),
        ("[parameters]\na = { low = 1, high = 9, log = true, step = 2 }", "a cannot have both log and step"),
        ("[parameters]\na = { low = 1, high = 9, step = 0 }", "step of a must be above 0"),
        ("[parameters]\na = { low = 1, high = 9, step = 9 }", "step of a must be above 0 and at most high - low"),
        ("[parameters]\na = { low = 1, high = 9, step = 0.5 }", "a is a range of whole numbers, so step must be one"),
        ("[parameters]\na = { low = 1, high = 10, step = 4 }", "whole number of steps of 4, but got 10; try 9"),
        ("[parameters]\na = { low = 0.0, high = 1.0, step = 0.3 }", "steps of 0.3, but got 1.0; try 0.9"),
        ("[parameters]\na = { choices = [1], low = 1 }", "a has choices and a range; keep one of them"),
        ("[parameters]\na = { choices = [] }", "choices of a must be a list with at least one value, but got []"),
        ("[parameters]\na = { choices = 'ab' }", "choices of a must be a list with at least one value, but got 'ab'"),
        ("[parameters]\na = { choices = [1, 2, 1] }", "a repeats a choice in [1, 2, 1]; name each once"),
        ("[parameters]\na = { choices = [1, 1.0] }", "a repeats a choice"),
        ("[parameters]\na = { choices = [0, false] }", "a repeats a choice"),
        ("[parameters]\na = { choices = ['none', 0.5] }", "must be all numbers, all texts or all booleans"),
        ("[parameters]\na = { choices = [2, true] }", "must be all numbers, all texts or all booleans"),
        ("[parameters]\na = { choices = [[1]] }", "a must hold numbers, texts or booleans, but got [1]"),
        ("[parameters]\na = 1979-05-27", "a must hold numbers, texts or booleans"),
        ("[parameters]\na = nan", "a must hold numbers, texts or booleans, but got nan"),
        ("[parameters]\na = { choices = [1], when = 'b' }", "when of a must be a table such as"),
        ("[parameters]\na = { choices = [1], when = { b = 1 } }", "a depends on 'b', which is no parameter; valid: a"),
        (
            "[parameters]\narchitecture = 'unet'\na = { choices = [1], when = { architectur = 'unet' } }",
            "a depends on 'architectur', which is no parameter; did you mean 'architecture'?",
        ),
        (
            "[parameters]\nb = 1\na = { choices = [1], when = { b = 2 } }",
            "a depends on b = 2, a value that b never has",
        ),
        ("[parameters]\nb = 1\na = { choices = [1], when = { b = true } }", "a value that b never has"),
        (
            "[parameters]\nb = 1\na = { choices = [1], when = { b = [] } }",
            "lists no value of b, so a would never exist",
        ),
        (
            "[parameters]\nb = { low = 4, high = 16, step = 4 }\na = { choices = [1], when = { b = 5 } }",
            "a depends on b = 5, a value that b never has",
        ),
        ("[parameters]\na = { choices = [1], when = { a = 1 } }", "the conditions of a depend on each other"),
        (
            "[parameters]\na = { choices = [1], when = { b = 1 } }\nb = { choices = [1], when = { a = 1 } }",
            "the conditions of a, b depend on each other; break the circle",
        ),
    ],
)
def test_a_wrong_space_is_refused_in_one_line_that_names_the_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        SearchSpace.parse(text, "my.toml")
    assert message in str(error.value)
    assert str(error.value).startswith("my.toml") and "\n" not in str(error.value)


def test_a_name_that_no_trial_understands_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no parameter is called 'learning_rat'; did you mean 'learning_rate'\?"):
        SearchSpace.parse("[parameters]\nlearning_rat = 1").check(["learning_rate", "epochs"], dict)


def test_a_choice_that_cannot_be_built_is_refused() -> None:
    def accepts(values: dict[str, Any]) -> None:
        if values.get("architecture") == "deeplabv3":
            raise ConfigError("deeplabv3 cannot be built")

    with pytest.raises(ConfigError, match="deeplabv3 cannot be built"):
        space().check(space().names, accepts)
    space().fixed(architecture="unet").check(space().names, accepts)


def test_a_value_is_checked_together_with_all_that_it_depends_on() -> None:
    seen: list[dict[str, Any]] = []
    space().check(space().names, seen.append)
    assert {"architecture": "unet", "attention": "scse", "ratio": 8} in seen
    assert {"batch_size": 4} in seen and {"batch_size": 16} in seen
    assert {"weight_decay": 1e-4} in seen


def test_parents_come_before_children() -> None:
    names = list(space().names)
    assert names.index("architecture") < names.index("attention") < names.index("ratio")


def test_a_parameter_exists_only_where_its_condition_holds() -> None:
    drawn = draws(space(), 200)
    assert {v["architecture"] for v in drawn} == {"unet", "unetplusplus", "deeplabv3"}
    for values in drawn:
        assert ("attention" in values) == (values["architecture"] != "deeplabv3")
        assert ("ratio" in values) == (values.get("attention") == "scse")


def test_whole_ranges_give_whole_numbers_and_keep_to_their_step() -> None:
    drawn = draws(space(), 200)
    assert {v["batch_size"] for v in drawn} == {4, 8, 12, 16}
    assert all(type(v["batch_size"]) is int for v in drawn)
    assert {round(v["dropout"], 6) for v in drawn} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}


def test_numbers_of_two_kinds_become_floats() -> None:
    assert [repr(c) for c in SearchSpace.parse("[parameters]\na = { choices = [0.5, 1] }")["a"].choices] == [
        "0.5",
        "1.0",
    ]


def test_a_fixed_parameter_loses_its_range_and_conditions() -> None:
    fixed = space().fixed(architecture="deeplabv3", attention="none", size="96x128")
    assert fixed.fixed_values() == {
        "architecture": "deeplabv3",
        "attention": "none",
        "size": "96x128",
        "weight_decay": 1e-4,
    }
    for values in draws(fixed, 20):
        assert values["attention"] == "none" and "ratio" not in values
        assert fixed.contains(values) and not space().contains(values)


def test_a_single_choice_under_a_condition_is_not_always_there() -> None:
    conditional = SearchSpace.parse("[parameters]\na = { choices = [1, 2] }\nb = { choices = [3], when = { a = 1 } }")
    assert conditional.fixed_values() == {}
    assert {tuple(v) for v in draws(conditional, 50)} == {("a", "b"), ("a",)}


def inside() -> dict[str, Any]:
    return {
        "architecture": "unet",
        "attention": "scse",
        "ratio": 4,
        "learning_rate": 1e-3,
        "batch_size": 8,
        "dropout": 0.30000000000000004,
        "weight_decay": 1e-4,
    }


def test_the_space_contains_what_it_could_draw() -> None:
    assert space().contains(inside())
    assert space().contains(inside() | {"batch_size": 8.0, "learning_rate": 1e-4, "dropout": 0})


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "fpn"},
        {"architecture": "deeplabv3"},
        {"attention": "none"},
        {"batch_size": 5},
        {"batch_size": 8.5},
        {"batch_size": 20},
        {"batch_size": True},
        {"batch_size": "8"},
        {"batch_size": float("nan")},
        {"batch_size": float("inf")},
        {"dropout": 0.25},
        {"learning_rate": 1e-5},
        {"weight_decay": 1e-3},
        {"extra": 1},
    ],
)
def test_the_space_does_not_contain_what_it_could_not_draw(change: dict[str, Any]) -> None:
    assert not space().contains(inside() | change)


def test_a_missing_parameter_is_outside_the_space() -> None:
    assert not space().contains({k: v for k, v in inside().items() if k != "dropout"})


def test_searched_parameters_are_those_with_a_choice_that_exist() -> None:
    names = {p.name for p in space().searched({"architecture": "deeplabv3"})}
    assert names == {"architecture", "learning_rate", "batch_size", "dropout"}


def test_combinations_are_all_that_can_be_drawn_and_no_more() -> None:
    found = list(space().combinations(["architecture", "attention", "unknown"]))
    assert found == [
        {"architecture": "unet", "attention": "scse"},
        {"architecture": "unet", "attention": "none"},
        {"architecture": "unetplusplus", "attention": "scse"},
        {"architecture": "unetplusplus", "attention": "none"},
        {"architecture": "deeplabv3"},
    ]
    assert {v["batch_size"] for v in space().combinations(["batch_size"])} == {4, 16}


def test_combinations_bring_what_their_parameters_depend_on() -> None:
    assert {"architecture": "unet", "attention": "scse", "ratio": 8} in list(space().combinations(["ratio"]))


def test_equal_spaces_have_equal_digests_and_others_do_not() -> None:
    assert space().digest() == SearchSpace.parse("# a remark\n" + TEXT, "other.toml").digest()
    others = [
        TEXT,
        TEXT.replace("1e-2", "2e-2"),
        TEXT.replace('"none"]', '"off"]'),
        TEXT.replace("step = 4", "step = 2"),
    ]
    digests = {SearchSpace.parse(text).digest() for text in others} | {space().fixed(dropout=0.1).digest()}
    assert len(digests) == 5


_names = st.sampled_from(["a", "b", "c", "d"])
_numbers = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_subnormal=False))


@st.composite
def _spec(draw: Callable[[Any], Any]) -> str:
    if draw(st.booleans()):
        kind = draw(st.sampled_from([st.integers(-99, 99), st.text("xyz", max_size=3), st.booleans()]))
        return f"choices = {draw(st.lists(kind, min_size=1, max_size=4, unique=True))}".replace("T", "t").replace(
            "F", "f"
        )
    low, high = sorted((draw(_numbers), draw(_numbers)))
    if draw(st.booleans()):
        return f"low = {low!r}, high = {high!r}{draw(st.sampled_from(['', ', log = true']))}"
    step, count = draw(st.sampled_from(["1", "3", "0.1", "0.25", "1e-3"])), draw(st.integers(1, 50))
    start = Decimal(draw(st.integers(-5, 5))) / 10 if "." in step or "e" in step else Decimal(draw(st.integers(-5, 5)))
    return f"low = {start}, high = {start + count * Decimal(step)}, step = {step}"


@st.composite
def _spaces(draw: Callable[[Any], Any]) -> SearchSpace | None:
    names = draw(st.lists(_names, min_size=1, max_size=4, unique=True))
    lines: list[str] = []
    for place, name in enumerate(names):
        condition = ""
        if place and draw(st.booleans()):
            earlier = _parsed(lines)
            if earlier is not None:
                parent = earlier[draw(st.sampled_from(earlier.names))]
                value = draw(st.sampled_from(parent.extremes()))
                condition = f", when = {{ {parent.name} = {json.dumps(value)} }}"
        lines.append(f"{name} = {{ {draw(_spec())}{condition} }}")
    return _parsed(lines)


def _parsed(lines: list[str]) -> SearchSpace | None:
    try:
        return SearchSpace.parse("\n".join(["[parameters]", *lines]))
    except ConfigError:
        return None


@settings(max_examples=150, deadline=None)
@given(_spaces(), st.integers(0, 2**31 - 1))
def test_what_is_drawn_is_always_inside_the_space(any_space: SearchSpace | None, seed: int) -> None:
    assume(any_space is not None)
    assert any_space is not None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(3):
        values = any_space.draw(study.ask())
        assert any_space.contains(values), values
        assert {p.name for p in any_space.searched(values)} <= set(values)


@pytest.mark.parametrize("name", ["base", "base-small", "meta"])
def test_shipped_spaces_load_by_their_bare_name(name: str) -> None:
    assert SearchSpace.load(name).names


def test_a_folder_of_that_name_does_not_hide_a_shipped_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert SearchSpace.load("base").names


def test_a_path_is_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(TEXT)
    assert SearchSpace.load(tmp_path / "my.toml") == space()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bas", r"no search space is called 'bas'; did you mean 'base'\? or give a .toml file"),
        ("missing.toml", "a search space is a readable TOML file, but missing.toml is not"),
        ("spaces/mine", "no search space is called 'spaces/mine'"),
    ],
)
def test_a_space_that_is_not_there_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        SearchSpace.load(name)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="readable TOML file"):
        SearchSpace.load(tmp_path / "my.toml")


def test_shipped_spaces_load_from_an_installed_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    root = Path(__file__).parents[2]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "ensemble_tune", "search_spaces"):
        if (root / name).exists():
            subprocess.run(["cp", "-r", root / name, source / name], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import ensemble_tune.tune.search_space as s; assert s.__file__.startswith(sys.argv[1])\n"
        "for name in ('base', 'base-small', 'meta'): print(len(s.SearchSpace.load(name).names))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, tmp_path / "site"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_choices_can_be_limited_but_never_to_none() -> None:
    space = SearchSpace.parse(
        '[parameters]\nbases = { choices = ["all", "1+2", "1+2+3"] }\nrate = { low = 0.1, high = 1.0 }'
    )
    limited = space.limited("bases", lambda choice: "3" not in str(choice))
    assert limited["bases"].choices == ("all", "1+2") and limited["rate"] == space["rate"]
    assert space.limited("bases", lambda choice: False) == space
    assert space.limited("rate", lambda choice: False) == space
