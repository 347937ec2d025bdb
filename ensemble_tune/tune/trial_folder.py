"""Where a trial keeps its checkpoints: attempt-0001/epoch-00003/, each with the trial's rows so far."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ensemble_tune.documents import Document
from ensemble_tune.errors import RunError
from ensemble_tune.storage import (
    Location,
    atomic_folder,
    claim_folder,
    names_in,
    read_json,
    remove_folder,
    remove_partial,
    retried,
    whole_folders,
    write_text,
)
from ensemble_tune.trial import Checkpoint, EpochResult, StoredCheckpoint
from ensemble_tune.tune.record import EpochRecord, TrialRecord

CHECKPOINTS = "checkpoints"
"""The folder of all trial folders in a run folder."""

_ROWS = "rows.json"
_RECORD = "trial.json"
_EPOCH = re.compile(r"epoch-(\d{5,})")
_ATTEMPT = re.compile(r"attempt-(\d{4,})")
_CLEARED = re.compile(r"cleared-(\d{4,})")
"""An empty file: attempts up to this one have no checkpoints, whatever a process of the past still writes."""


@dataclass(frozen=True, slots=True)
class TrialFolder:
    """One trial's checkpoints, keyed by attempt and epoch: two lives of a trial never write to the same place."""

    path: Location

    def claim_attempt(self) -> int:
        """The number of a new attempt, from 1; no two processes get the same. Raises RunError where storage fails."""
        return retried(self._claim, self.path)

    def latest(self) -> StoredCheckpoint | None:
        """The last epoch of the newest attempt that has one."""
        for attempt in self._living():
            epochs = self._epochs(attempt)
            if epochs:
                return StoredCheckpoint(self._epoch_folder(attempt, max(epochs)), max(epochs))
        return None

    def history(self) -> tuple[StoredCheckpoint | None, list[EpochRecord]]:
        """The last checkpoint and the rows it carries. Raises RunError if they are damaged."""
        while True:
            checkpoint = self.latest()
            try:
                return checkpoint, rows_of(checkpoint) if checkpoint else []
            except RunError:
                # Gone: a worker that outlives its driver replaced it by a later one meanwhile.
                if checkpoint is not None and checkpoint.folder.exists():
                    raise

    @contextmanager
    def resumed(self) -> Iterator[tuple[Checkpoint | None, list[EpochRecord]]]:
        """`history` with the checkpoint on this machine until the `with` ends; also raises StorageError."""
        with ExitStack() as stack:
            while True:
                stored, rows = self.history()
                try:
                    checkpoint = None if stored is None else stack.enter_context(stored.fetched())
                except FileNotFoundError:  # replaced by a later one, as in `history`
                    continue
                yield checkpoint, rows
                return

    def at(self, epoch: int) -> StoredCheckpoint | None:
        """The checkpoint of one epoch, from the newest attempt that has it."""
        for attempt in self._living():
            if epoch in self._epochs(attempt):
                return StoredCheckpoint(self._epoch_folder(attempt, epoch), epoch)
        return None

    def save(self, attempt: int, result: EpochResult, rows: Sequence[EpochRecord]) -> None:
        """Writes the checkpoint of an epoch, with all rows up to it but without the epoch's own checkpoint seconds.

        A write that fails is tried again, three times in 0.7 s; no half of it stays. Raises StorageFullError where a
        disk is full, RunError where the storage still fails, and where a later attempt has been claimed or the
        checkpoints were cleared: the trial is no longer this one's.
        """
        path = self._epoch_folder(attempt, result.epoch)

        def write() -> None:
            self._refuse_replaced(attempt)
            with atomic_folder(path) as folder:
                result.save(folder)
                (folder / _ROWS).write_text(json.dumps([row.to_json() for row in rows]), encoding="utf-8")

        retried(write, path)

    def keep(self, epochs: set[int], by: int | None = None) -> None:
        """Removes every checkpoint but those of these epochs. Raises RunError if attempt `by` has been replaced."""
        if by is not None:
            self._refuse_replaced(by)
        attempts, cleared = self._standing()
        for attempt in attempts:
            for epoch in self._epochs(attempt) - (epochs if attempt > cleared else set()):
                self._remove(self._epoch_folder(attempt, epoch))

    def clear(self) -> None:
        """Removes every checkpoint for good, but keeps the attempts' numbers: their processes can write no more."""
        attempts, _ = self._standing()
        if attempts:
            # Before anything goes: whoever dies here leaves checkpoints that count no longer, and numbers that do.
            retried((self.path / f"cleared-{attempts[0]:04d}").touch, self.path)
            for attempt in attempts:
                self._remove(self._attempt_folder(attempt))
            self.forget()

    def remember(self, record: TrialRecord) -> None:
        """Writes down what the trial is: its row in the ledger may be lost with the process that proposed it."""
        text = json.dumps(record.proposal_to_json())
        retried(lambda: write_text(self.path / _RECORD, text), self.path / _RECORD)

    def forget(self) -> None:
        """Of a trial whose end is in the ledger, which then alone says what it is."""
        retried(lambda: (self.path / _RECORD).unlink(missing_ok=True), self.path / _RECORD)

    def remembered(self) -> TrialRecord | None:
        """What `remember` wrote, as a running trial; None where nothing is. Raises RunError if it is damaged."""
        path = self.path / _RECORD
        try:
            return TrialRecord.of_proposal(read_json(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(
                f"a trial's folder says what the trial is, but {path} is damaged ({error}); remove the folder "
                f"{self.path} to train the trial anew"
            ) from None

    def clear_partial(self) -> None:
        """Removes what dead attempts left half-written; call it only while no attempt runs."""
        for attempt in self._standing()[0]:
            remove_partial(self._attempt_folder(attempt), folders=True)

    def remove(self) -> None:
        """Removes all checkpoints, and the numbers of the attempts."""
        self._remove(self.path)

    def _claim(self) -> int:
        attempts, cleared = self._standing()
        number = max([*attempts, cleared]) + 1
        while not claim_folder(self._attempt_folder(number)):
            number += 1
        return number

    def _remove(self, folder: Location) -> None:
        retried(lambda: remove_folder(folder), folder)

    def _refuse_replaced(self, attempt: int) -> None:
        attempts, cleared = self._standing()
        if attempt <= cleared:
            raise RunError(f"attempt {attempt} of {self.path.name} has ended: its checkpoints were cleared")
        newest = max(attempts, default=attempt)
        if newest > attempt:
            raise RunError(f"attempt {attempt} of {self.path.name} was replaced by attempt {newest}")

    def _attempt_folder(self, attempt: int) -> Location:
        return self.path / f"attempt-{attempt:04d}"

    def _epoch_folder(self, attempt: int, epoch: int) -> Location:
        return self._attempt_folder(attempt) / f"epoch-{epoch:05d}"

    def _standing(self) -> tuple[list[int], int]:
        """The attempts, the newest first, and the last one whose checkpoints count no longer; 0 where there is none."""
        names = names_in(self.path)
        return sorted(_numbers(names, _ATTEMPT), reverse=True), max(_numbers(names, _CLEARED), default=0)

    def _living(self) -> list[int]:
        """The attempts whose checkpoints count, the newest first."""
        attempts, cleared = self._standing()
        return [attempt for attempt in attempts if attempt > cleared]

    def _epochs(self, attempt: int) -> set[int]:
        return _numbers(whole_folders(self._attempt_folder(attempt)), _EPOCH)


def unwritten(checkpoints: Location, stage: str, known: Container[str]) -> Iterator[TrialRecord]:
    """The trials of a stage that have a folder in `checkpoints` and are not `known`: their driver died too early."""
    for name in names_in(checkpoints):
        if name not in known and name.startswith(f"{stage}-"):
            record = TrialFolder(checkpoints / name).remembered()
            if record is not None and (record.trial, record.stage) == (name, stage):
                yield record


def rows_of(checkpoint: StoredCheckpoint) -> list[EpochRecord]:
    """The rows that a checkpoint carries. Raises RunError if they are damaged."""
    path = checkpoint.folder / _ROWS
    try:
        rows = [EpochRecord.from_json(row) for row in Document({_ROWS: read_json(path)}).items(_ROWS)]
    except (FileNotFoundError, ValueError) as error:
        raise RunError(
            f"a checkpoint carries its trial's rows, but {path} is damaged ({error}); "
            f"remove the folder {checkpoint.folder} to train on from the checkpoint before it"
        ) from None
    return rows


def _numbers(names: Iterable[str], pattern: re.Pattern[str]) -> set[int]:
    return {int(match[1]) for match in map(pattern.fullmatch, names) if match}
