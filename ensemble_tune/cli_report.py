"""The verb `report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemble_tune.cli_options import Cache, Price, RunFolder
from ensemble_tune.cli_output import err_console, out_console
from ensemble_tune.storage import location

if TYPE_CHECKING:
    from ensemble_tune.storage import Location

_place: dict[str, Any] = {"parser": location, "metavar": "PATH|URL"}


def report(
    run_folder: RunFolder,
    to: Annotated[
        Any, typer.Option(help="The page to write. (default: report.html in the run folder)", **_place)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the frames are, for pictures of the worst and the best. (default: where they were)"),
    ] = None,
    final: Annotated[
        Any, typer.Option(help="What `train` wrote to. (default: final in the run folder)", **_place)
    ] = None,
    price: Price = None,
    cache: Cache = None,
) -> None:
    """Write one HTML page about a run: the answer, figures, frames, and every trial; while it runs, too."""
    with err_console.status("drawing"):
        from ensemble_tune.report.page import write_report

        written: Location = write_report(run_folder, to, data=data, final=final, price=price, cache=cache)
    shown = written.absolute().as_uri() if isinstance(written, Path) else str(written)
    out_console.print(f"wrote {written}", soft_wrap=True)
    err_console.print(f"next: open {shown} in a browser", soft_wrap=True)
