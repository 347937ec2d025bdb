"""`convert`: a trained ensemble in a format that other software reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ensemble_tune.ensemble.onnx_file import Agreement, check_onnx, write_onnx
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.storage import Location, atomic_file, location, make_folder

Format = Literal["onnx"]
"""onnx: one file that holds all of the ensemble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written."""

    place: Location
    agreement: Agreement
    """How far ONNX Runtime predicts what torch does."""


def convert_ensemble(ensemble: str | Location, to: str | Location, *, form: Format | None = None) -> Conversion:
    """Writes a trained ensemble in another format, replacing an older file.

    ensemble: a run, what `train` wrote to, or the ensemble's own folder; here or in an object store, as `to` is. form:
    None goes by the ending of `to`. Raises RunError or ConfigError.
    """
    ensemble, to = location(ensemble), location(to)
    _check_form(to, form)
    if to.is_dir():
        raise ConfigError(f"--to is the file to write, but {to} is a folder; try {to / 'model.onnx'}")
    check_onnx()
    make_folder(to.absolute().parent)
    model = load_ensemble(ensemble)
    with atomic_file(to) as aside:
        return Conversion(place=to, agreement=write_onnx(model, aside))


def _check_form(to: Location, form: str | None) -> Format:
    """Raises ConfigError for a format that is none."""
    if form is None and to.suffix.lower() == ".onnx":
        return "onnx"
    if form is None:
        raise ConfigError(f"--to must end in .onnx, but got {to}; name it so, or add --format onnx")
    if form not in get_args(Format):
        raise ConfigError(f"no format is called {form!r}; {suggest(form, get_args(Format))}")
    return "onnx"
