"""Runs a conductor's trials on Ray Tune; with trainable.py the only file that knows Tune's interfaces.

Tune places trials, restarts those whose worker died, and keeps workers warm. It decides nothing and remembers nothing:
what runs and who goes on is the conductor's, what happened is the ledger's and the checkpoints'.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from ensemble_tune.trial import Trial
from ensemble_tune.tune.conductor import Conductor
from ensemble_tune.tune.ray_start import start_ray
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.trainable import REPORT, RayTrial, Report

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Experiment

log = logging.getLogger(__name__)

_WORKER_DEATHS = 3
"""How often a trial's worker may die before the trial counts as failed."""

# Read by Tune when a run starts. Its loggers, progress table and SIGINT handler are replaced by the ledger, our own
# output and `_interruptible`; a trial's working folder stays the user's, so that relative paths mean what they say.
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a search in order; the same command goes on where it stopped."""


class _StopTuneError(Exception):
    """Ends Tune's loop by the one way after which it cleans up."""


class RayRunner:
    """One Tune run, in a thread of its own, that serves stage after stage; so workers outlive a stage."""

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        """Starts or joins Ray. Raises ConfigError."""
        os.environ.update(_TUNE_SETTINGS)
        start_ray(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._resources = resources.on(nodes)
        self._places = self._resources.slots(nodes)
        self._end = _End()
        self._proposals = _Proposals(self._places + 1, self._end)
        self._thread: threading.Thread | None = None

    def run(self, conductor: Conductor, trial: Trial) -> None:
        """Trains every trial that the conductor assigns. Raises Interrupted on Ctrl-C and SIGTERM."""
        stage = _Stage(conductor, ray.put((trial, conductor.goal, conductor.checkpoints)))
        self._proposals.begin(stage)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tune, name="tune", daemon=True)
            self._thread.start()
        with _interruptible(self._end):
            while not stage.done.wait(timeout=0.2) and self._thread.is_alive():
                pass
        if self._end.reason is not None:
            self._thread.join()
            raise self._end.reason

    def close(self) -> None:
        """Ends the workers."""
        self._proposals.close()
        if self._thread is not None:
            self._thread.join()

    def _tune(self) -> None:
        # Each waiting trial asks Ray for its place, so one more than fits is proposed before a place is free.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._places + 1)
        try:
            with tempfile.TemporaryDirectory(prefix="ensemble-tune-") as scratch, _quiet():
                tune.run(
                    tune.with_resources(RayTrial, tune.PlacementGroupFactory([self._resources.bundle()])),
                    search_alg=self._proposals,
                    scheduler=_Events(self._proposals, self._places),
                    callbacks=[self._end],
                    storage_path=scratch,
                    name="stages",
                    reuse_actors=True,
                    max_failures=_WORKER_DEATHS,
                    raise_on_failed_trial=False,
                    verbose=0,
                )
        except BaseException as error:  # raised again by `run`, in the thread that asked
            self._end.reason = self._end.reason or error


@dataclass
class _Stage:
    """A conductor at work."""

    conductor: Conductor
    shared: ray.ObjectRef[Any]
    """What all its trials share, for workers to fetch."""
    live: set[str] = field(default_factory=set)
    """Trials that were proposed and have not ended, by Tune's ids."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when every trial has ended."""


