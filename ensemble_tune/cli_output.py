"""What the command line prints beside its tables: answers on standard output, news and advice on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from ensemble_tune.final_training import FinalResult
    from ensemble_tune.storage import Location
    from ensemble_tune.tune.record import TrialRecord

# Names and paths are shown as they are: no markup, no emoji, no colours of Rich's own choice.
out_console = Console(markup=False, emoji=False)
err_console = Console(markup=False, emoji=False, stderr=True)


def print_trial(record: TrialRecord) -> None:
    """A line for every trial that ends."""
    score = "" if record.score is None else f"  miou {record.score:.4f} (epoch {record.best_epoch} of {record.epochs})"
    why = f"  {record.error}" if record.error else ""
    err_console.print(
        f"{record.trial}  {record.status}{score}  {record.seconds:.0f} s{why}",
        soft_wrap=True,
    )


def print_line(line: str) -> None:
    """News of a search."""
    err_console.print(line, soft_wrap=True)


def print_stage(out: Location, stage: str) -> None:
    """The leaderboard of one stage."""
    from ensemble_tune.results import leaderboard

    out_console.print(leaderboard(out, stage=stage))


def print_final(out: Location, final: FinalResult) -> None:
    """What a final training measured, and what to do with it."""
    if final.split:
        out_console.print(
            f"{final.split} mIoU {final.scores['miou']:.4f}; metrics, masks and overlays are in {out}",
            soft_wrap=True,
        )
    err_console.print(f"next: ensemble-tune segment {out} IMAGES --out MASKS", soft_wrap=True)


def warn_of_leak(stacking: str) -> None:
    """Says what in-sample stacking is, where it was chosen."""
    if stacking == "in-sample":
        err_console.print(
            "in-sample stacking: fusions learn from predictions on the bases' own training frames, which are better "
            "than any on new frames; for comparison only",
            style="yellow",
            soft_wrap=True,
        )
