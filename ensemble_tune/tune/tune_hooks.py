"""What Tune asks for trials and tells results, and what ends it. All decisions are the conductor's."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import SearchAlgorithm

from ensemble_tune.errors import ConfigError, RunError, StorageError
from ensemble_tune.tune.interrupts import Interrupted
from ensemble_tune.tune.machines import Leaving, Machines, devices
from ensemble_tune.tune.out_of_memory import OF_RAY_S_MONITOR, cause
from ensemble_tune.tune.record import Status
from ensemble_tune.tune.resources import Machine, Resources
from ensemble_tune.tune.room import Placement
from ensemble_tune.tune.scheduler import Decision
from ensemble_tune.tune.stage import Handed, Stage
from ensemble_tune.tune.trainable import REPORT, Report
from ensemble_tune.tune.tune_workers import none_kept

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Experiment

log = logging.getLogger(__name__)

_AWAY_SECONDS = 900
"""How long a search waits where no machine is left that could hold one of its trials: a reboot takes minutes."""
_COUNT_SECONDS = 10
"""How often a cluster's machines are counted: they are what is paid for."""


class StopTuneError(Exception):
    """Ends Tune's loop by the one way after which it cleans up."""


class Proposals(SearchAlgorithm):
    """Turns a stage's assignments into Tune trials, and waits for the next stage when they have all ended."""

    def __init__(self, share: Resources, end: End, machines: Machines | None = None, grown: int | None = None) -> None:
        """grown: how many trials run side by side once the cluster has grown; None where it does not grow."""
        self.places = grown or 0
        """How many such trials run side by side."""
        self.leaving = Leaving()
        self._machines = machines or Machines()
        self.share = share
        """What each trial asks for, where its stage says nothing else."""
        self._grown = grown
        self._end = end
        self._spec: dict[str, Any] = {}
        self._coming: SimpleQueue[Stage | None] = SimpleQueue()
        self._started = 0
        self._counted = 0.0
        self._stuck_since: float | None = None
        self._controller: TuneController | None = None
        self._closed = False
        self.stage: Stage | None = None
        self._ready: deque[tuple[str, Handed]] = deque()
        """Trials that take a worker over, with their names."""
        self.why: dict[str, str] = {}
        """What Tune says of a worker's death, by its ids."""
        self._at: dict[str, str] = {}
        """The machine that each trial made its last step on, by Tune's ids."""

    def count(self) -> list[Machine]:
        """The machines that stay; what fits on them is counted anew. Raises ConfigError."""
        machines = self._machines.up(self.leaving.ids)
        nodes = [machine.resources for machine in machines]
        self.places = max(self._grown or 0, self.share.slots(nodes, at_least=0 if self._grown else 1))
        return machines

    def begin(self, stage: Stage) -> None:
        """Hands over the next stage; the one before is done."""
        self._coming.put(stage)

    def close(self) -> None:
        """No stage comes any more."""
        self._coming.put(None)

    def add_configurations(self, experiments: Experiment | list[Experiment] | dict[str, dict[str, Any]]) -> None:
        """Tune's one experiment: what all trials share."""
        if not isinstance(experiments, list):
            raise TypeError(f"Tune gives a list of one experiment, but gave {type(experiments).__name__}")
        self._spec = experiments[0].spec

    def next_trial(self) -> TuneTrial | None:
        """The next assignment, unless enough trials are under way."""
        if self.stage is None or self.stage.done.is_set():
            # Nothing is live, so nothing else wants Tune's attention meanwhile.
            self.stage = None if self._closed else self._coming.get()
            self._closed = self.stage is None
        if self.stage is None:
            return None
        if not self._ready:
            if self._enough(self.stage):
                return None
            with self._end.on_error():
                self._make_ready(self.stage.next(Placement(share=self.share)))
        if not self._ready:
            self.stage.settle()
            if self.stage.stuck and self._controller is not None:
                # While Tune has no trial at all it asks for one, for ten minutes, and does nothing else.
                self.look(self._controller)
            return None
        name, handed = self._ready.popleft()
        return TuneTrial(
            self._spec["run"],
            config={"assignment": handed.assignment, "shared": self.stage.shared, "placement": handed.placement},
            trial_id=name,
            storage=self._spec["storage"],
            checkpoint_config=self._spec["checkpoint_config"],
            stub=False,
        )

    def _make_ready(self, handed: Handed | None) -> str | None:
        """Names a trial for Tune; None where there is none."""
        if handed is None or self.stage is None:
            return None
        self._started += 1
        # Two stages may name their trials alike.
        name = f"{self._started}.{handed.assignment.trial}"
        self.stage.live[name] = handed
        self._machines.have_cores_for(0 if self.grows else self.stage.side_by_side(self.places))
        self._ready.append((name, handed))
        return name

    def keeps_worker(self, trial_id: str) -> str | None:
        """The name of the next trial, where it takes over the worker of one that ends; None where none does."""
        if self.stage is None or self._end.reason is not None or self.stage.conductor.reason is not None:
            return None
        return self._make_ready(self.stage.next_like(trial_id))

    @property
    def coming(self) -> set[str]:
        """The names of the trials that are about to take a worker over."""
        return {name for name, _ in self._ready}

    @property
    def alike(self) -> bool:
        """Whether all trials of the stage have the same share."""
        return self.stage is None or self.stage.bookings is None

    @property
    def rests(self) -> bool:
        """Whether no trial of a stage whose trials have shares of their own waits for a place."""
        stage = self.stage
        return stage is not None and stage.bookings is not None and not self.grows and not stage.waits

    @property
    def grows(self) -> bool:
        """Whether machines come when they are asked for, and go when they are idle: then no worker waits on one."""
        return self._grown is not None

    def _enough(self, stage: Stage) -> bool:
        """Whether one trial more than fits has been handed out: it is the next as soon as a place is free.

        Not where machines come when they are asked for: one would be bought for it.
        """
        surplus = 0 if self.grows else 1
        return (stage.bookings is None or self.grows) and len(stage.live) >= self.places + surplus

    def is_finished(self) -> bool:
        """Whether nothing is left to propose, and never will be."""
        return self._closed or self._end.reason is not None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's end, however it came."""
        stage = self.stage
        if stage is None or trial_id not in stage.live or self._end.reason is not None:
            return
        handed, at = stage.live.pop(trial_id), self._at.pop(trial_id, "")
        stage.free(handed)
        report = (result or {}).get(REPORT)
        with self._end.on_error():
            if error:
                self._worker_died(stage, handed, self.why.pop(trial_id, "see Ray's logs"), at)
            elif isinstance(report, Report) and report.fatal:
                raise StorageError(report.error)
            elif isinstance(report, Report) and report.error:
                log.info("%s failed: %s\n%s", handed.assignment.trial, report.error, report.details)
                if report.ran_out:
                    stage.ran_out(handed, report.error, on_gpu=report.ran_out == "gpu")
                else:
                    stage.ended(handed, Status.FAILED, report.error)
            else:
                stage.ended(handed)
            stage.settle()

    def _worker_died(self, stage: Stage, handed: Handed, why: str, at: str) -> None:
        """why: Ray's reason, which names the machine where it was lost. at: the machine of the last step, if any."""
        last = cause(why)
        if at in self.leaving.ids or any(node in why for node in self.leaving.ids):
            stage.worker_died(handed, last, counts=False)
        elif OF_RAY_S_MONITOR in why or self._machines.killed_for_memory(at or handed.placement.machine):
            stage.ran_out(handed, last, on_gpu=False)
        else:
            stage.worker_died(handed, last, counts=True)

    def look(self, tune_controller: TuneController) -> None:
        """Called several times a second: lets time pass for the conductor, and stops all trials once it has enough."""
        stage = self.stage
        if stage is None or stage.done.is_set() or self._end.reason is not None:
            return
        self._controller = tune_controller
        with self._end.on_error():
            self.leaving.look()
            if time.monotonic() - self._counted > _COUNT_SECONDS:
                with suppress(ConfigError):  # machines that are lost may come back
                    self.count()
                machines = self._machines.up(self.leaving.ids)
                stage.conductor.meter.nodes, stage.conductor.meter.places = len(machines), self.places
                stage.conductor.meter.devices = devices(machines)
                self._counted = time.monotonic()
                stage.meet(machines)
                self._move(stage, {machine.id for machine in machines}, tune_controller)
                self._call(tune_controller)
            if stage.bookings is not None:
                stage.conductor.meter.held = stage.bookings.held("GPU")
            self._look_whether_stuck(stage)
            stage.conductor.look()
            if stage.conductor.reason is not None and (stage.live or stage.again or stage.window):
                self._stop(stage, tune_controller)

    def _look_whether_stuck(self, stage: Stage) -> None:
        """Raises RunError where trials have waited too long for machines that have gone."""
        if not stage.stuck:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or time.monotonic()
        if time.monotonic() - self._stuck_since > _AWAY_SECONDS:
            trial = stage.window[0].assignment.trial
            raise RunError(
                f"a search needs a machine that can hold its trials, but those that could hold {trial} have been away "
                f"for {_AWAY_SECONDS // 60} minutes; bring one back, and the same command goes on"
            )

    def _move(self, stage: Stage, there: set[str], tune_controller: TuneController) -> None:
        """Looks for another place for trials that wait for one on a machine that has gone."""
        for trial in tune_controller.get_trials():  # type: ignore[no-untyped-call]
            if trial.status == TuneTrial.PENDING and stage.moves(trial.trial_id, there):
                tune_controller.stop_trial(trial)  # type: ignore[no-untyped-call]

    def _call(self, tune_controller: TuneController) -> None:
        """Sends something to each worker that trains, so that the end of its connection is noticed.

        A worker that was cut off from the network for half a minute has given up its end, and what it had to report is
        lost. Ray waits for it, and asks after five minutes; whatever is sent is refused at once, and the trial moves.
        """
        for trial in tune_controller.get_trials():  # type: ignore[no-untyped-call]
            actor = trial.temporary_state.ray_actor
            if trial.status == TuneTrial.RUNNING and actor is not None:
                actor.__ray_ready__.remote()  # waits there for the end of the epoch, then does nothing

    def _stop(self, stage: Stage, tune_controller: TuneController) -> None:
        """Ends trials at once, wherever they are; each has the checkpoint of its last epoch."""
        stage.conductor.interrupt(stage.conductor.reason or "")
        stage.clear()
        for name, _ in self._ready:
            stage.live.pop(name)
        self._ready.clear()
        with none_kept(tune_controller):
            for trial in [trial for trial in tune_controller.get_trials() if trial.trial_id in stage.live]:  # type: ignore[no-untyped-call]
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    ray.kill(actor)
                tune_controller.stop_trial(trial)  # type: ignore[no-untyped-call]
        stage.settle()

    def must_move(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the machine that a trial has just made a step on is leaving; it goes on from what it saved there."""
        report = result.get(REPORT)
        self._at[trial_id] = report.node if isinstance(report, Report) else ""
        return self._at[trial_id] in self.leaving.ids

    def pass_on(self, result: dict[str, Any]) -> bool:
        """Gives a result's rows to the conductor; whether the trial keeps its place."""
        report = result.get(REPORT)
        if self.stage is None or self._end.reason is not None:
            return False
        decision = Decision.GO_ON
        with self._end.on_error():
            for row in report.rows if isinstance(report, Report) else ():
                decision = self.stage.conductor.epoch(row)
                self.stage.learn(row.gpu)
        return decision is Decision.GO_ON


class End(Callback):
    """Ends the run at its next step, once there is a reason, and does not wait for the epochs in progress."""

    def __init__(self) -> None:
        self.reason: BaseException | None = None

    def interrupt(self) -> None:
        """Takes the user's wish for the reason."""
        self.reason = self.reason or Interrupted()

    @contextmanager
    def on_error(self) -> Iterator[None]:
        """Takes an error in our own decisions for the reason: Tune would blame the trial, and go on."""
        try:
            yield
        except Exception as error:
            self.reason = self.reason or error

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called by Tune about ten times a second."""
        if self.reason is not None:
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    ray.kill(actor)
            raise StopTuneError
