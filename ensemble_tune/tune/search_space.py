"""A search space: parameter names with distributions and conditions. Data in TOML, never code.

[parameters]
learning_rate = { low = 1e-4, high = 1e-2, log = true }            # a float
batch_size = { low = 4, high = 16, step = 4 }                      # an int: both ends are whole numbers
architecture = { choices = ["unet", "unetplusplus"] }
decoder_attention = { choices = ["scse", "none"], when = { architecture = ["unet", "unetplusplus"] } }
weight_decay = 1e-4                                                # fixed
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from ensemble_tune.documents import parse_toml
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.trial import Value

_KEYS = ("low", "high", "log", "step", "choices", "when")
_DIGITS = 700
"""From the largest number to the smallest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One name's values: a range, a list of choices, or one fixed value (a single choice)."""

    name: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    """Sampled evenly in the logarithm."""
    step: float | int | None = None
    """Distance of neighbouring values from `low` on."""
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """The parameter exists only where each named parameter has one of these values."""

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> tuple[Value, ...]:
        """Every choice, or both ends of the range."""
        return self.choices or (self.low, self.high)  # type: ignore[return-value]

    def contains(self, value: Value) -> bool:
        """Whether the parameter can take this value."""
        if self.choices:
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:  # type: ignore[operator]
            return False
        return _is_multiple(value - (self.low or 0), self.step or (1 if self.whole else None))


