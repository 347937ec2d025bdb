"""TOML and JSON that anyone may have written: whatever is wrong is a ValueError, which says what and where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from ensemble_tune.documents import LARGEST, Document, parse_json, parse_toml

WHOLE = {
    "text": "a",
    "texts": ["a", "b"],
    "whole": 3,
    "wholes": [1, 2],
    "number": 0.5,
    "numbers": {"a": 1, "b": None},
    "flag": True,
    "time": "2026-01-02T03:04:05+00:00",
    "table": {"a": 1},
    "items": [1, "a", None],
    "plain": {"a": "x", "b": 1, "c": 0.5, "d": False},
    "own_texts": {"a": "x"},
    "null": None,
}
"""A value by the name of the method that takes it."""
TOO_LARGE = LARGEST + 1


def test_each_value_is_taken_by_name_and_type() -> None:
    document = Document(parse_json(json.dumps(WHOLE)))
    assert (document.text("text"), document.texts("texts"), document.flag("flag")) == ("a", ("a", "b"), True)
    assert (document.whole("whole"), document.wholes("wholes"), document.number("number")) == (3, (1, 2), 0.5)
    assert document.numbers("numbers")["a"] == 1.0 and math.isnan(document.numbers("numbers")["b"])
    assert document.time("time") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert document.table("table").whole("a") == 1 and document.items("items") == [1, "a", None]
    assert document.plain("plain") == WHOLE["plain"] and document.own_texts("own_texts") == {"a": "x"}
    assert document.is_null("null") and not document.is_null("text") and math.isnan(document.number("null"))
    assert set(document.only(WHOLE)) == set(WHOLE) and "text" in document and "x" not in document


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("text", 1, "must hold text, but has 1"),
        ("text", "\ud800", "surrogates not allowed"),
        ("texts", "ab", "must be a list, but is 'ab'"),
        ("texts", ["a", None], "must hold text, but has None"),
        ("whole", 1.0, "must be a whole number of at least 0, but is 1.0"),
        ("whole", True, "must be a whole number of at least 0, but is True"),
        ("whole", -1, "must be a whole number of at least 0, but is -1"),
        ("whole", TOO_LARGE, "must be a whole number of at least 0, but is 92233"),
        ("wholes", {"0": 1}, "must be a list, but is {'0': 1}"),
        ("wholes", [1, "2"], "must be a whole number of at least 0, but is '2'"),
        ("number", "1", "must hold numbers, but has '1'"),
        ("number", False, "must hold numbers, but has False"),
        ("number", 10**400, "holds a number that is too large"),
        ("numbers", [1], "must be a table, but is [1]"),
        ("numbers", {"a": "x"}, "must hold numbers, but has 'x'"),
        ("flag", 1, "must be true or false, but is 1"),
        ("time", 5, "must hold text, but has 5"),
        ("time", "yesterday", "Invalid isoformat string"),
        ("time", "2026-01-02T03:04:05", "must have a time zone, but is 2026-01-02 03:04:05"),
        ("table", [], "must be a table, but is []"),
        ("items", {}, "must be a list, but is {}"),
        ("plain", {"a": None}, "must hold text, but has None"),
        ("plain", {"a": [1]}, "must hold text, but has [1]"),
        ("plain", {"a": TOO_LARGE}, "must hold text, but has 92233"),
        ("own_texts", {"a": 1}, "must hold text, but has 1"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_place(name: str, value: object, said: str) -> None:
    document = Document({name: value}, "trial.json")
    with pytest.raises(ValueError) as error:
        getattr(document, name)(name)
    assert said in str(error.value)
    if said.startswith(("must", "holds")):
        assert str(error.value).startswith(f"trial.json.{name} {said}")


@pytest.mark.parametrize("method", [name for name in WHOLE if name != "null"])
def test_a_value_that_is_not_there_is_named(method: str) -> None:
    with pytest.raises(ValueError, match=r"^within\.a is missing$"):
        getattr(Document({"within": {}}).table("within"), method)("a")


def test_a_name_of_another_version_is_refused() -> None:
    assert Document({"a": 1}).only(["a", "b"]).whole("a") == 1
    with pytest.raises(ValueError, match=r"^stamp\.c is unknown$"):
        Document({"a": 1, "d": 1, "c": 1}, "stamp").only(["a"])


@pytest.mark.parametrize("value", [None, 1, "a", [], [{}]])
def test_what_is_no_table_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^it must be a table, but is"):
        Document(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_toml, "a = " + "[" * 100_000),
        (parse_toml, "a = " + "{b=" * 100_000),
        (parse_json, "[" * 100_000),
        (parse_json, '{"a":' * 100_000),
    ],
)
def test_what_is_nested_too_deeply_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
        parse(text)


@pytest.mark.parametrize("text", ["a = {}", "[a]\nb = {}", "a = [1, [{}]]", "[[a]]\nb = [{{c = {}}}]"])
def test_a_whole_number_of_toml_must_fit_64_bits(text: str) -> None:
    for number in (LARGEST, -LARGEST):
        parse_toml(text.format(number))
    for number in (TOO_LARGE, -TOO_LARGE - 1):
        with pytest.raises(ValueError, match="larger than 64 bits hold"):
            parse_toml(text.format(number))


@pytest.mark.parametrize("parse", [parse_toml, parse_json])
def test_a_number_of_5000_digits_is_refused(parse: Callable[[str], object]) -> None:
    """Python itself refuses to read it: a ValueError too."""
    text = "9" * 5000
    with pytest.raises(ValueError, match="4300 digits"):
        parse(text if parse is parse_json else f"a = {text}")
