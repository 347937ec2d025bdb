"""Points that a user gives: TOML with one [[points]] table each.

[[points]]
learning_rate = 1e-3
architecture = "unet"
seed = 7             # optional
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_tune.documents import parse_toml
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.trial import Value
from ensemble_tune.tune.search_space import Parameter, SearchSpace

_TABLE = "points"
_SEED = "seed"


class MisfitError(LookupError):
    """Given values are no point of a space: a parameter has no value, or one outside its range."""

    def __init__(self, parameter: Parameter, value: Value | None) -> None:
        super().__init__(parameter.name)
        self.parameter = parameter
        self.value = value
        """None where there is none."""


def load_points(path: str | Path, space: SearchSpace) -> list[dict[str, Value]]:
    """The points of a file, each with the space's fixed values. Raises ConfigError, in one line, for a wrong one."""
    try:
        document = parse_toml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"given points are a readable TOML file, but {path} is not: {error}") from None
    except ValueError as error:
        raise ConfigError(f"given points are a TOML file, but {path} is not: {error}") from None
    for key in document:
        if key != _TABLE:
            raise ConfigError(f"{path} holds points alone, but has {key!r}; put it under [[points]]")
    tables = document.get(_TABLE)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path} needs at least one point, but has none; write each as a table under [[points]]")
    return [_point(table, space, f"{path}, point {number}") for number, table in enumerate(tables, start=1)]


def fit(values: Mapping[str, Value], space: SearchSpace) -> dict[str, Value]:
    """The point of a space that has these values; fixed parameters have the space's. Others are left out.

    Raises MisfitError for the first parameter that has no value, or one that it cannot take.
    """
    return space.draw(_Recall(values, space))


class _Recall:
    """Draws what was given."""

    def __init__(self, values: Mapping[str, Value], space: SearchSpace) -> None:
        self._values = values
        self._space = space

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """The value given, as a float."""
        return float(self._take(name))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """The value given, as an int: a whole float comes back from a file that holds both."""
        return int(self._take(name))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Value:
        """The choice that was given."""
        return choices[choices.index(self._take(name))]

    def _take(self, name: str) -> Value:
        parameter, value = self._space[name], self._values.get(name)
        if value is None or not parameter.contains(value):
            raise MisfitError(parameter, value)
        return value


def _point(table: Mapping[str, Any], space: SearchSpace, where: str) -> dict[str, Value]:
    """One point. Raises ConfigError."""
    values = {name: value for name, value in table.items() if name != _SEED or _SEED in space.names}
    for name, value in values.items():
        if name not in space.names:
            raise ConfigError(f"{where}: no parameter is called {name!r}; {suggest(name, (*space.names, _SEED))}")
        if not isinstance(value, str | int | float | bool):
            raise ConfigError(f"{where}: {name} must be a number, a text or a boolean, but got {value!r}")
    try:
        point = fit(values, space)
    except MisfitError as misfit:
        raise ConfigError(f"{where}: {_mismatch(misfit)}") from None
    for name, value in values.items():
        if name not in point:
            raise ConfigError(f"{where}: {name} exists only {_condition(space[name], point)}; drop {name}")
        if not space[name].contains(value):
            raise ConfigError(f"{where}: {name} is always {point[name]!r} in this space, but got {value!r}; drop it")
    if _SEED in table and _SEED not in space.names:
        seed = table[_SEED]
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"{where}: seed must be a whole number from 0, but got {seed!r}; try 0")
        point[_SEED] = seed
    return point


def _mismatch(misfit: MisfitError) -> str:
    parameter = misfit.parameter
    if misfit.value is None:
        return f"{parameter.name} has no value; give {_range(parameter)}"
    return f"{parameter.name} must be {_range(parameter)}, but got {misfit.value!r}"


def _range(parameter: Parameter) -> str:
    """What a parameter may be, in words."""
    if parameter.choices:
        return f"one of {', '.join(repr(choice) for choice in parameter.choices)}"
    kind = "a whole number" if parameter.whole else "a number"
    step = "" if parameter.step is None else f" in steps of {parameter.step}"
    return f"{kind} from {parameter.low} to {parameter.high}{step}"


def _condition(parameter: Parameter, point: Mapping[str, Value]) -> str:
    """The first condition of a parameter that a point does not meet, in words."""
    for name, allowed in parameter.when.items():
        if point.get(name) not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            there = f"it is {point[name]!r}" if name in point else "it does not exist"
            return f"where {name} is {wanted}, but {there}"
    return "under its conditions"  # pragma: no cover - some condition does not hold
