"""Runs a conductor's trials on Ray Tune; with trainable.py the only file that knows Tune's interfaces.

Tune places trials and keeps workers warm. It decides nothing and remembers nothing: what runs and who goes on is the
conductor's, what happened is the ledger's and the checkpoints'. A trial whose worker died is a new one to Tune.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from ensemble_tune.trial import Trial
from ensemble_tune.tune.conductor import Assignment, Conductor
from ensemble_tune.tune.interrupts import Interrupted, interruptible
from ensemble_tune.tune.ray_start import start_ray
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.trainable import REPORT, RayTrial, Report

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Experiment

log = logging.getLogger(__name__)

_WORKER_DEATHS = 3
"""How often a trial's worker may die before the trial counts as failed."""

_END_SECONDS = 30
"""How long the end of a run may take: Tune asks its workers to go before it kills them."""

# Read by Tune when a run starts. Its loggers, progress table and SIGINT handler are replaced by the ledger, our own
# output and `_interruptible`; a trial's working folder stays the user's, so that relative paths mean what they say.
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class _StopTuneError(Exception):
    """Ends Tune's loop by the one way after which it cleans up."""


class RayRunner:
    """One Tune run, in a thread of its own, that serves stage after stage; so workers outlive a stage."""

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        """Starts or joins Ray. Raises ConfigError."""
        os.environ.update(_TUNE_SETTINGS)
        start_ray(address)
        nodes = _nodes()
        self._resources = resources.on(nodes)
        self._end = _End()
        self._proposals = _Proposals(self._resources.slots(nodes), self._end)
        self._thread: threading.Thread | None = None
        self._stage: _Stage | None = None

    def run(self, conductor: Conductor, trial: Trial) -> None:
        """Trains every trial that the conductor assigns. Raises Interrupted on Ctrl-C and SIGTERM."""
        self._proposals.places = self._resources.slots(_nodes())  # a cluster may have grown since the last stage
        self._stage = stage = _Stage(conductor, ray.put((trial, conductor.goal, conductor.checkpoints)))
        self._proposals.begin(stage)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tune, name="tune", daemon=True)
            self._thread.start()
        with interruptible(self._end.interrupt):
            try:
                while not stage.done.wait(timeout=0.2) and self._thread.is_alive():
                    pass
            except KeyboardInterrupt:  # the second one: nothing is waited for
                self._thread = None
                raise
        if self._end.reason is not None:
            self.close()
            raise self._end.reason
        if not stage.done.is_set():
            raise RuntimeError("Tune ended before the trials did")

    def close(self) -> None:
        """Ends the workers; those that still train are not waited for."""
        if self._stage is not None and not self._stage.done.is_set():
            self._end.interrupt()
        self._proposals.close()
        if self._thread is not None:
            self._thread.join(timeout=_END_SECONDS)

    def _tune(self) -> None:
        # Each waiting trial asks Ray for its place, so one more than fits is proposed before a place is free.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._proposals.places + 1)
        _silence()
        try:
            with tempfile.TemporaryDirectory(prefix="ensemble-tune-") as scratch:
                tune.run(
                    tune.with_resources(RayTrial, tune.PlacementGroupFactory([self._resources.bundle()])),
                    search_alg=self._proposals,
                    scheduler=_Events(self._proposals),
                    callbacks=[self._end],
                    storage_path=scratch,
                    name="stages",
                    reuse_actors=True,
                    raise_on_failed_trial=False,
                    verbose=0,
                )
        except BaseException as error:  # raised again by `run`, in the thread that asked
            self._end.reason = self._end.reason or error


def _nodes() -> list[dict[str, float]]:
    """The resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


@dataclass
class _Stage:
    """A conductor at work."""

    conductor: Conductor
    shared: ray.ObjectRef[Any]
    """What all its trials share, for workers to fetch."""
    live: dict[str, Assignment] = field(default_factory=dict)
    """What Tune has been given and has not ended, by Tune's ids."""
    again: deque[Assignment] = field(default_factory=deque)
    """Trials whose worker died."""
    deaths: Counter[str] = field(default_factory=Counter)
    """How often each trial's worker died."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when every trial has ended."""


