import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from counting_search import search
from rich.console import Console
from tiles import SIZE
from tiny_run import write_spaces

from ensemble_tune.results import leaderboard
from ensemble_tune.snapshot import Follower
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord
from ensemble_tune.watch import stands

ROOT = Path(__file__).parents[2]
_HIDDEN, _SEEN = "\x1b[?25l", "\x1b[?25h"
"""What hides a terminal's cursor, and what shows it."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Told(Follower):
    """Counts what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[tuple[int, float]] = []
        self.epochs = 0

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        super().begins(session, records, before)
        self.began.append((len(records), before.hours))

    def trial(self, record: TrialRecord) -> None:
        super().trial(record)
        self.epochs = max(self.epochs, record.epochs)


def test_a_watcher_and_the_ledger_tell_the_same(local_ray: str, tmp_path: Path) -> None:
    told = Told()
    first = replace(search(tmp_path, 4, 3, 0.0, local_ray), watcher=told)
    first.run()
    for trials in (4, 6):
        snapshot, read = told.snapshot(), stands(tmp_path)[0]
        assert snapshot is not None and read is not None and not told.goes_on
        assert snapshot.records == read.records and snapshot.session == read.session
        assert snapshot.counts == {Status.FINISHED: trials} and snapshot.trials == trials and told.epochs == 3
        assert snapshot.session.goal == {"metric": "score", "mode": "max"}
        assert snapshot.session.limit == {"trials": trials, "epochs": 3}
        assert snapshot.session.use["nodes"] == 1 and snapshot.session.ended
        first.run()  # nothing is left: nothing begins
        replace(first, trials=6).run()
    assert [count for count, _ in told.began] == [0, 4] and told.began[1][1] > 0


def test_a_screen_leaves_a_terminal_as_it_was_and_shows_nothing_of_ray(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("screened_search.py"))
    words = [sys.executable, script, str(tmp_path / "run"), "4", "8", "0.2"]
    status, told = in_a_terminal(words, re.compile("[2-7]/8"))
    assert os.waitstatus_to_exitcode(status) == 130, told
    assert "running  base-000" in _CONTROL.sub("", told)
    status, again = in_a_terminal(words)
    assert os.waitstatus_to_exitcode(status) == 0, again
    for each in (told, again):
        assert each.count(_HIDDEN) == each.count(_SEEN) > 0 and each.rindex(_SEEN) > each.rindex(_HIDDEN)
        lines = [line.strip() for line in re.split(r"[\r\n]+", _CONTROL.sub("", each))]
        assert [line for line in lines if re.search(r"raylet|\bRay\b|\bTune\b|[Ww]arn|Traceback", line)] == []
    assert re.search(r"Base models: 4 done in .*; best base-000\d score 0\.\d{4}\r\n\Z", again)


def test_a_search_of_base_models_leaves_nothing_on_a_terminal_but_what_came_of_it(tiles: Path, tmp_path: Path) -> None:
    """From the command that a person types, torch and all: neither a library's word nor a half-erased bar stays."""
    base, _ = write_spaces(tmp_path)
    words = [sys.executable, "-m", "ensemble_tune", "search", "base", "--data", tiles, "--out", tmp_path / "run"]
    words += [
        "--cache",
        tmp_path / "cache",
        "--space",
        base,
        "--trials",
        2,
        "--epochs",
        2,
        "--size",
        SIZE,
        "--scheduler",
        "none",
        "--cpu",
    ]
    status, told = in_a_terminal([str(word) for word in words], seconds=280)
    assert os.waitstatus_to_exitcode(status) == 0, told
    assert told.count(_HIDDEN) == told.count(_SEEN) > 0 and told.rindex(_SEEN) > told.rindex(_HIDDEN)
    drawn = _CONTROL.sub("", told)
    assert "0 of 2" in drawn and "━" in drawn, "no bar was drawn"
    seconds = r"\d+( s| min( \d\d s)?)"
    left = [line.strip() for line in left_on_a_terminal(told)]
    wanted = [
        r"base search: at most 2 trials x 2 epochs on \d slots",
        r"base search ends: all trials have ended",
        rf"Base models: 2 done in {seconds}; best base-000\d miou 0\.\d{{4}}",
        rf"Fold trainings and predictions: 2 done in {seconds}; .*",  # the library's, where it takes a while
        r"next: ensemble-tune search meta --data .*",
    ]
    paper = Console(file=io.StringIO(), width=100, record=True)
    paper.print(leaderboard(tmp_path / "run", stage="base"))
    table = {line.strip() for line in paper.export_text().splitlines()}
    said = [line for line in left if line not in table]
    assert [line for line in said if line and not any(re.fullmatch(each, line) for each in wanted)] == []
    assert all(any(re.fullmatch(each, line) for line in left) for each in wanted), left


def left_on_a_terminal(told: str) -> list[str]:
    """What is still to be read when a command that draws as Rich does has ended: lines up to where the cursor is."""
    lines, at, column = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", told):
        code = re.fullmatch(r"\x1b\[([0-9;?]*)([A-Za-z])", part)
        if part == "\r":
            column = 0
        elif part == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif code is None:
            lines[at] = lines[at][:column].ljust(column) + part + lines[at][column + len(part) :]
            column += len(part)
        elif code[2] == "A":
            at = max(0, at - int(code[1] or 1))
        elif code[2] == "K":
            lines[at] = ""
    return lines


def in_a_terminal(words: list[str], enough: re.Pattern[str] | None = None, seconds: float = 120) -> tuple[int, str]:
    """Runs a command on a terminal of 24 lines and 100 columns: how it ended, and all that it wrote there.

    enough: what it writes before Ctrl-C is typed; None types nothing. seconds: then it is killed.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
        os.execv(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    written, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            written += os.read(terminal, 65536)
        except OSError:  # nobody holds its other end any more
            break
        if enough is not None and enough.search(_CONTROL.sub("", written.decode(errors="replace"))):
            os.write(terminal, b"\x03")
            enough = None
    else:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return status, written.decode()
