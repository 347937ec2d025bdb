"""A snapshot as a person sees it: one frame of the screen, for terminals of any width from 40 columns on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ensemble_tune.results import told, value_text
from ensemble_tune.snapshot import Left, Snapshot
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.waits import Wait

_TITLES = {
    "base": "Base models",
    "probe": "One epoch, to know what it takes",
    "fold": "Fold trainings and predictions",
    "meta": "Fusions",
    "compare": "Comparison of fusions",
    "final": "Final training",
}
_SEARCHES_NOTHING = ("probe", "fold", "compare", "final")
"""Stages whose trials differ in what they are part of, not in parameters that somebody searches."""
_WORDS = {Status.FINISHED: "done", Status.OUT_OF_MEMORY: "out of memory"}
_COLOURS = {
    Status.RUNNING: "cyan",
    Status.FINISHED: "green",
    Status.STOPPED: "yellow",
    Status.FAILED: "red",
    Status.OUT_OF_MEMORY: "red",
    Status.LOST: "red",
}
_SEEN_AFTER = 0.5
"""Seconds from which on a wait is shown: a shorter one would only flicker."""
_SILENT_AFTER = 60.0
"""Seconds without a sign of life from which on it is told: a driver writes at least every ten."""
_WIDE, _NARROW, _LATEST = 80, 56, 3
_OTHER_LINES = 16
"""Lines that a frame has at most beside its running trials."""
_PARAMETER_LINES, _LABELS = 3, 9
"""Lines that parameters may take, and columns that labels do."""


def frame(snapshot: Snapshot, place: str, *, width: int, height: int) -> RenderableType:
    """The screen. place: the run folder. width, height: of the terminal, in characters."""
    session = snapshot.session
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True, min_width=_LABELS - 2)
    table.add_column(ratio=1)
    table.add_row("trials", _trials(snapshot, width))
    if (best := snapshot.best) is not None:
        table.add_row("best", _best(snapshot, best, width))
    rows = max(1, height - _OTHER_LINES)
    if running := snapshot.running:
        table.add_row("running", _running(snapshot, running[:rows], width))
        if len(running) > rows:
            table.add_row("", f"and {len(running) - rows} more")
    if latest := snapshot.latest[:_LATEST]:
        table.add_row("latest", Group(*(_ended(snapshot, record, width) for record in latest)))
    if not session.ended:
        table.add_row("slots", _slots(snapshot))
    table.add_row("time", _time(snapshot))
    if limits := _limits(snapshot):
        table.add_row("limits", limits)
    if snapshot.silence > _SILENT_AFTER:
        since = duration(snapshot.silence)
        silent = f"no sign of life for {since} from process {session.pid} on {session.host}"
        table.add_row("", Text(silent, style="red"))
    title = Text(_title(snapshot), style="bold")
    title.append(f"  {place}", style="dim")
    title.overflow, title.no_wrap = "ellipsis", True
    return Group(title, table)


def waits(current: Sequence[Wait], *, width: int) -> RenderableType:
    """A bar for each wait that a person notices; a spinner where its length is not known. width: of the terminal."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    now = time.monotonic()
    for wait in current:
        if now - wait.since < _SEEN_AFTER:
            continue
        seconds = duration(now - wait.since)
        if wait.total is None:
            table.add_row(wait.what, Spinner("line"), seconds)
        else:
            bar = ProgressBar(total=max(1, wait.total), completed=wait.done, width=_bar_width(width))
            table.add_row(wait.what, bar, f"{wait.done} of {wait.total}  {seconds}")
    return table


def stage_line(snapshot: Snapshot) -> str:
    """What came of a stage, in a line."""
    counts = ", ".join(_counted(snapshot))
    best = snapshot.best
    found = "" if best is None else f"; best {best.trial} {_score(best, snapshot.metric)}"
    return f"{_title(snapshot)}: {counts or 'no trial'} in {duration(snapshot.elapsed)}{found}"


def trial_line(record: TrialRecord, metric: str) -> str:
    """What came of a trial, in a line."""
    score = f"  {_score(record, metric)} (epoch {record.best_epoch} of {record.epochs})"
    why = f"  {record.error}" if record.error else ""
    return f"{record.trial}  {record.status}{'' if record.score is None else score}  {record.seconds:.0f} s{why}"


def duration(seconds: float) -> str:
    """Seconds in the two units that a person would name."""
    if seconds == math.inf:  # of a limit close to the largest number
        return "for ever"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 10 and whole % 60:
        return f"{minutes} min {whole % 60:02d} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"


def _title(snapshot: Snapshot) -> str:
    stage = snapshot.session.stage
    return _TITLES.get(stage, stage.capitalize())


def _trials(snapshot: Snapshot, width: int) -> RenderableType:
    ended = sum(count for status, count in snapshot.counts.items() if status.is_end)
    counted = Text(", ").join(
        Text(text, style=_COLOURS.get(status, ""))
        for status, text in zip(_present(snapshot), _counted(snapshot), strict=True)
    )
    if snapshot.trials is None:
        return counted
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(
        ProgressBar(total=max(1, snapshot.trials), completed=ended, width=_bar_width(width)),
        f"{ended} of {snapshot.trials}",
    )
    return Group(row, counted) if counted.plain else row


