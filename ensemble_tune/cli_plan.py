"""The verb `plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble_tune.cli_options import Factor, Grace, Price, RunFolder, Seed
from ensemble_tune.cli_output import err_console, out_console
from ensemble_tune.errors import ConfigError


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
    with err_console.status("simulating"):
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
