"""Runs a conductor's trials on Ray Tune; with trainable.py the only file that knows Tune's interfaces.

Tune places trials, restarts those whose worker died, and keeps workers warm. It decides nothing and remembers nothing:
what runs and who goes on is the conductor's, what happened is the ledger's and the checkpoints'.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Trial
from ensemble_tune.tune.conductor import Conductor
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
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a search in order; the same command goes on where it stopped."""


class _StopTuneError(Exception):
    """Ends Tune's loop by the one way after which it cleans up."""


def start_ray(address: str | None = None) -> None:
    """Joins the cluster at `address`, or starts Ray on this machine; no-op where Ray runs. Raises ConfigError."""
    os.environ.update(_TUNE_SETTINGS)
    if ray.is_initialized():
        return
    local: dict[str, Any] = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    joins = address or os.environ.get("RAY_ADDRESS")
    try:
        if joins:
            _knock(joins)
        ray.init(
            # "local", since with none at all Ray joins whatever cluster `ray start` has left on this machine.
            address=address if joins else "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if joins else local),
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if joins:
            raise ConfigError(
                f"no Ray cluster answers at {joins!r} ({reason}); check --address or leave it out, and export "
                "RAY_AUTH_MODE=token where the cluster asks for a token"
            ) from None
        raise ConfigError(f"Ray does not start on this machine ({reason}); see /tmp/ray/session_latest/logs") from None


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def run_on_ray(conductor: Conductor, trial: Trial, resources: Resources) -> None:
    """Trains every trial that the conductor assigns; Ray has been started. Raises Interrupted on Ctrl-C and SIGTERM."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources = resources.on(nodes)
    places = resources.slots(nodes)
    # Each waiting trial asks Ray for its place, so one more than fits is proposed before a place is free.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(places + 1)
    trainable = tune.with_parameters(RayTrial, trial=trial, goal=conductor.goal, checkpoints=conductor.checkpoints)
    events = _Events(conductor)
    with tempfile.TemporaryDirectory(prefix="ensemble-tune-") as scratch, _interruptible() as interrupt, _quiet():
        try:
            tune.run(
                tune.with_resources(trainable, tune.PlacementGroupFactory([resources.bundle()])),
                search_alg=_Proposals(conductor, events, places + 1),
                scheduler=events,
                callbacks=[interrupt],
                storage_path=scratch,
                name="stage",
                reuse_actors=True,
                max_failures=_WORKER_DEATHS,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except _StopTuneError:
            raise Interrupted from None


class _Proposals(SearchAlgorithm):
    """Turns assignments into Tune trials under our own ids."""

    def __init__(self, conductor: Conductor, events: _Events, limit: int) -> None:
        self._conductor = conductor
        self._events = events
        self._limit = limit
        self._spec: dict[str, Any] = {}

    def add_configurations(self, experiments: Experiment | list[Experiment] | dict[str, dict[str, Any]]) -> None:
        """Tune's one experiment: what all trials share."""
        if not isinstance(experiments, list):
            raise TypeError(f"Tune gives a list of one experiment, but gave {type(experiments).__name__}")
        self._spec = experiments[0].spec

    def next_trial(self) -> TuneTrial | None:
        """The next assignment, unless enough trials are under way."""
        if len(self._events.live) >= self._limit:
            return None
        assignment = self._conductor.next()
        if assignment is None:
            return None
        self._events.live.add(assignment.trial)
        return TuneTrial(
            self._spec["run"],
            config={"assignment": assignment},
            trial_id=assignment.trial,
            placement_group_factory=self._spec["resources_per_trial"],
            storage=self._spec["storage"],
            checkpoint_config=self._spec["checkpoint_config"],
            max_failures=_WORKER_DEATHS,
            stub=False,
        )

    def is_finished(self) -> bool:
        """Whether nothing is left to propose."""
        return self._conductor.exhausted

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's end, however it came."""
        self._events.live.discard(trial_id)
        report = (result or {}).get(REPORT)
        if error:
            why = self._events.deaths.get(trial_id, "see Ray's logs")
            self._conductor.ended(trial_id, f"its worker died {_WORKER_DEATHS + 1} times; the last time: {why}")
        elif isinstance(report, Report) and report.error:
            log.info("%s failed: %s\n%s", trial_id, report.error, report.details)
            self._conductor.ended(trial_id, report.error)
        else:
            self._conductor.ended(trial_id)


class _Events(TrialScheduler):
    """Passes rows to the conductor, and its decisions to Tune."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._conductor = conductor
        self.live: set[str] = set()
        """Trials that were proposed and have not ended."""
        self.deaths: dict[str, str] = {}
        """Why a trial's worker died the last time."""
        self._waiting: deque[TuneTrial] = deque()

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Called for every result but a trial's last, which only says that there are no more epochs."""
        return self.CONTINUE if self._pass_on(result) else self.STOP

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Called before `_Proposals.on_trial_complete`; a last result may bring rows too."""
        self._pass_on(result)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial waits for a place: a new one, or one whose worker died."""
        self._waiting.append(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial's worker died; Tune starts the trial again, or tells `_Proposals` that it is over."""
        # Tune's own `get_error` reads a copy that may not have been made yet.
        file = Path(trial.error_file or "")
        lines = file.read_text(encoding="utf-8").strip().splitlines() if file.is_file() else []
        if lines:
            self.deaths[trial.trial_id] = lines[-1].strip()

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

    def _pass_on(self, result: dict[str, Any]) -> bool:
        report = result.get(REPORT)
        rows = report.rows if isinstance(report, Report) else ()
        goes_on = True
        for row in rows:
            goes_on = self._conductor.epoch(row) and goes_on
        return goes_on


class _Interrupt(Callback):
    """Ends the run at its next step after a signal, and does not wait for the epochs in progress."""

    def __init__(self) -> None:
        self.wanted = False

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called by Tune about ten times a second."""
        if self.wanted:
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    ray.kill(actor)
            raise _StopTuneError


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Turns the first SIGINT or SIGTERM into an orderly end; a second one ends the process as usual."""
    interrupt = _Interrupt()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.getsignal(number) for number in signals}

        def want(number: int, frame: FrameType | None) -> None:
            interrupt.wanted = True
            for each in signals:
                signal.signal(each, before[each])

        for number in signals:
            signal.signal(number, want)
    except ValueError:  # Not the main thread, which alone may handle signals.
        yield interrupt
        return
    try:
        yield interrupt
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
