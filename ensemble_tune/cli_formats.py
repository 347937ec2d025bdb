"""The verbs that write what other software reads."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ensemble_tune.cli_options import ConvertedTo, Ensemble
from ensemble_tune.cli_output import err_console, out_console


class FormatChoice(StrEnum):
    """What a trained ensemble may be converted to."""

    ONNX = "onnx"


def convert(
    ensemble: Ensemble,
    to: ConvertedTo,
    form: Annotated[
        FormatChoice | None, typer.Option("--format", help="(default: onnx where --to ends in .onnx)")
    ] = None,
) -> None:
    """Write a trained ensemble for other software: one ONNX file."""
    from ensemble_tune.convert import convert_ensemble

    with err_console.status("converting"):
        done = convert_ensemble(ensemble, to, form=None if form is None else form.value)
    out_console.print(
        f"wrote {done.place}; ONNX Runtime gives {done.agreement.labels:.2%} of the pixels of a test picture the class "
        f"that torch does, and probabilities that differ by {done.agreement.difference:.1e} on average",
        soft_wrap=True,
    )
