import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from shown_stage import STAGE, session, trained

from ensemble_tune import cli
from ensemble_tune.snapshot import Follower
from ensemble_tune.storage import Location
from ensemble_tune.tune.budget import Usage
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.session import SessionRecord
from ensemble_tune.watch import follow, over, stands

NOW = datetime.now(UTC)
RUNS = session(
    host=socket.gethostname(), pid=os.getpid(), started=NOW - timedelta(minutes=10), updated=NOW + timedelta(seconds=9)
)
ENDED = replace(RUNS, ended=NOW - timedelta(minutes=5), reason="all trials have ended")


def write(out: Location, own: SessionRecord, *records: TrialRecord) -> Location:
    """As a search would, which then ends or dies without a word."""
    ledger = Ledger(out / LEDGER)
    ledger.open()
    for record in records:
        ledger.put_trial(record)
    ledger.put_session(own)
    ledger.close()
    return out


class Told(Follower):
    """Remembers the order of things too."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def begins(self, session: SessionRecord, records: Sequence[TrialRecord], before: Usage) -> None:
        super().begins(session, records, before)
        self.events.append(f"begins {session.stage} {len(records)}")

    def trial(self, record: TrialRecord) -> None:
        super().trial(record)
        self.events.append(f"{record.trial} {record.status} {record.epochs}")

    def ends(self, session: SessionRecord) -> None:
        super().ends(session)
        self.events.append(f"ends {session.stage}")


def test_a_search_that_goes_on_stands_as_its_ledger_says(place: Location) -> None:
    assert stands(place) == (None, None)
    write(place, RUNS, *STAGE)
    snapshot, why = stands(place)
    assert snapshot is not None and why is None
    assert (snapshot.session, snapshot.records) == (RUNS, STAGE)


def test_each_thing_is_told_once_from_the_first_stage_to_the_end(tmp_path: Path) -> None:
    told = Told()
    fusions = replace(RUNS, stage="meta", started=NOW - timedelta(minutes=1))
    final = replace(RUNS, stage="final", started=NOW, ended=NOW - timedelta(minutes=2), reason="done")
    steps: list[Callable[[], object]] = [
        lambda: write(tmp_path, RUNS, STAGE[0]),
        lambda: None,
        lambda: write(tmp_path, RUNS, trained(4, Status.RUNNING, 3, 0.2), STAGE[1]),
        lambda: write(tmp_path, replace(RUNS, ended=datetime.now(UTC), reason="done")),
        lambda: None,
        lambda: write(tmp_path, fusions),
        lambda: write(tmp_path / "final", final),
    ]

    def step() -> None:
        steps.pop(0)()

    assert follow(tmp_path, told, step) == "final ended: done"
    assert told.events == [
        "begins base 1",
        "base-0001 stopped 10",
        "base-0004 running 3",
        "ends base",
        "begins meta 0",
        "ends meta",
        "begins final 0",
        "ends final",
    ]


def test_what_earlier_calls_have_used_counts(tmp_path: Path) -> None:
    write(tmp_path, replace(ENDED, started=NOW - timedelta(hours=3), updated=NOW - timedelta(hours=1)))
    write(tmp_path, replace(RUNS, session=2))
    snapshot, _ = stands(tmp_path)
    assert snapshot is not None and snapshot.before.hours == pytest.approx(2)


def test_a_run_is_over_once_no_stage_follows_or_its_process_has_died() -> None:
    assert over(RUNS, NOW) is None
    assert over(replace(RUNS, host="elsewhere", pid=1), NOW) is None
    just = replace(ENDED, ended=NOW - timedelta(seconds=5))
    assert over(just, NOW) is None
    assert over(replace(just, reason="interrupted"), NOW) == "base ended: interrupted"
    assert over(ENDED, NOW) == "base ended: all trials have ended"
    dead = over(replace(RUNS, pid=2**22 + 1), NOW)
    assert dead is not None and "has died; the same command goes on from here" in dead


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`ensemble-tune watch` in this process: its status, what it said, and what it said on standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ensemble-tune", "watch", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capfd.readouterr()

    return call


def test_a_run_that_is_over_is_shown_and_that_is_all(watch: Command, tmp_path: Path) -> None:
    late = datetime.now(UTC) - NOW  # the tests before this one took that long
    write(tmp_path, replace(ENDED, started=ENDED.started + late, ended=NOW + late - timedelta(minutes=5)), *STAGE[:3])
    status, out, err = watch(tmp_path)
    assert status == 0 and "3 of 8" in out and "5 min; ended 5 min" in out and "all trials have ended" in out
    assert err == f"base ended: all trials have ended; see: ensemble-tune results {tmp_path}\n"


def test_once_shows_a_search_that_goes_on_or_says_that_none_has_begun(watch: Command, tmp_path: Path) -> None:
    assert watch(tmp_path / "nothing", "--once") == (0, "", f"no search has begun in {tmp_path / 'nothing'} yet\n")
    write(tmp_path, RUNS, *STAGE)
    status, out, err = watch(tmp_path, "--once")
    assert (status, err) == (0, "") and "base-0004" in out and "15/30" in out and "so far" in out


def test_machines_are_told_the_same_in_json(watch: Command, tmp_path: Path) -> None:
    write(tmp_path, RUNS, *STAGE)
    status, out, _ = watch(tmp_path, "--once", "--json")
    (row,) = map(json.loads, out.splitlines())
    assert (status, row["event"], row["stage"]) == (0, "result", "base")
    assert row["best"]["trial"] == "base-0000" and len(row["live"]) == 3


def test_a_damaged_ledger_is_named(watch: Command, tmp_path: Path) -> None:
    write(tmp_path, RUNS, *STAGE)
    part = tmp_path / LEDGER / "sessions" / "base.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    status, out, err = watch(tmp_path, "--once")
    assert (status, out) == (2, "") and str(part) in err and len(err.splitlines()) == 1
