"""`convert`: a trained ensemble in a format that other software reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ensemble_tune.ensemble.onnx_file import Agreement, check_onnx, write_onnx
from ensemble_tune.ensemble.smp_folder import is_smp, write_smp
from ensemble_tune.errors import ConfigError, suggest
from ensemble_tune.saved_ensemble import load_ensemble
from ensemble_tune.storage import Location, atomic_file, atomic_folder, location, make_folder
from ensemble_tune.store_folder import COMPLETE

Format = Literal["onnx", "smp"]
"""onnx: one file that holds all of the ensemble; smp: a folder for each base model, which smp opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written."""

    place: Location
    agreement: Agreement | None = None
    """How far ONNX Runtime predicts what torch does; None in the other format."""
    models: tuple[str, ...] = ()
    """The names of smp's folders."""


def convert_ensemble(ensemble: str | Location, to: str | Location, *, form: Format | None = None) -> Conversion:
    """Writes a trained ensemble in another format, in place of what an earlier call wrote there.

    ensemble: a run, what `train` wrote to, or the ensemble's own folder; here or in an object store, as `to` is: a file
    for onnx, a folder for smp. form: None goes by the ending of `to`. Raises RunError or ConfigError.
    """
    ensemble, to = location(ensemble), location(to)
    form = _form(to, form)
    if form == "onnx":
        if to.is_dir():
            raise ConfigError(f"--to is the file to write, but {to} is a folder; try {to / 'model.onnx'}")
        check_onnx()
    else:
        _refuse_other_content(to)
    make_folder(to.absolute().parent)
    model = load_ensemble(ensemble)
    if form == "onnx":
        with atomic_file(to) as aside:
            return Conversion(place=to, agreement=write_onnx(model, aside))
    with atomic_folder(to) as aside:
        return Conversion(place=to, models=write_smp(model, aside))


def _form(to: Location, form: str | None) -> Format:
    """The format that is meant. Raises ConfigError."""
    if form is None and to.suffix.lower() == ".onnx":
        return "onnx"
    if form is None:
        raise ConfigError(f"--to must end in .onnx, but got {to}; name it so, or add --format smp for a folder")
    if form not in get_args(Format):
        raise ConfigError(f"no format is called {form!r}; {suggest(form, get_args(Format))}")
    return form  # type: ignore[return-value]  # one of them, as was just seen


def _refuse_other_content(folder: Location) -> None:
    """A folder is written anew as a whole: nothing of anyone else's goes with it. Raises ConfigError."""
    if not folder.is_dir():
        if folder.exists():
            raise ConfigError(f"--to is the folder to write, but {folder} is a file; choose another")
        return
    foreign = [each for each in folder.iterdir() if each.name != COMPLETE and not is_smp(each)]
    if foreign:
        raise ConfigError(f"--to is a new folder for smp's, but {folder} holds {foreign[0].name}; choose another")
