"""What the command line prints beside its tables: answers on standard output, news and advice on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from ensemble_tune.errors import quoted

if TYPE_CHECKING:
    from ensemble_tune.final_training import FinalResult
    from ensemble_tune.screen import Reporter
    from ensemble_tune.storage import Location

# Names and paths are shown as they are: no markup, no emoji, no colours of Rich's own choice.
out_console = Console(markup=False, emoji=False)
err_console = Console(markup=False, emoji=False, stderr=True)

_chosen: list[Reporter] = []
"""Who tells what this command does; empty until it is known who reads."""


_OTHERS = {
    "tifffile": "tags that an image needs not: what cannot be read of one is refused here, by name",
    "timm": "weights that an encoder has no use for: those that it lacks are refused here, by name",
    "huggingface_hub": "advice on its own settings: a hub that does not answer is told here, with what to do",
    "urllib3": "each try of a request: what comes of the last is an error",
    "torch": "hints on compiling and exporting, which is chosen here",
    "ray": "its own workings: what has become of a trial, the search says (see tune/quiet.py)",
    "asyncio": "slow callbacks of the loop inside Ray",
}
"""Whose warnings no user can act on, and why; their errors are told."""


def hush_others() -> None:
    """Quietens the loggers above, in this process; everybody else's warnings are told."""
    for name in _OTHERS:
        logging.getLogger(name).setLevel(logging.ERROR)  # each for the reason beside its name


class LogHandler(logging.Handler):
    """Prints above a live screen what would else be written into it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        err_console.print(self.format(record), soft_wrap=True, highlight=False)


def choose_reporter(out: Location | None, *, as_json: bool = False) -> Reporter:
    """Who tells what this command does; out: its run folder, if it has one."""
    from ensemble_tune.screen import reporter

    close_reporter()
    _chosen.append(reporter(err_console, place="" if out is None else str(out), as_json=as_json))
    return _chosen[0]


def close_reporter() -> None:
    """Leaves the terminal as it was, however the command ended."""
    while _chosen:
        _chosen.pop().close()


@contextmanager
def busy(words: str) -> Iterator[None]:
    """Shows a person that something goes on which takes seconds, such as the import of torch; a pipe is shown nothing.

    Rich alone would take a pipe for a terminal where FORCE_COLOR is set, as in many a CI.
    """
    if not sys.stderr.isatty() or err_console.is_dumb_terminal:
        yield
        return
    with err_console.status(words):
        yield


def print_stage(out: Location, stage: str, following: str) -> None:
    """The leaderboard of one stage, and what comes next."""
    from ensemble_tune.results import leaderboard, read_run
    from ensemble_tune.snapshot import trial_to_json
    from ensemble_tune.tune.record import rank

    ranked = rank(read_run(out, stage), "max")
    values = {"stage": stage, "best": trial_to_json(ranked[0]) if ranked else None}
    _chosen[0].result([leaderboard(out, stage=stage)], values, out_console)
    err_console.print(f"next: {following}", soft_wrap=True)


def print_final(out: Location, final: FinalResult, run: Location | None = None) -> None:
    """What a final training measured, and what to do with it; run: the run whose fusions to sum up first."""
    from ensemble_tune.results import summary

    shown = [] if run is None else [summary(run, final.split, final.scores)]
    measured = []
    if final.split:
        flatters = "" if final.split == "test" else " (it chose the ensemble, so it flatters; there is no test)"
        miou = f"{final.split} mIoU {final.scores['miou']:.4f}"
        measured = [f"{miou}{flatters}; metrics, masks and overlays are in {out}"]
    scores = {name: score for name, score in final.scores.items() if score == score}
    values = {"folder": str(final.folder), "split": final.split, "scores": scores}
    _chosen[0].result([*shown, *measured], values, out_console)
    err_console.print(f"next: ensemble-tune segment {quoted(out)} IMAGES --out MASKS", soft_wrap=True)


def warn_of_leak(stacking: str) -> None:
    """Says what in-sample stacking is, where it was chosen."""
    if stacking == "in-sample":
        err_console.print(
            "in-sample stacking: fusions learn from predictions on the bases' own training frames, which are better "
            "than any on new frames; for comparison only",
            style="yellow",
            soft_wrap=True,
        )