def _present(snapshot: Snapshot) -> list[Status]:
    # In the order of a trial's life, but those that may go on behind those that are done.
    order = sorted(Status, key=lambda status: (status.went_wrong, status is Status.PAUSED))
    return [status for status in order if _count(snapshot, status)]


def _counted(snapshot: Snapshot) -> list[str]:
    return [f"{_count(snapshot, status)} {_WORDS.get(status, status.value)}" for status in _present(snapshot)]


def _count(snapshot: Snapshot, status: Status) -> int:
    return snapshot.counts[status] - (snapshot.waiting if status is Status.RUNNING else 0)


def _best(snapshot: Snapshot, best: TrialRecord, width: int) -> RenderableType:
    of = snapshot.epochs_of(best) or best.epochs
    line = Text(f"{best.trial}  ").append(_score(best, snapshot.metric), style="bold green")
    line.append(f"  epoch {best.best_epoch} of {of}")
    searched = ", ".join(f"{name} {value_text(value)}" for name, value in snapshot.telling_params(best).items())
    words = told(best) if snapshot.session.stage in _SEARCHES_NOTHING else searched
    params = Text(words, style="dim")
    params.truncate(_PARAMETER_LINES * max(20, width - _LABELS), overflow="ellipsis")
    return Group(line, params) if words else line


def _running(snapshot: Snapshot, records: Sequence[TrialRecord], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=width >= _WIDE)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    if width >= _WIDE:
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
    for record in records:
        of = snapshot.epochs_of(record)
        bar = ProgressBar(total=of or 1, completed=record.epochs if of else 0, width=_bar_width(width))
        cells: list[RenderableType] = [
            record.trial,
            bar,
            f"{record.epochs}/{of or '?'}",
            _short_score(snapshot, record, width),
        ]
        table.add_row(*cells, *([told(record)] if width >= _WIDE else []))
    return table


def _ended(snapshot: Snapshot, record: TrialRecord, width: int) -> Text:
    line = Text(f"{record.trial}  ", no_wrap=True, overflow="ellipsis")
    line.append(f"{_WORDS.get(record.status, record.status.value):<7}", style=_COLOURS.get(record.status, ""))
    if record.error:
        return line.append(f"  {record.error}")
    if record.score is not None:
        epoch = "epoch " if width >= _WIDE else ""
        line.append(f"  {_short_score(snapshot, record, width)}  {epoch}{record.best_epoch}/{record.epochs}")
    return line.append(f"  {duration(record.seconds)}")


def _slots(snapshot: Snapshot) -> str:
    session, live = snapshot.session, len(snapshot.live)
    if not session.use:
        return "workers start"
    parts = [f"{min(live, session.slots)} of {session.slots} in use"]
    if snapshot.waiting:
        parts.append(f"{snapshot.waiting} {'trial waits' if snapshot.waiting == 1 else 'trials wait'}")
    if session.use.get("devices") or session.use.get("gpus"):
        devices = session.use.get("devices", 0.0)
        parts.append(f"{session.use.get('gpus', 0.0):.3g} of {devices:g} GPU{'' if devices == 1 else 's'}")
    return ", ".join(parts)


def _time(snapshot: Snapshot) -> str:
    session = snapshot.session
    if session.ended:
        ago = duration(max(0.0, (snapshot.now - session.ended).total_seconds()))
        return f"{duration(snapshot.elapsed)}; ended {ago} ago: {session.reason}"
    parts = [f"{duration(snapshot.elapsed)} so far"]
    end, left = snapshot.expected_end, snapshot.seconds_left
    if end is not None and left is not None:
        at = end.astimezone()
        same_day = at.date() == snapshot.now.astimezone().date()
        about = max(10, 10 * round(left / 10)) if left < 60 else 60 * round(left / 60)
        parts.append(f"ends in about {duration(about)} ({at:{'%H:%M' if same_day else '%a %d %b %H:%M'}})")
    return ", ".join(parts)


def _limits(snapshot: Snapshot) -> str:
    session = snapshot.session
    parts = [_left(each) for each in snapshot.budget]
    parts += [f"ends at {session.goal['target']}"] if "target" in session.goal else []
    patience = session.limit.get("patience")
    parts += [f"ends after {patience:g} trials without a new best"] if patience else []
    return ", ".join(parts)


def _left(each: Left) -> str:
    if each.name == "hours":
        return f"{duration(each.left * 3600)} of {each.limit:g} h left"
    if each.name == "gpu_hours":
        return f"{each.left:.3g} of {each.limit:g} GPU-hours left"
    return f"{each.left:.2f} of a cost of {each.limit:g} left"


def _score(record: TrialRecord, metric: str) -> str:
    return f"{metric} {record.score:.4f}" if record.score is not None else ""


def _short_score(snapshot: Snapshot, record: TrialRecord, width: int) -> str:
    """The score, with its name where there is room."""
    if record.score is None:
        return "-"
    return _score(record, snapshot.metric) if width >= _NARROW else f"{record.score:.4f}"


def _bar_width(width: int) -> int:
    return 24 if width >= _WIDE else 12 if width >= _NARROW else 6
