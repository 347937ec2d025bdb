"""A trial as Ray sees it: a worker that turns a generator of epoch results into checkpoints and rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from ensemble_tune.errors import EnsembleTuneError
from ensemble_tune.trial import EpochResult, Trial
from ensemble_tune.tune.conductor import Assignment, Goal
from ensemble_tune.tune.record import EpochRecord, best_epoch
from ensemble_tune.tune.trial_folder import TrialFolder

REPORT = "report"
"""The key under which a result carries its `Report`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker tells the driver after a step."""

    rows: tuple[EpochRecord, ...] = ()
    """New rows; more than one where an earlier life of the trial died before it could report."""
    ended: bool = False
    error: str | None = None
    """Why the trial failed, in one line; only when it ended."""
    details: str = field(default="", repr=False)
    """The traceback behind `error`, for the log."""


class RayTrial(tune.Trainable):
    """Runs assignment after assignment in one process, so that torch is imported once a worker."""

    def setup(self, config: dict[str, Any], **stage: Any) -> None:
        """Called by Tune in the worker; `stage` holds what all trials share: trial, goal, checkpoints."""
        self._trial: Trial = stage["trial"]
        self._goal: Goal = stage["goal"]
        self._checkpoints: Path = stage["checkpoints"]
        self._begin(config["assignment"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial into the same process."""
        self.cleanup()
        self._begin(new_config["assignment"])
        return True

    def cleanup(self) -> None:
        """Ends the generator, and with it its threads and files."""
        self._epochs.close()

    def step(self) -> dict[str, Any]:
        """One epoch: trained, saved, reported, in this order, so that every reported row has a checkpoint."""
        started = time.perf_counter()
        try:
            result = next(self._epochs, None)
            if result is None:
                report = Report(rows=self._unreported(), ended=True)
            else:
                self._save(result, time.perf_counter() - started)
                report = Report(rows=self._unreported())
        except Exception as error:
            kind = "" if isinstance(error, EnsembleTuneError) else f"{type(error).__name__}: "
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            report = Report(
                rows=self._unreported(), ended=True, error=f"{kind}{reason}", details=traceback.format_exc()
            )
        return {REPORT: report, "done": report.ended}

    def _begin(self, assignment: Assignment) -> None:
        """Goes on from the trial's last checkpoint, whoever wrote it."""
        self._folder = TrialFolder(self._checkpoints / assignment.trial)
        self._rows: list[EpochRecord] = []
        self._reported = 0
        self._assignment = assignment
        self._epochs = self._train()

    def _train(self) -> Generator[EpochResult]:
        """The trial's epochs; a generator, so that whatever is wrong from its first line on is the trial's failure."""
        self._attempt = self._folder.claim_attempt()
        checkpoint, self._rows = self._folder.history()
        yield from self._trial(self._assignment.params, checkpoint)

    def _unreported(self) -> tuple[EpochRecord, ...]:
        new = tuple(self._rows[self._reported :])
        self._reported = len(self._rows)
        return new

    def _save(self, result: EpochResult, took: float) -> None:
        """Writes the checkpoint of an epoch of `took` seconds, then removes those that are neither last nor best."""
        seconds = dict(result.seconds)
        seconds["other"] = max(0.0, took - sum(seconds.values()))
        row = EpochRecord(
            trial=self._assignment.trial,
            stage=self._goal.stage,
            number=self._assignment.number,
            attempt=self._attempt,
            epoch=result.epoch,
            scores={name: float(score) for name, score in result.scores.items()},
            seconds=seconds,
            reported=datetime.now(UTC),
        )
        started = time.perf_counter()
        self._folder.save(self._attempt, result, [*self._rows, row])
        saving = time.perf_counter() - started
        self._rows.append(replace(row, seconds={**row.seconds, "checkpoint": saving}))
        best = best_epoch(self._rows, self._goal.metric, self._goal.mode)
        self._folder.keep({result.epoch} if best is None else {result.epoch, best}, by=self._attempt)
