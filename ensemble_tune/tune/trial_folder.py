"""Where a trial keeps its checkpoints: attempt-0001/epoch-00003/, each with the trial's rows so far."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble_tune.errors import RunError
from ensemble_tune.storage import atomic_folder, is_partial, remove_folder, remove_partial
from ensemble_tune.trial import Checkpoint, EpochResult
from ensemble_tune.tune.record import EpochRecord

CHECKPOINTS = "checkpoints"
"""The folder of all trial folders in a run folder."""

_ROWS = "rows.json"
_EPOCH = re.compile(r"epoch-(\d{5,})")
_ATTEMPT = re.compile(r"attempt-(\d{4,})")


@dataclass(frozen=True, slots=True)
class TrialFolder:
    """One trial's checkpoints, keyed by attempt and epoch: two lives of a trial never write to the same place."""

    path: Path

    def claim_attempt(self) -> int:
        """The number of a new attempt, from 1; no two processes get the same."""
        self.path.mkdir(parents=True, exist_ok=True)
        number = max(self._attempts(), default=0) + 1
        while True:
            try:
                (self.path / f"attempt-{number:04d}").mkdir()
            except FileExistsError:
                number += 1
            else:
                return number

    def latest(self) -> Checkpoint | None:
        """The last epoch of the newest attempt that has one."""
        for attempt in sorted(self._attempts(), reverse=True):
            epochs = self._epochs(attempt)
            if epochs:
                return Checkpoint(self._epoch_folder(attempt, max(epochs)), max(epochs))
        return None

    def history(self) -> tuple[Checkpoint | None, list[EpochRecord]]:
        """The last checkpoint and the rows it carries. Raises RunError if they are damaged."""
        while True:
            checkpoint = self.latest()
            try:
                return checkpoint, rows_of(checkpoint) if checkpoint else []
            except RunError:
                # Gone: a worker that outlives its driver replaced it by a later one meanwhile.
                if checkpoint is not None and checkpoint.folder.exists():
                    raise

    def at(self, epoch: int) -> Checkpoint | None:
        """The checkpoint of one epoch, from the newest attempt that has it."""
        for attempt in sorted(self._attempts(), reverse=True):
            if epoch in self._epochs(attempt):
                return Checkpoint(self._epoch_folder(attempt, epoch), epoch)
        return None

    def save(self, attempt: int, result: EpochResult, rows: Sequence[EpochRecord]) -> None:
        """Writes the checkpoint of an epoch, with all rows up to it but without the epoch's own checkpoint seconds.

        Raises RunError where a later attempt has been claimed: the trial is no longer this one's.
        """
        self._refuse_replaced(attempt)
        with atomic_folder(self._epoch_folder(attempt, result.epoch)) as folder:
            result.save(folder)
            (folder / _ROWS).write_text(json.dumps([row.to_json() for row in rows]), encoding="utf-8")

    def keep(self, epochs: set[int], by: int | None = None) -> None:
        """Removes every checkpoint but those of these epochs. Raises RunError if attempt `by` has been replaced."""
        if by is not None:
            self._refuse_replaced(by)
        for attempt in self._attempts():
            for epoch in self._epochs(attempt) - epochs:
                remove_folder(self._epoch_folder(attempt, epoch))

    def clear_partial(self) -> None:
        """Removes what dead attempts left half-written; call it only while no attempt runs."""
        for attempt in self._attempts():
            remove_partial(self.path / f"attempt-{attempt:04d}")

    def remove(self) -> None:
        """Removes all checkpoints."""
        remove_folder(self.path)

    def _refuse_replaced(self, attempt: int) -> None:
        newest = max(self._attempts(), default=attempt)
        if newest > attempt:
            raise RunError(f"attempt {attempt} of {self.path.name} was replaced by attempt {newest}")

    def _epoch_folder(self, attempt: int, epoch: int) -> Path:
        return self.path / f"attempt-{attempt:04d}" / f"epoch-{epoch:05d}"

    def _attempts(self) -> set[int]:
        return _numbers(self.path, _ATTEMPT)

    def _epochs(self, attempt: int) -> set[int]:
        return _numbers(self.path / f"attempt-{attempt:04d}", _EPOCH)


def rows_of(checkpoint: Checkpoint) -> list[EpochRecord]:
    """The rows that a checkpoint carries. Raises RunError if they are damaged."""
    path = checkpoint.folder / _ROWS
    try:
        rows = [EpochRecord.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"a checkpoint carries its trial's rows, but {path} is damaged ({error}); "
            f"remove the folder {checkpoint.folder} to train on from the checkpoint before it"
        ) from None
    return rows


def _numbers(folder: Path, pattern: re.Pattern[str]) -> set[int]:
    if not folder.is_dir():
        return set()
    matches = (pattern.fullmatch(entry.name) for entry in folder.iterdir() if not is_partial(entry))
    return {int(match[1]) for match in matches if match}
