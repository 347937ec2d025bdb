"""The ledger: Parquet tables of trials, of their epochs and of sessions. The truth that a search resumes from.

    OUT/ledger/trials/base-00000.parquet    trials 0 to 255 of stage base
    OUT/ledger/epochs/base-00000.parquet    epochs of trials 0 to 63 of stage base
    OUT/ledger/sessions/base.parquet        one row a call of a search on stage base

A part holds a fixed range of trials and is replaced in one step when one of its rows changes; so a reader sees each
row once and never half a part. All parts of a table have the same columns: when a new parameter or score appears,
every part gets its column. `param.*` are parameters, `score.*` scores, `seconds.*` wall-clock seconds by part.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ensemble_tune.errors import RunError
from ensemble_tune.storage import (
    Location,
    full_error,
    is_full,
    location,
    make_folder,
    names_in,
    reason_of,
    remove_partial,
)
from ensemble_tune.tune.ledger_rows import (
    EPOCHS,
    SESSIONS,
    TRIALS,
    epoch_records,
    epoch_row,
    session_records,
    session_row,
    trial_records,
    trial_row,
)
from ensemble_tune.tune.ledger_table import LedgerTable
from ensemble_tune.tune.one_writer import one_writer
from ensemble_tune.tune.record import EpochRecord, TrialRecord
from ensemble_tune.tune.session import SessionRecord

LEDGER = "ledger"
"""The ledger's folder in a run folder."""

_FLUSH_SECONDS, _FLUSH_LATEST_SECONDS = 2.0, 10.0
_FLUSH_SHARE, _FLUSH_LARGEST_SHARE = 200, 20
"""A flush is due when so many times what the last one took has passed: writing takes half a percent of the driver; or
5%, where that alone lets nobody wait for more than ten seconds."""
_LONGEST_RETRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Ledger:
    """Reads the ledger of a run folder, and writes it as its one writer."""

    def __init__(self, folder: str | Location, *, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, by which flushes are due and storage that fails is tried again."""
        self.folder = folder = location(folder)
        self._clock = clock
        self._writer = one_writer(folder)
        self._trials = LedgerTable(folder / "trials", TRIALS, trial_row, trial_records)
        self._epochs = LedgerTable(folder / "epochs", EPOCHS, epoch_row, epoch_records)
        self._sessions = LedgerTable(folder / "sessions", SESSIONS, session_row, session_records)
        self._flushed = clock()
        self._took = 0.0
        self._failures = 0
        """How many flushes failed since the last that did not."""

    @classmethod
    def exists(cls, folder: Location) -> bool:
        """Whether any trial was written there."""
        return any(name.endswith(".parquet") for name in names_in(folder / "trials"))

    def trials(self, stage: str | None = None) -> list[TrialRecord]:
        """All trials on disk, or one stage's, by stage and number. Raises RunError for a damaged part."""
        with self._readable():
            return sorted(self._trials.records(stage), key=lambda record: (record.stage, record.number))

    def epochs(self, stage: str | None = None) -> list[EpochRecord]:
        """All epochs on disk, or one stage's, by stage, trial and epoch. Raises RunError for a damaged part."""
        with self._readable():
            return sorted(self._epochs.records(stage), key=lambda record: (record.stage, record.number, record.epoch))

    def sessions(self, stage: str | None = None) -> list[SessionRecord]:
        """All sessions on disk, or one stage's, by stage and session. Raises RunError for a damaged part."""
        with self._readable():
            return sorted(self._sessions.records(stage), key=lambda record: (record.stage, record.session))

    def open(self) -> None:
        """Becomes the one writer. Raises RunError, naming the owner, where another process is."""
        make_folder(self.folder)
        with self._readable():
            self._writer.acquire()
        try:
            with self._readable():
                remove_partial(self.folder)
                for table in (self._trials, self._epochs, self._sessions):
                    table.open()
                # A status that this version does not know is told before anything is trained or written.
                self.trials()
        except BaseException:
            self._writer.release()
            raise

    def put_trial(self, record: TrialRecord) -> None:
        """Adds or replaces a trial's row; on disk after the next flush."""
        self._trials.put(record.stage, record.number, 0, record)

    def put_epoch(self, record: EpochRecord) -> None:
        """Adds an epoch's row, or replaces the row of an epoch that was trained again."""
        self._epochs.put(record.stage, record.number, record.epoch, record)

    def put_session(self, record: SessionRecord) -> None:
        """Adds or replaces a session's row."""
        self._sessions.put(record.stage, record.session, 0, record)

    def drop_epochs_after(self, trial: TrialRecord, epoch: int) -> None:
        """Forgets rows that no checkpoint backs, because the trial goes on from an earlier epoch."""
        self._epochs.drop_after(trial.stage, trial.number, epoch)

    def flush(self) -> bool:
        """Writes what was put; whether all of it is on disk now.

        Storage that fails is told once, in the log, and tried again after 1, 2, 4 ... 60 s; until then nothing is
        written, and every row is kept in memory. Raises StorageFullError where a disk is full; rows are kept then too.
        Raises RunError, and writes no more, where another process has become the writer.
        """
        if self._failures:
            wait = min(2.0 ** (self._failures - 1), _LONGEST_RETRY_SECONDS)
            if self._clock() < self._flushed + wait:
                return False
        return self._try()

    def flush_if_due(self) -> bool:
        """Flushes where the last one is two seconds ago, or longer where it took long; whether it wrote all there was.

        Raises StorageFullError as `flush` does.
        """
        wait = min(_FLUSH_LATEST_SECONDS, _FLUSH_SHARE * self._took)
        if self._clock() < self._flushed + max(_FLUSH_SECONDS, wait, _FLUSH_LARGEST_SHARE * self._took):
            return False
        return self.flush()

    def close(self, patience: float = 30.0) -> None:
        """Writes what is left and lets another process write.

        patience: seconds to try for where the storage fails. Raises RunError where it still does then.
        """
        try:
            until = self._clock() + patience
            while not self._try():
                if self._clock() >= until:
                    raise RunError(
                        f"a search writes its last rows to {self.folder}, but that failed for {patience:g} s "
                        f"({self._reason}); mend the storage, then run the same command again: it goes on from what "
                        "is there and from the checkpoints"
                    )
                time.sleep(min(1.0, patience / 10))
        finally:
            self._writer.release()

    def _try(self) -> bool:
        """One flush, whenever the last one was."""
        started = self._clock()
        try:
            # Epochs first: whoever dies between the two leaves no trial with a score that no epoch of it has.
            self._writer.check()
            for table in (self._epochs, self._trials, self._sessions):
                table.flush()
        except OSError as error:
            if is_full(error):
                raise full_error(self.folder, error) from error
            self._failures += 1
            self._reason = reason_of(error)
            if self._failures == 1:
                _log.warning(
                    "%s cannot be written (%s); the search goes on, and nothing is lost while this process lives: "
                    "it keeps every row and tries again, at least once a minute",
                    self.folder,
                    self._reason,
                )
            return False
        finally:
            self._flushed = self._clock()
            self._took = self._flushed - started
        if self._failures:
            _log.warning("%s is written again, with every row that waited", self.folder)
        self._failures = 0
        return True

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns what the storage raises into one line."""
        try:
            yield
        except OSError as error:
            path = location(error.filename) if error.filename else self.folder
            if is_full(error):
                raise full_error(path, error) from error
            raise RunError(
                f"a ledger must be readable, and writable for a search, but {path} is not ({reason_of(error)}); "
                "mend the storage, then try again"
            ) from error