class Suggester(Protocol):
    """What a sampler must offer to draw from a space; an Optuna trial does."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """An int in [low, high]."""

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Value:
        """One of the choices."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Parameters in an order in which every condition names an earlier one."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def load(cls, source: str | Path) -> SearchSpace:
        """Reads a TOML file, or a shipped space by its bare name ("base"). Raises ConfigError."""
        path = Path(source)
        if path.suffix == ".toml" or path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ConfigError(f"a search space is a readable TOML file, but {path} is not: {error}") from None
            return cls.parse(text, str(path))
        shipped = {entry.name.removesuffix(".toml"): entry for entry in _shipped() if entry.name.endswith(".toml")}
        if str(source) not in shipped:
            raise ConfigError(
                f"no search space is called {str(source)!r}; {suggest(str(source), shipped)} or give a .toml file"
            )
        return cls.parse(shipped[str(source)].read_text(encoding="utf-8"), f"search space {source}")

    @classmethod
    def parse(cls, text: str, origin: str = "search space") -> SearchSpace:
        """Reads TOML text; `origin` names it in errors. Raises ConfigError."""
        try:
            document = parse_toml(text)
        except ValueError as error:
            raise ConfigError(f"{origin} is not valid TOML: {error}") from None
        for key in document:
            if key != "parameters":
                raise ConfigError(f"{origin} has no table {key!r}; put everything under [parameters]")
        table = document.get("parameters")
        if not isinstance(table, dict) or not table:
            raise ConfigError(f"{origin} has no parameters; write them under [parameters]")
        return cls(_in_order({name: _parameter(name, spec, origin) for name, spec in table.items()}, origin))

    @property
    def names(self) -> tuple[str, ...]:
        """All parameter names."""
        return tuple(parameter.name for parameter in self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    def fixed(self, **values: Value) -> SearchSpace:
        """This space with each named parameter set to one value."""
        kept = tuple(p for p in self.parameters if p.name not in values)
        return SearchSpace(tuple(Parameter(name=n, choices=(v,)) for n, v in values.items()) + kept)

    def limited(self, name: str, wanted: Callable[[Value], bool]) -> SearchSpace:
        """This space with those choices of a parameter alone that are wanted; with all where none is, or in a range."""
        kept = tuple(choice for choice in self[name].choices if wanted(choice)) or self[name].choices
        return SearchSpace(tuple(replace(p, choices=kept) if p.name == name else p for p in self.parameters))

    def fixed_values(self) -> dict[str, Value]:
        """The parameters that always have one value."""
        return {p.name: p.choices[0] for p in self.parameters if len(p.choices) == 1 and not p.when}

    def draw(self, suggester: Suggester) -> dict[str, Value]:
        """One value for every parameter whose condition holds."""
        values: dict[str, Value] = {}
        for p in self.parameters:
            if not self._exists(p, values):
                continue
            if len(p.choices) == 1:
                values[p.name] = p.choices[0]
            elif p.choices:
                values[p.name] = suggester.suggest_categorical(p.name, p.choices)
            elif p.whole:
                low, high = int(p.low or 0), int(p.high or 0)
                values[p.name] = suggester.suggest_int(p.name, low, high, step=int(p.step or 1), log=p.log)
            else:
                low_f, high_f = float(p.low or 0.0), float(p.high or 0.0)
                step = None if p.step is None else float(p.step)
                values[p.name] = suggester.suggest_float(p.name, low_f, high_f, step=step, log=p.log)
        return values

    def searched(self, values: Mapping[str, Value]) -> tuple[Parameter, ...]:
        """The parameters that are not fixed and exist for these values."""
        return tuple(p for p in self.parameters if len(p.choices) != 1 and self._exists(p, values))

    def contains(self, values: Mapping[str, Value]) -> bool:
        """Whether `draw` could have given these values."""
        expected = [p for p in self.parameters if self._exists(p, values)]
        return {p.name for p in expected} == set(values) and all(p.contains(values[p.name]) for p in expected)

    def check(self, names: Iterable[str], accepts: Callable[[dict[str, Value]], object]) -> None:
        """Refuses, before any trial, what a trial would refuse. Raises ConfigError.

        names: what a trial understands. accepts: raises ConfigError for values that it cannot use.
        """
        known = tuple(names)
        for p in self.parameters:
            if p.name not in known:
                raise ConfigError(f"no parameter is called {p.name!r}; {suggest(p.name, known)}")
        for p in self.parameters:
            for value in p.extremes():
                accepts({**self._conditions(p), p.name: value})

    def combinations(self, names: Iterable[str]) -> Iterator[dict[str, Value]]:
        """Every combination of the extremes of these parameters, and of those they depend on, that `draw` can give."""
        wanted = set(names) & set(self.names)
        for p in reversed(self.parameters):
            wanted |= set(p.when) if p.name in wanted else set()
        partial: list[dict[str, Value]] = [{}]
        for p in self.parameters:
            if p.name in wanted:
                grown: list[dict[str, Value]] = []
                for values in partial:
                    exists = self._exists(p, values)
                    grown += [values | {p.name: value} for value in p.extremes()] if exists else [values]
                partial = grown
        yield from partial

    def digest(self) -> str:
        """16 hex digits that name this space."""
        plain = [
            [p.name, p.low, p.high, p.log, p.step, list(p.choices), {k: list(v) for k, v in p.when.items()}]
            for p in self.parameters
        ]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    def _conditions(self, parameter: Parameter) -> dict[str, Value]:
        """Values for which the parameter exists."""
        values: dict[str, Value] = {}
        for name, allowed in parameter.when.items():
            values |= {**self._conditions(self[name]), name: allowed[0]}
        return values

    @staticmethod
    def _exists(parameter: Parameter, values: Mapping[str, Value]) -> bool:
        return all(name in values and values[name] in allowed for name, allowed in parameter.when.items())


def _shipped() -> list[Any]:
    return sorted(resources.files("ensemble_tune.search_spaces").iterdir(), key=lambda entry: entry.name)


def _is_multiple(distance: float, step: float | None) -> bool:
    """Whether a distance is a whole number of steps, up to the rounding of floats; without a step, always."""
    return step is None or abs(distance / step - round(distance / step)) < 1e-8


def _value(raw: Any, name: str, origin: str) -> Value:
    """A TOML value as a parameter value. Raises ConfigError for dates, lists and tables."""
    if isinstance(raw, bool | int | str) or (isinstance(raw, float) and math.isfinite(raw)):
        return raw
    raise ConfigError(f"{origin}: {name} must hold numbers, texts or booleans, but got {raw!r}")


def _parameter(name: str, spec: Any, origin: str) -> Parameter:
    """One entry of the TOML table. Raises ConfigError."""
    if not isinstance(spec, dict):
        return Parameter(name=name, choices=(_value(spec, name, origin),))
    for key in spec:
        if key not in _KEYS:
            raise ConfigError(f"{origin}: {name} has no key {key!r}; {suggest(key, _KEYS)}")
    when_spec = spec.get("when", {})
    if not isinstance(when_spec, dict):
        raise ConfigError(f'{origin}: when of {name} must be a table such as {{ architecture = "unet" }}')
    when = {
        key: tuple(_value(v, f"when of {name}", origin) for v in (allowed if isinstance(allowed, list) else [allowed]))
        for key, allowed in when_spec.items()
    }
    for key, allowed in when.items():
        if not allowed:
            raise ConfigError(
                f"{origin}: when of {name} lists no value of {key}, so {name} would never exist; give one"
            )
    if "choices" in spec:
        if {"low", "high", "log", "step"} & set(spec):
            raise ConfigError(f"{origin}: {name} has choices and a range; keep one of them")
        choices = spec["choices"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(
                f"{origin}: choices of {name} must be a list with at least one value, but got {choices!r}"
            )
        values = tuple(_value(choice, name, origin) for choice in choices)
        if len(set(values)) < len(values):
            raise ConfigError(f"{origin}: {name} repeats a choice in {choices!r}; name each once")
        kinds = {type(value) for value in values}
        if kinds == {int, float}:
            values = tuple(float(value) for value in values)
        elif len(kinds) > 1:
            raise ConfigError(
                f"{origin}: choices of {name} must be all numbers, all texts or all booleans: {choices!r}"
            )
        return Parameter(name=name, choices=values, when=when)
    return _range(name, spec, when, origin)


def _range(name: str, spec: Mapping[str, Any], when: Mapping[str, tuple[Value, ...]], origin: str) -> Parameter:
    """A parameter with low and high. Raises ConfigError."""
    low, high, log, step = spec.get("low"), spec.get("high"), spec.get("log", False), spec.get("step")
    for key, number in (("low", low), ("high", high), ("step", step)):
        if key == "step" and number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"{origin}: {name} needs a number as {key}, but got {number!r}; or give choices")
    if not isinstance(log, bool):
        raise ConfigError(f"{origin}: log of {name} must be true or false, but got {log!r}")
    if not low < high:  # type: ignore[operator]
        raise ConfigError(f"{origin}: the range of {name} is empty: low {low} is not below high {high}")
    if log and low <= 0:  # type: ignore[operator]
        raise ConfigError(f"{origin}: {name} is logarithmic, so low must be above 0, but got {low}")
    if log and step is not None:
        raise ConfigError(f"{origin}: {name} cannot have both log and step; drop one")
    if step is not None and not 0 < step <= high - low:  # type: ignore[operator]
        raise ConfigError(f"{origin}: step of {name} must be above 0 and at most high - low, but got {step}")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, float):
        raise ConfigError(f"{origin}: {name} is a range of whole numbers, so step must be one too, but got {step}")
    if step is not None:
        # As written, not as rounded: 0.5 is five steps of 0.1.
        with localcontext(prec=_DIGITS):
            beyond = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))
        if beyond:
            raise ConfigError(
                f"{origin}: high of {name} must be low plus a whole number of steps of {step}, but got {high}; "
                f"try {Decimal(str(high)) - beyond}"
            )
    return Parameter(name=name, low=low, high=high, log=log, step=step, when=when)


def _in_order(parameters: dict[str, Parameter], origin: str) -> tuple[Parameter, ...]:
    """Parents before children; refuses conditions on names or values that are not there, and circles."""
    for p in parameters.values():
        for parent, allowed in p.when.items():
            if parent not in parameters:
                raise ConfigError(
                    f"{origin}: {p.name} depends on {parent!r}, which is no parameter; {suggest(parent, parameters)}"
                )
            for value in allowed:
                if not parameters[parent].contains(value):
                    raise ConfigError(
                        f"{origin}: {p.name} depends on {parent} = {value!r}, a value that {parent} never has"
                    )
    ordered: dict[str, Parameter] = {}
    while len(ordered) < len(parameters):
        ready = [
            p for p in parameters.values() if p.name not in ordered and all(parent in ordered for parent in p.when)
        ]
        if not ready:
            circle = ", ".join(name for name in parameters if name not in ordered)
            raise ConfigError(f"{origin}: the conditions of {circle} depend on each other; break the circle")
        ordered.update((p.name, p) for p in ready)
    return tuple(ordered.values())
