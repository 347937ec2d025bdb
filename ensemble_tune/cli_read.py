"""The verbs that only read a run: its leaderboard, its report, what other searches of it would have cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_tune.cli_options import Cache, Factor, FramesAt, Grace, Price, ReportOut, RunFolder, Seed, TrainedIn
from ensemble_tune.cli_output import busy, err_console, out_console
from ensemble_tune.errors import ConfigError

if TYPE_CHECKING:
    from ensemble_tune.storage import Location


def results(
    run_folder: RunFolder,
    trial: Annotated[str | None, typer.Option(help="Show one trial: parameters, curve, IoU of each class.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows a stage.")] = 10,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="A score to make higher, or NAME:min lower; two or more show the best compromises."),
    ] = None,
) -> None:
    """Show a run's leaderboard, the best compromises between objectives, or one trial."""
    from ensemble_tune.results import compromises, leaderboard, trial_page
    from ensemble_tune.tune.record import Objective

    if trial:
        out_console.print(trial_page(run_folder, trial))
    elif objective:
        out_console.print(compromises(run_folder, [Objective.parse(text) for text in objective]))
    else:
        out_console.print(leaderboard(run_folder, top=top))


def report(
    run_folder: RunFolder,
    to: ReportOut = None,
    data: FramesAt = None,
    final: TrainedIn = None,
    price: Price = None,
    cache: Cache = None,
) -> None:
    """Write one HTML page about a run: the answer, figures, frames, and every trial; while it runs, too."""
    with busy("drawing"):
        from ensemble_tune.report.page import write_report

        written: Location = write_report(run_folder, to, data=data, final=final, price=price, cache=cache)
    shown = written.absolute().as_uri() if isinstance(written, Path) else str(written)
    out_console.print(f"wrote {written}", soft_wrap=True)
    err_console.print(f"next: open {shown} in a browser", soft_wrap=True)


def plan(
    run_folder: RunFolder,
    slots: Annotated[str, typer.Option(help="Trials side by side; several with commas.")] = "1,4,16",
    scheduler: Annotated[
        str, typer.Option(help="asha-promote, asha, median or none; several with commas.")
    ] = "asha-promote,asha,none",
    trials: Annotated[int, typer.Option(help="Trials of each simulated search.")] = 100,
    stage: Annotated[str, typer.Option(help="Whose trials to learn from.")] = "base",
    grace: Grace = None,
    factor: Factor = None,
    price: Price = None,
    seed: Seed = 0,
) -> None:
    """Say from a run's own trials what other schedulers or more machines would have cost and found."""
    from ensemble_tune.plan import plan as simulate
    from ensemble_tune.plan import plan_table

    counts = [word.strip() for word in slots.split(",")]
    if not all(word.isdecimal() for word in counts):
        raise ConfigError(f"--slots must be whole numbers with commas, but got {slots!r}; try 1,4,16")
    with busy("simulating"):
        found = simulate(
            run_folder,
            stage=stage,
            slots=[int(word) for word in counts],
            schedulers=[name.strip() for name in scheduler.split(",")],
            trials=trials,
            grace=grace,
            factor=factor,
            price=price,
            seed=seed,
        )
    out_console.print(plan_table(found))