class _Proposals(SearchAlgorithm):
    """Turns a stage's assignments into Tune trials, and waits for the next stage when they have all ended."""

    def __init__(self, places: int, end: _End) -> None:
        self.places = places
        """How many trials run side by side."""
        self._end = end
        self._spec: dict[str, Any] = {}
        self._coming: SimpleQueue[_Stage | None] = SimpleQueue()
        self._started = 0
        self._closed = False
        self.stage: _Stage | None = None
        self.why: dict[str, str] = {}
        """What Tune says of a worker's death, by its ids."""

    def begin(self, stage: _Stage) -> None:
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
        if self.stage is None or len(self.stage.live) > self.places:
            return None
        assignment = None
        with self._end.on_error():
            again = self.stage.again
            assignment = replace(again.popleft(), proposed=time.time()) if again else self.stage.conductor.next()
        if assignment is None:
            return None
        self._started += 1
        # Two stages may name their trials alike.
        name = f"{self._started}.{assignment.trial}"
        self.stage.live[name] = assignment
        return TuneTrial(
            self._spec["run"],
            config={"assignment": assignment, "shared": self.stage.shared},
            trial_id=name,
            placement_group_factory=self._spec["resources_per_trial"],
            storage=self._spec["storage"],
            checkpoint_config=self._spec["checkpoint_config"],
            stub=False,
        )

    def is_finished(self) -> bool:
        """Whether nothing is left to propose, and never will be."""
        return self._closed or self._end.reason is not None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's end, however it came."""
        stage = self.stage
        if stage is None or trial_id not in stage.live or self._end.reason is not None:
            return
        assignment = stage.live.pop(trial_id)
        report = (result or {}).get(REPORT)
        with self._end.on_error():
            if error:
                self._worker_died(stage, assignment, self.why.get(trial_id, "see Ray's logs"))
            elif isinstance(report, Report) and report.error:
                log.info("%s failed: %s\n%s", assignment.trial, report.error, report.details)
                stage.conductor.ended(assignment.trial, report.error)
            else:
                stage.conductor.ended(assignment.trial)
            if stage.conductor.exhausted and not stage.live and not stage.again:
                stage.done.set()

    def _worker_died(self, stage: _Stage, assignment: Assignment, why: str) -> None:
        """Gives the trial to another worker, unless it has cost too many."""
        stage.deaths[assignment.trial] += 1
        deaths = stage.deaths[assignment.trial]
        if deaths > _WORKER_DEATHS:
            stage.conductor.ended(assignment.trial, f"its worker died {deaths} times; the last time: {why}")
        else:
            stage.again.append(assignment)

    def pass_on(self, result: dict[str, Any]) -> bool:
        """Gives a result's rows to the conductor; whether the trial trains on."""
        report = result.get(REPORT)
        if self.stage is None or self._end.reason is not None:
            return False
        goes_on = True
        with self._end.on_error():
            for row in report.rows if isinstance(report, Report) else ():
                goes_on = self.stage.conductor.epoch(row) and goes_on
        return goes_on


class _Events(TrialScheduler):
    """Passes rows to the conductor, and its decisions to Tune."""

    def __init__(self, proposals: _Proposals) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._proposals = proposals
        self._kept = 0
        self._waiting: deque[TuneTrial] = deque()

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Called for every result but a trial's last, which only says that there are no more epochs."""
        return self.CONTINUE if self._proposals.pass_on(result) else self.STOP

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Called before `_Proposals.on_trial_complete`; a last result may bring rows too."""
        self._proposals.pass_on(result)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial waits for a place."""
        if self._proposals.places > self._kept:
            # Tune keeps only as many idle workers as trials wait, so at the end of a stage all but one would go. No
            # public setting changes that; where this one is gone, stages are as right, and start more slowly.
            cache: Any = getattr(tune_controller, "_actor_cache", None)
            if hasattr(cache, "increase_max"):
                cache.increase_max(trial.placement_group_factory, by=self._proposals.places - self._kept)
            self._kept = self._proposals.places
        self._waiting.append(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial's worker died; called before `_Proposals.on_trial_complete`."""
        # Tune's own `get_error` reads a copy that may not have been made yet.
        file = Path(trial.error_file or "")
        lines = file.read_text(encoding="utf-8").strip().splitlines() if file.is_file() else []
        if lines:
            self._proposals.why[trial.trial_id] = lines[-1].strip()

    def on_trial_remove(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Nothing to do: Tune tells `_Proposals`."""

    def choose_trial_to_run(self, tune_controller: TuneController, **kwargs: Any) -> TuneTrial | None:
        """The trial that has waited longest: Tune itself would give a freed worker to the newest."""
        while self._waiting and self._waiting[0].status != TuneTrial.PENDING:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def debug_string(self) -> str:
        """Shown by Tune's own output, which is off."""
        return "decisions by ensemble_tune"


class _End(Callback):
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
            raise _StopTuneError


def _silence() -> None:
    """Quietens what Tune says of its own workings and a user cannot mend."""
    for name in ("ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for module in (r"ray\.", r"ensemble_tune\.tune\.ray_runner"):  # some are said to be of who called Tune
        warnings.filterwarnings("ignore", module=module)
