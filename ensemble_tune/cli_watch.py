"""The verb `watch`."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from ensemble_tune.cli_options import AsJson, RunFolder
from ensemble_tune.cli_output import choose_reporter, err_console, out_console
from ensemble_tune.errors import quoted
from ensemble_tune.waits import current_waits, waiting


def watch(
    run_folder: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands now, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a search while it goes on, from another terminal or machine: from its run folder alone. Ctrl-C ends it."""
    from ensemble_tune.frame import frame, stage_line
    from ensemble_tune.screen import Reporter
    from ensemble_tune.watch import follow, seconds_between, stands

    reporter = choose_reporter(run_folder, as_json=as_json)
    snapshot, why = stands(run_folder)
    if snapshot is None:
        reporter.say(f"no search has begun in {run_folder} yet")
    elif once or why is not None:
        size = out_console.size
        shown = frame(snapshot, str(run_folder), width=size.width, height=size.height)
        reporter.result([shown], snapshot.to_json(), out_console)
    elif type(reporter) is Reporter:  # nothing else shows at once that it is at work
        reporter.say(stage_line(snapshot))
    idle = ExitStack()

    def pause() -> None:
        if reporter.goes_on:
            idle.close()
        elif not current_waits():
            idle.enter_context(waiting("waiting for a stage to begin"))
        time.sleep(seconds_between(run_folder))

    if why is None and not once:
        with suppress(KeyboardInterrupt), idle:  # Ctrl-C is how a person ends it
            why = follow(run_folder, reporter, pause)
    if why is not None:
        err_console.print(f"{why}; see: ensemble-tune results {quoted(run_folder)}", soft_wrap=True, highlight=False)
