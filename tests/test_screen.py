import io
import json
import logging

import pytest
from rich.console import Console
from shown_stage import BEGIN, STAGE, session, trained, trial

from ensemble_tune.cli_output import LogHandler
from ensemble_tune.screen import JsonReporter, LiveScreen, Reporter, reporter
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import Status
from ensemble_tune.waits import waiting

ENDED = session(ended=BEGIN, reason="all trials have ended")
HIDDEN, SEEN = "\x1b[?25l", "\x1b[?25h"
"""What hides a terminal's cursor, and what shows it."""


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, markup=False, emoji=False)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def tell(of: Reporter) -> None:
    """A stage whose first trial was there before."""
    of.begins(session(), STAGE[:1], Usage())
    of.trial(trial(1))
    of.session(session())
    of.trial(STAGE[1])
    of.trial(STAGE[2])
    of.say("a word")
    of.ends(ENDED)


def test_in_a_pipe_a_trial_that_ends_is_a_line_and_nothing_else_is() -> None:
    to = console(terminal=False)
    tell(reporter(to, place="run", as_json=False))
    assert written(to).splitlines() == [
        "base-0001  stopped  miou 0.2000 (epoch 10 of 10)  100 s",
        "base-0002  failed  0 s  the loss is nan",
        "a word",
    ]


def test_a_pipe_is_no_terminal_whatever_colours_it_is_forced_to_have() -> None:
    assert type(reporter(console(terminal=True), place="run", as_json=False)) is Reporter


def test_a_terminal_that_can_move_no_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    for variables, kind in (
        ({"TERM": "xterm"}, LiveScreen),
        ({"TERM": "dumb"}, Reporter),
        ({"NO_COLOR": "1"}, LiveScreen),
    ):
        to = Console(file=io.StringIO(), width=80, force_terminal=True, _environ=variables)
        found = reporter(to, place="run", as_json=False)
        tell(found)
        found.close()
        assert type(found) is kind
        assert (HIDDEN in written(to)) is (kind is LiveScreen)
        assert not ("NO_COLOR" in variables and "\x1b[3" in written(to))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_for_machines_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    found = reporter(console(terminal=True), place="run", as_json=True)
    assert isinstance(found, JsonReporter)
    tell(found)
    found.result(["a table"], {"best": 1}, console(terminal=False))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["begin", "trial", "trial", "say", "end", "result"]
    assert rows[0]["trials"]["finished"] == 1 and rows[0]["ended"] is None
    assert (rows[1]["trial"], rows[1]["status"], rows[1]["score"]) == ("base-0001", "stopped", 0.2)
    assert rows[2]["error"] == "the loss is nan" and rows[3]["line"] == "a word"
    assert rows[4]["reason"] == "all trials have ended" and rows[4]["trials"]["failed"] == 1
    assert rows[5] == {"event": "result", "best": 1}


def test_a_screen_goes_when_nothing_goes_on_and_leaves_a_line_and_a_cursor() -> None:
    to = console(terminal=True)
    screen = LiveScreen(to, "runs/camvid")
    screen.begins(session(), STAGE[:1], Usage())
    screen.trial(trained(1, Status.RUNNING, 15, 0.3))
    screen.draw()
    screen.say("a word")
    screen.ends(ENDED)
    screen.close()
    told = written(to)
    assert "Base models" in told and "base-0001" in told and "15/30" in told and "a word\n" in told
    assert told.count(HIDDEN) == told.count(SEEN) == 1 and told.index(HIDDEN) < told.index(SEEN)
    assert told.endswith("Base models: 1 running, 1 done in 0 s; best base-0000 miou 0.4500\n")


def test_a_wait_alone_is_shown_too_and_a_screen_that_was_closed_shows_nothing() -> None:
    to = console(terminal=True)
    screen = LiveScreen(to)
    with waiting("decoding train", 10) as wait:
        wait.since -= 5
        screen.draw()
    told = written(to)
    assert "decoding train" in told and "0 of 10" in told and told.count(HIDDEN) == told.count(SEEN) == 1
    screen.begins(session(), (), Usage())
    screen.close()
    screen.close()
    told = written(to)
    assert told.count(HIDDEN) == told.count(SEEN) == 2
    with waiting("decoding train", 10) as wait:
        wait.since -= 5
        screen.draw()
    assert written(to) == told


def test_a_warning_of_ours_goes_through_the_console_that_draws(capfd: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("ensemble_tune.tune", logging.WARNING, "", 0, "%s [bold]", ("disk",), None)
    LogHandler().emit(record)
    assert capfd.readouterr() == ("", "disk [bold]\n")
