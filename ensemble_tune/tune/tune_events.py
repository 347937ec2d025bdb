"""What Tune tells of its trials while they run, and what it is told of who goes on and in which worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from ensemble_tune.tune.tune_hooks import Proposals
from ensemble_tune.tune.tune_workers import TuneWorkers

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class Events(TrialScheduler):
    """Passes rows to the conductor, and its decisions to Tune."""

    def __init__(self, proposals: Proposals, workers: TuneWorkers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._proposals = proposals
        self._workers = workers
        self._waiting: list[TuneTrial] = []

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Called for every result but a trial's last, which only says that there are no more epochs."""
        if not self._proposals.pass_on(result):
            return self.STOP
        actor = trial.temporary_state.ray_actor
        if self._proposals.must_move(trial.trial_id, result) and actor is not None:
            # To Tune its worker has died, and so the trial is given to another one.
            ray.kill(actor)
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Called before `Proposals.on_trial_complete`; a last result may bring rows too."""
        self._proposals.pass_on(result)
        # Tune keeps a worker for a trial that it knows of and that makes the same request; so it is told of one.
        follower = self._proposals.keeps_worker(trial.trial_id)
        if follower is not None:
            self._workers.hand_over(tune_controller, trial, follower)
        elif self._proposals.rests:
            self._workers.stay(tune_controller, trial)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial waits for a place."""
        # Where trials have shares of their own, an idle worker's share may be what another trial waits for.
        keep = self._proposals.places if self._proposals.alike and not self._proposals.grows else 0
        self._workers.keep(tune_controller, trial, keep)
        self._waiting.append(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial's worker died; called before `Proposals.on_trial_complete`."""
        # Tune's own `get_error` reads a copy that may not have been made yet.
        file = Path(trial.error_file or "")
        if file.is_file() and (why := file.read_text(encoding="utf-8", errors="replace").strip()):
            self._proposals.why[trial.trial_id] = why

    def on_trial_remove(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Nothing to do: Tune tells `Proposals`."""

    def choose_trial_to_run(self, tune_controller: TuneController, **kwargs: Any) -> TuneTrial | None:
        """The trial that has waited longest: Tune itself would give a freed worker to the newest.

        A trial whose own worker is on its way comes behind the others: Tune would end that worker, so that with short
        trials none but the first would ever arrive.
        """
        self._proposals.look(tune_controller)
        self._workers.handed_over(tune_controller, self._proposals.coming)
        self._waiting = [trial for trial in self._waiting if trial.status == TuneTrial.PENDING]
        others = [trial for trial in self._waiting if not self._workers.is_starting(tune_controller, trial)]
        self._workers.make_way(tune_controller, others)
        return next(iter(others or self._waiting), None)

    def debug_string(self) -> str:
        """Shown by Tune's own output, which is off."""
        return "decisions by ensemble_tune"
