"""Runs a conductor's trials on Ray Tune; with tune_hooks.py and trainable.py the only file that knows Tune.

Tune places trials and keeps workers warm. It decides nothing and remembers nothing: what runs and who goes on is the
conductor's, what happened is the ledger's and the checkpoints'. A trial whose worker died is a new one to Tune.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.tune import run as run_tune
from ray.tune.progress_reporter import TrialProgressCallback

from ensemble_tune.trial import Params, SizedTrial, Trial
from ensemble_tune.tune.conductor import Conductor
from ensemble_tune.tune.interrupts import handlers_kept, interruptible
from ensemble_tune.tune.machines import Machines, devices
from ensemble_tune.tune.packing import Bookings
from ensemble_tune.tune.quiet import hush_tune
from ensemble_tune.tune.ray_start import start_ray
from ensemble_tune.tune.resources import GIB, Requirements, Resources
from ensemble_tune.tune.shared_folder import refuse_unshared
from ensemble_tune.tune.stage import Stage
from ensemble_tune.tune.trainable import RayTrial
from ensemble_tune.tune.tune_events import Events
from ensemble_tune.tune.tune_hooks import End, Proposals
from ensemble_tune.tune.tune_workers import TuneWorkers
from ensemble_tune.waits import waiting

log = logging.getLogger(__name__)

_END_SECONDS = 30
"""How long the end of a run may take: Tune asks its workers to go before it kills them."""

_PENDING = 1_000_000
"""More trials than ever wait for a place."""

# Read by Tune when a run starts. Its loggers, progress table and SIGINT handler are replaced by the ledger, our own
# output and `_interruptible`; a trial's working folder stays the user's, so that relative paths mean what they say.
# Workers of a Ray that is started here inherit all of them, and are not told again (`TuneWorkers`).
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "PL_DISABLE_FORK": "1",
    # Tune's own state of all trials, which nobody reads: it would be written again and again, beside trials that wait.
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
}


class RayRunner:
    """One Tune run, in a thread of its own, that serves stage after stage; so workers outlive a stage."""

    def __init__(
        self,
        resources: Resources,
        address: str | None = None,
        slots: int | None = None,
        imports: str | None = None,
    ) -> None:
        """Starts or joins Ray; slots, imports: as in `Workers`. Raises ConfigError."""
        os.environ.update(_TUNE_SETTINGS)
        with handlers_kept():
            self._own_ray = start_ray(address, resources, imports)
        self._asked = resources
        machines = Machines()
        # A cluster that grows may have no device yet, so what is not said of devices cannot be found out.
        self._resources = resources.on([machine.resources for machine in machines.up()])
        self._end = End()
        self._proposals = Proposals(self._resources, self._end, machines, slots)
        self._proposals.count()
        self._thread: threading.Thread | None = None
        self._stage: Stage | None = None
        self._seen: set[tuple[str, Path]] = set()
        """Machines, each with a folder that it was asked about: a run has many stages."""

    def run(self, conductor: Conductor, trial: Trial, requirements: Requirements | None = None) -> None:
        """Trains every trial that the conductor assigns; requirements: each one's share, None for the same for all.

        Raises Interrupted on Ctrl-C and SIGTERM.
        """
        with interruptible(self._end.interrupt):
            try:
                stage = self._begin(conductor, trial, requirements)
                while not stage.done.wait(timeout=0.2) and self._thread is not None and self._thread.is_alive():
                    pass
            except (KeyboardInterrupt, SystemExit):  # the second one: nothing is waited for
                self._thread = None
                raise
        if self._end.reason is not None:
            self.close()
            raise self._end.reason
        if not stage.done.is_set():
            raise RuntimeError("Tune ended before the trials did")

    def _begin(self, conductor: Conductor, trial: Trial, requirements: Requirements | None) -> Stage:
        """Hands the conductor's trials to Tune, which is started for the first of them."""
        machines = self._proposals.count()  # a cluster may have grown since the last stage
        if not self._resources.gpus:  # and its first GPUs have come
            self._resources = self._asked.on([machine.resources for machine in machines])
            self._proposals.share = self._resources
            self._proposals.count()
        if isinstance(conductor.checkpoints, Path):
            place = conductor.checkpoints
            refuse_unshared(place, [each for each in machines if (each.id, place) not in self._seen])
            self._seen |= {(each.id, place) for each in machines}
        conductor.start(places=self._proposals.places, nodes=len(machines), gpus=self._resources.gpus or 0.0)
        conductor.meter.devices = devices(machines)
        requirements, known = requirements or self._of(trial), conductor.records()
        bookings = (
            None if requirements is None else Bookings(requirements, machines, known, grows=self._proposals.grows)
        )
        forgiven = (
            {record.trial for record in known if "ran_out" in record.gpu} if bookings is None else bookings.recalled
        )
        shared = ray.put((trial, conductor.goal, conductor.checkpoints))
        self._stage = stage = Stage(conductor, shared, bookings, forgiven=forgiven)
        self._proposals.begin(stage)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tune, name="tune", daemon=True)
            self._thread.start()
        return stage

    def _of(self, trial: Trial) -> Requirements | None:
        """Each trial's share by what it says that it takes of a GPU; where it says nothing the same for all, which one
        that runs out of memory may exceed. None where there is nothing to run out of.

        Machines that come when they are asked for are asked for one share, and no more trials than they are to hold
        are handed out: so each that ends must say at once which one takes its worker over.
        """
        alike = self._resources
        if not (alike.gpus or alike.memory or self._proposals.grows):
            return None
        if not isinstance(trial, SizedTrial) or not alike.gpus or self._proposals.grows:
            return lambda params: alike

        def share(params: Params) -> Resources:
            try:
                return replace(self._asked, gpu_memory=trial.gpu_bytes(params) / GIB)
            except Exception as error:  # whatever is wrong with the parameters, the trial itself says better
                log.warning("what a trial takes of a GPU cannot be told: %s: %s", type(error).__name__, error)
                return self._asked

        return share

    def close(self) -> None:
        """Ends the workers; those that still train are not waited for."""
        if self._stage is not None and not self._stage.done.is_set():
            self._end.interrupt()
        self._proposals.close()
        if self._thread is not None:
            with waiting("ending Ray's workers", _END_SECONDS) as wait:
                while self._thread.is_alive() and wait.done < _END_SECONDS:
                    self._thread.join(timeout=1)
                    wait.done += 1

    def _tune(self) -> None:
        # Each waiting trial asks Ray for its place, so one more than fits is proposed before a place is free: that is
        # for `Proposals` to say, which knows how many fit from one moment to the next.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_PENDING)
        hush_tune()
        try:
            with tempfile.TemporaryDirectory(prefix="ensemble-tune-") as scratch:
                run_tune(
                    RayTrial,
                    search_alg=self._proposals,
                    scheduler=Events(self._proposals, TuneWorkers(self._own_ray)),
                    callbacks=[self._end, Silence()],
                    storage_path=scratch,
                    name="stages",
                    reuse_actors=True,
                    raise_on_failed_trial=False,
                    verbose=0,
                )
        except BaseException as error:  # raised again by `run`, in the thread that asked
            self._end.reason = self._end.reason or error


class Silence(TrialProgressCallback):
    """Takes the place of what prints a trial's end on standard output, verbose or not."""

    def __init__(self) -> None:
        """Keeps nothing."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing is printed."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Nothing is printed."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Nothing is printed."""
