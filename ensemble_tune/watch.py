"""`watch`: a search as its ledger tells it, from any terminal or machine that can read the run folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ensemble_tune.final_folder import FINAL
from ensemble_tune.snapshot import Follower, Snapshot
from ensemble_tune.storage import Location
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.session import SessionRecord, usage_of
from ensemble_tune.tune.watcher import Watcher

_BETWEEN = 60.0
"""Seconds after the end of a stage in which a command that goes on begins the next one."""


class LedgerWatch:
    """Tells a watcher what a run's ledgers say, each thing once, as the running command tells its own."""

    def __init__(self, out: Location, watcher: Watcher) -> None:
        self._folders = (out / LEDGER, out / FINAL / LEDGER)
        self._watcher = watcher
        self._ledger: Ledger | None = None
        self._known: dict[str, TrialRecord] = {}
        self.session: SessionRecord | None = None
        """The call that began last; None while none has."""

    def look(self) -> None:
        """Reads what has changed. Raises RunError for a damaged part, StorageError where the storage fails."""
        newest: tuple[Ledger, SessionRecord] | None = None
        for folder in self._folders:
            for session in Ledger(folder).sessions():
                if newest is None or session.started > newest[1].started:
                    newest = Ledger(folder), session
        if newest is None:
            return
        ledger, session = newest
        records = ledger.trials(session.stage)  # after the session: a session that has ended has all its trials
        before = self.session
        if before is not None and before.started == session.started:
            for record in records:
                if self._known.get(record.trial) != record:
                    self._watcher.trial(record)
            self._watcher.session(session)
        else:
            if before is not None and before.ended is None:
                self._watcher.ends(before)
            earlier = [each for each in ledger.sessions(session.stage) if each.session < session.session]
            self._watcher.begins(session, records, usage_of(earlier))
        if session.ended is not None and (before is None or before != session):
            self._watcher.ends(session)
        self._known = {record.trial: record for record in records}
        self.session = session


def stands(out: Location) -> tuple[Snapshot | None, str | None]:
    """How a run stands, and why nothing more is to be expected: None where nothing has begun, or something is.

    Raises as `LedgerWatch.look` does.
    """
    follower = Follower()
    ledgers = LedgerWatch(out, follower)
    ledgers.look()
    return follower.snapshot(), None if ledgers.session is None else over(ledgers.session, datetime.now(UTC))


def follow(out: Location, watcher: Watcher, wait: Callable[[], None]) -> str:
    """Tells a watcher of a run until it is over; returns why. wait: called between two looks at the ledger.

    Raises as `LedgerWatch.look` does.
    """
    ledgers = LedgerWatch(out, watcher)
    while True:
        ledgers.look()
        if ledgers.session is not None and (why := over(ledgers.session, datetime.now(UTC))) is not None:
            if ledgers.session.ended is None:
                watcher.ends(ledgers.session)
            return why
        wait()


def over(session: SessionRecord, now: datetime) -> str | None:
    """Why nothing more is to be expected after a run's last session; None while something is."""
    if session.ended is not None:
        interrupted = session.reason == "interrupted"
        if interrupted or (now - session.ended).total_seconds() > _BETWEEN:
            return f"{session.stage} ended: {session.reason}"
        return None
    if session.host == socket.gethostname() and not _lives(session.pid):
        return f"process {session.pid}, which searched {session.stage}, has died; the same command goes on from here"
    return None


def _lives(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def seconds_between(out: Location) -> float:
    """How long to wait between two looks: a disk is asked every second, a store costs a request each time."""
    return 1.0 if isinstance(out, Path) else 5.0
