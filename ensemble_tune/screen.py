"""What a command says while it works: a live screen on a terminal, a line for a trial in a pipe, JSON for a machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from threading import Lock, RLock
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live

from ensemble_tune import frame
from ensemble_tune.snapshot import Follower, trial_to_json
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.session import SessionRecord
from ensemble_tune.waits import current_waits, listening

_FRAMES_A_SECOND = 2


class Reporter(Follower):
    """Tells what a search does. This one prints a line for a trial that ends, and nothing else moves."""

    def __init__(self, console: Console) -> None:
        """console: of standard error, or wherever people read."""
        super().__init__()
        self.console = console
        self._metric = "score"

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        """Nothing to print."""
        self._metric = session.goal.get("metric", "score")
        super().begins(session, records, before)

    def trial(self, record: TrialRecord) -> None:
        """Prints a trial that has ended."""
        super().trial(record)
        if record.status.is_end:
            self.say(frame.trial_line(record, self._metric))

    def say(self, line: str) -> None:
        """A line of news."""
        self.console.print(line, soft_wrap=True, highlight=False)

    def result(self, shown: Sequence[RenderableType], values: Mapping[str, Any], console: Console) -> None:
        """What a command found. shown: for people, on `console`. values: for machines."""
        for each in shown:
            console.print(each, soft_wrap=isinstance(each, str))

    def close(self) -> None:
        """Leaves the terminal as it was; may be called again."""


class JsonReporter(Reporter):
    """One JSON object a line on standard output: `event` is begin, trial, say, end or result."""

    def __init__(self, console: Console, file: IO[str] | None = None) -> None:
        """file: None is standard output, as it is when a line is written."""
        super().__init__(console)
        self._file = file
        self._one = Lock()

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        """The whole snapshot."""
        super().begins(session, records, before)
        self._tell("begin", self._snapshot())

    def trial(self, record: TrialRecord) -> None:
        """A trial that has ended."""
        Follower.trial(self, record)
        if record.status.is_end:
            self._tell("trial", trial_to_json(record))

    def ends(self, session: SessionRecord) -> None:
        """The whole snapshot."""
        super().ends(session)
        self._tell("end", self._snapshot())

    def say(self, line: str) -> None:
        """A line of news."""
        self._tell("say", {"line": line})

    def result(self, shown: Sequence[RenderableType], values: Mapping[str, Any], console: Console) -> None:
        """What a command found."""
        self._tell("result", values)

    def _snapshot(self) -> dict[str, Any]:
        snapshot = self.snapshot()
        return {} if snapshot is None else snapshot.to_json()

    def _tell(self, event: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"event": event, **values}, allow_nan=False)
        with self._one:
            print(line, file=self._file or sys.stdout, flush=True)


class LiveScreen(Reporter):
    """One frame that is drawn again and again while a stage is searched, or while a person waits for something.

    What is said meanwhile scrolls by above it; when nothing goes on it is gone, and a stage leaves a line behind.
    """

    def __init__(self, console: Console, place: str = "") -> None:
        """place: the run folder."""
        super().__init__(console)
        self._place = place
        self._live: Live | None = None
        # Drawing holds a lock of Rich's and asks for the data; so starting and stopping, which wait for Rich's, hold
        # another lock than those who bring data.
        self._data, self._switch = Lock(), RLock()
        self._stack = ExitStack()
        self._stack.enter_context(listening(self._look))

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        """The frame appears."""
        with self._data:
            super().begins(session, records, before)
        self._look()

    def trial(self, record: TrialRecord) -> None:
        """Drawn with the next frame."""
        with self._data:
            Follower.trial(self, record)

    def session(self, session: SessionRecord) -> None:
        """Drawn with the next frame."""
        with self._data:
            super().session(session)

    def ends(self, session: SessionRecord) -> None:
        """The frame goes, and leaves a line behind."""
        with self._data:
            super().ends(session)
            snapshot = self.snapshot()
        self._look()
        if snapshot is not None:
            self.say(frame.stage_line(snapshot))

    def draw(self) -> None:
        """Draws the frame now, if there is one: it is drawn twice a second in any case."""
        with self._switch:
            if self._live is not None:
                self._live.refresh()

    def close(self) -> None:
        """Leaves the terminal as it was: the frame gone, the cursor there."""
        self._stack.close()
        with self._data:
            self.goes_on = False
        self._switch_to(False)

    def _look(self) -> None:
        self._switch_to(self.goes_on or bool(current_waits()))

    def _switch_to(self, on: bool) -> None:
        with self._switch:
            if on and self._live is None:
                self._live = Live(
                    console=self.console,
                    get_renderable=self._render,
                    refresh_per_second=_FRAMES_A_SECOND,
                    transient=True,
                    # What is printed for a pipe must not land on the terminal.
                    redirect_stdout=sys.stdout.isatty(),
                )
                self._live.start()
            elif not on and self._live is not None:
                live, self._live = self._live, None
                live.stop()

    def _render(self) -> RenderableType:
        with self._data:
            snapshot = self.snapshot() if self.goes_on else None
        size = self.console.size
        bars = frame.waits(current_waits(), width=size.width)
        if snapshot is None:
            return bars
        return Group(frame.frame(snapshot, self._place, width=size.width, height=size.height), bars)


def reporter(console: Console, *, place: str, as_json: bool) -> Reporter:
    """Who tells what a command does: by where standard error goes, unless JSON is asked for."""
    if as_json:
        return JsonReporter(console)
    # Rich calls a pipe a terminal where FORCE_COLOR is set, as in many a CI.
    if sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, place)
    return Reporter(console)