class _Proposals(SearchAlgorithm):
    """Turns a stage's assignments into Tune trials, and waits for the next stage when they have all ended."""

    def __init__(self, limit: int, end: _End) -> None:
        self._limit = limit
        self._end = end
        self._spec: dict[str, Any] = {}
        self._coming: SimpleQueue[_Stage | None] = SimpleQueue()
        self._started = 0
        self._closed = False
        self.stage: _Stage | None = None
        self.deaths: dict[str, str] = {}
        """Why a trial's worker died the last time."""

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
        if self.stage is None or len(self.stage.live) >= self._limit:
            return None
        with self._end.on_error():
            assignment = self.stage.conductor.next()
        if self._end.reason is not None or assignment is None:
            return None
        self._started += 1
        # Two stages may name their trials alike.
        name = f"{self._started}.{assignment.trial}"
        self.stage.live.add(name)
        return TuneTrial(
            self._spec["run"],
            config={"assignment": assignment, "shared": self.stage.shared},
            trial_id=name,
            placement_group_factory=self._spec["resources_per_trial"],
            storage=self._spec["storage"],
            checkpoint_config=self._spec["checkpoint_config"],
            max_failures=_WORKER_DEATHS,
            stub=False,
        )

    def is_finished(self) -> bool:
        """Whether nothing is left to propose, and never will be."""
        return self._closed or self._end.reason is not None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's end, however it came."""
        assert self.stage is not None  # only a stage has trials
        trial, conductor = trial_id.partition(".")[2], self.stage.conductor
        self.stage.live.discard(trial_id)
        report = (result or {}).get(REPORT)
        reason = None
        if error:
            why = self.deaths.get(trial_id, "see Ray's logs")
            reason = f"its worker died {_WORKER_DEATHS + 1} times; the last time: {why}"
        elif isinstance(report, Report) and report.error:
            log.info("%s failed: %s\n%s", trial, report.error, report.details)
            reason = report.error
        with self._end.on_error():
            conductor.ended(trial, reason)
            if conductor.exhausted and not self.stage.live:
                self.stage.done.set()

    def pass_on(self, result: dict[str, Any]) -> bool:
        """Gives a result's rows to the conductor; whether the trial trains on."""
        assert self.stage is not None  # only a stage has trials
        report = result.get(REPORT)
        goes_on = True
        with self._end.on_error():
            for row in report.rows if isinstance(report, Report) else ():
                goes_on = self.stage.conductor.epoch(row) and goes_on
        return goes_on


class _Events(TrialScheduler):
    """Passes rows to the conductor, and its decisions to Tune."""

    def __init__(self, proposals: _Proposals, places: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._proposals = proposals
        self._places = places
        self._keeps = False
        self._waiting: deque[TuneTrial] = deque()

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Called for every result but a trial's last, which only says that there are no more epochs."""
        return self.CONTINUE if self._proposals.pass_on(result) else self.STOP

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Called before `_Proposals.on_trial_complete`; a last result may bring rows too."""
        self._proposals.pass_on(result)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial waits for a place: a new one, or one whose worker died."""
        if not self._keeps:
            # Tune keeps only as many idle workers as trials wait, so at the end of a stage all but one would go. No
            # public setting changes that; where this one is gone, stages are as right, and start more slowly.
            cache: Any = getattr(tune_controller, "_actor_cache", None)
            if hasattr(cache, "increase_max"):
                cache.increase_max(trial.placement_group_factory, by=self._places)
            self._keeps = True
        self._waiting.append(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial's worker died; Tune starts the trial again, or tells `_Proposals` that it is over."""
        # Tune's own `get_error` reads a copy that may not have been made yet.
        file = Path(trial.error_file or "")
        lines = file.read_text(encoding="utf-8").strip().splitlines() if file.is_file() else []
        if lines:
            self._proposals.deaths[trial.trial_id] = lines[-1].strip()

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


@contextmanager
def _interruptible(end: _End) -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM into an orderly end; a second one ends the process as usual."""
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.getsignal(number) for number in signals}

        def want(number: int, frame: FrameType | None) -> None:
            end.reason = end.reason or Interrupted()
            for each in signals:
                signal.signal(each, before[each])

        for number in signals:
            signal.signal(number, want)
    except ValueError:  # Not the main thread, which alone may handle signals.
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what Tune says of its own workings and a user cannot mend."""
    loud = [logging.getLogger(name) for name in ("ray.tune", "ray.air", "ray.train")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
