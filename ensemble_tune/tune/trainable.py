"""A trial as Ray sees it: a worker that turns a generator of epoch results into checkpoints and rows."""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray.tune import PlacementGroupFactory, Trainable

from ensemble_tune.errors import EnsembleTuneError, StorageError
from ensemble_tune.storage import Location
from ensemble_tune.trial import EpochResult, Share, Trial, give_share
from ensemble_tune.tune.conductor import Assignment
from ensemble_tune.tune.decisions import Goal
from ensemble_tune.tune.out_of_memory import Memory, broke_its_card, keep_to_memory, ran_out
from ensemble_tune.tune.record import EpochRecord, best_epoch
from ensemble_tune.tune.resources import GIB
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.trial_folder import TrialFolder

_IMPORTED = time.time()

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
    ran_out: Memory | None = None
    """Whose memory was too small for it, where that is why it failed."""
    fatal: bool = False
    """Whether the whole search must end, since it cannot keep what is trained."""
    details: str = field(default="", repr=False)
    """The traceback behind `error`, for the log."""
    node: str = ""
    """The machine that the step was made on, by Ray's id."""


class RayTrial(Trainable):
    """Runs assignment after assignment in one process, so that torch is imported once a worker."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory | None:
        """Called by Tune for each trial; config: placement, the trial's."""
        if "placement" not in config:
            return None
        placement: Placement = config["placement"]
        bundles = [placement.share.bundle()]
        if placement.machine is None:
            return PlacementGroupFactory(bundles)
        return PlacementGroupFactory(bundles, bundle_label_selector=[{"ray.io/node-id": placement.machine}])

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a new worker; config: assignment, its placement, and a reference to what all trials of its
        stage share."""
        # Ray numbers cards as nvidia-smi does, by which their memory is known; CUDA would begin with the fastest.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        self._shared: ray.ObjectRef[Any] | None = None
        self._begin(config, since=_process_started())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial, of any stage, into the same process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the generator, and with it its threads and files."""
        self._epochs.close()

    def step(self) -> dict[str, Any]:
        """One epoch: trained, saved, reported, in this order, so that every reported row has a checkpoint."""
        try:
            result = next(self._epochs, None)
            if result is None:
                report = Report(rows=self._unreported(), ended=True)
            else:
                self._save(result)
                report = Report(rows=self._unreported())
        except Exception as error:
            if broke_its_card(error):
                raise  # so that this process ends: it would fail one trial after another
            kind = "" if isinstance(error, EnsembleTuneError) else f"{type(error).__name__}: "
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            report = Report(
                rows=self._unreported(),
                ended=True,
                error=f"{kind}{reason}",
                ran_out=ran_out(error),
                fatal=isinstance(error, StorageError),
                details=traceback.format_exc(),
            )
        if report.ran_out:
            gc.collect()  # the next trial finds all that this one had
        return {REPORT: replace(report, node=ray.get_runtime_context().get_node_id()), "done": report.ended}

    def _begin(self, config: dict[str, Any], since: float | None = None) -> None:
        """Goes on from the trial's last checkpoint, whoever wrote it; since: when this process was started for it."""
        assignment: Assignment = config["assignment"]
        shared: ray.ObjectRef[Any] = config["shared"]
        self._placement: Placement = config["placement"]
        share = self._placement.share
        gpus = share.gpus or 0.0
        give_share(Share(cpus=share.cpus, gpus=gpus, gpu_bytes=self._placement.gpu_bytes if gpus else None))
        keep_to_memory(int(share.memory * GIB) or None)
        if shared != self._shared:
            self._trial: Trial
            self._goal: Goal
            self._checkpoints: Location
            self._trial, self._goal, self._checkpoints = ray.get(shared)
            self._shared = shared
        self._folder = TrialFolder(self._checkpoints / assignment.trial)
        self._rows: list[EpochRecord] = []
        self._reported = 0
        self._assignment = assignment
        self._epochs = self._train()
        waited = max(0.0, time.time() - assignment.proposed)
        start = 0.0 if since is None else min(waited, time.time() - since)
        self._before = {"wait": waited - start, "start": start}
        self._mark = time.perf_counter()

    def _train(self) -> Generator[EpochResult]:
        """The trial's epochs; a generator, so that whatever is wrong from its first line on is the trial's failure."""
        self._attempt = self._folder.claim_attempt()
        self._folder.remember(self._assignment.record)
        with self._folder.resumed() as (checkpoint, self._rows):
            yield from self._trial(self._assignment.params, checkpoint)

    def _unreported(self) -> tuple[EpochRecord, ...]:
        new = tuple(self._rows[self._reported :])
        self._reported = len(self._rows)
        return new

    def _save(self, result: EpochResult) -> None:
        """Writes the checkpoint of an epoch, then removes those that are neither last nor best."""
        seconds = dict(result.seconds)
        # Whatever the trial did not name since the epoch before, Ray's part included: a worker's rows leave no gap.
        seconds["set_up" if self._before else "other"] = max(0.0, self._lap() - sum(seconds.values()))
        row = EpochRecord(
            trial=self._assignment.trial,
            stage=self._goal.stage,
            number=self._assignment.record.number,
            attempt=self._attempt,
            epoch=result.epoch,
            scores={name: float(score) for name, score in result.scores.items()},
            seconds={**self._before, **seconds},
            reported=datetime.now(UTC),
            worker=f"{socket.gethostname()}/{os.getpid()}",
            gpu=self._gpu(result),
        )
        self._before = {}
        self._folder.save(self._attempt, result, [*self._rows, row])
        self._rows.append(replace(row, seconds={**row.seconds, "checkpoint": self._lap()}))
        best = best_epoch(self._rows, self._goal.metric, self._goal.mode)
        self._folder.keep({result.epoch} if best is None else {result.epoch, best}, by=self._attempt)

    def _gpu(self, result: EpochResult) -> dict[str, float | str]:
        """What the trial has of a card, and takes of it."""
        if not self._placement.share.gpus:
            return {}
        context = ray.get_runtime_context()
        card = f"{context.get_node_id()[:8]}/{'+'.join(context.get_accelerator_ids().get('GPU', []))}"
        measured = {} if result.gpu_bytes is None else {"measured": float(result.gpu_bytes)}
        return {**self._placement.figures, "card": card, **measured}

    def _lap(self) -> float:
        """Seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


def _process_started() -> float:
    """When this process began, in seconds since 1970; where the system does not tell, when this file was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return _IMPORTED
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
