"""The verbs that write what other software reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ensemble_tune.cli_options import ConvertedTo, Ensemble, RunFolder
from ensemble_tune.cli_output import busy, out_console
from ensemble_tune.errors import quoted


class FormatChoice(StrEnum):
    """What a trained ensemble may be converted to."""

    ONNX = "onnx"
    SMP = "smp"


def convert(
    ensemble: Ensemble,
    to: ConvertedTo,
    form: Annotated[
        FormatChoice | None,
        typer.Option("--format", help="(default: onnx where --to ends in .onnx)"),
    ] = None,
) -> None:
    """Write a trained ensemble for other software: one ONNX file, or a folder of smp's for each base model."""
    with busy("converting"):
        from ensemble_tune.convert import convert_ensemble

        done = convert_ensemble(ensemble, to, form=None if form is None else form.value)
    for name in done.models:
        out_console.print(f"wrote {done.place / name}", soft_wrap=True)
    if done.agreement is not None:
        out_console.print(
            f"wrote {done.place}; on a made-up picture ONNX Runtime gives {done.agreement.labels:.2%} of the pixels "
            f"torch's class, and probabilities that differ by {done.agreement.difference:.1e} on average",
            soft_wrap=True,
        )


def tensorboard(
    run_folder: RunFolder,
    to: Annotated[Path, typer.Option("--to", help="The folder to write to; one a run.")],
) -> None:
    """Write a run's trials as TensorBoard's logs; searches do so while they run with --tensorboard."""
    with busy("writing"):
        from ensemble_tune.tensorboard import write_logs

        count = write_logs(run_folder, to)
    out_console.print(f"wrote {count} trials; look at them with: tensorboard --logdir {quoted(to)}", soft_wrap=True)
