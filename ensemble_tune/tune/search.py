"""A search: one stage's trials over one space, resumable from its run folder."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ensemble_tune.errors import RunError
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.conductor import Conductor, Goal
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, TrialRecord, best_of
from ensemble_tune.tune.sampler import NoSampler, OptunaSampler, Sampler
from ensemble_tune.tune.scheduler import Scheduler, make_scheduler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.trial_folder import CHECKPOINTS
from ensemble_tune.tune.workers import Workers


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search ended with."""

    records: list[TrialRecord]
    """Every trial of the stage, by number."""
    best: TrialRecord | None
    """The best trial that ended well, or None."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One stage's trials, kept in a run folder.

    The sampler proposes parameters from `space`; `points` are given ones, run before. Without a space, the points are
    all. Calling `run` again on the same folder goes on: a point that has a trial there is not run again.
    """

    trial: Trial
    goal: Goal
    out: Path
    max_epochs: int
    """The longest trial's epochs; schedulers need it."""
    space: SearchSpace | None = None
    points: Sequence[Mapping[str, Value]] = ()
    """Given parameters; a seed may be among them."""
    scheduler: str = "none"
    workers: Workers = field(default_factory=Workers)
    """Where trials run; searches that follow each other may share them."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Written into every trial's row, for example the digest of the data."""
    again: bool = False
    """Whether a point whose trial has finished is run once more."""
    comparable: tuple[str, ...] = ()
    """Parameters that all trials of the stage must share."""
    protected: frozenset[str] = frozenset()
    """Trials whose checkpoint is never removed."""
    belongs: Callable[[TrialRecord], bool] = lambda record: True
    """Whether a trial of the stage is this search's; no other is counted, or resumed if it was interrupted."""
    on_end: Callable[[TrialRecord], None] = lambda record: None
    """Called with every trial that ends."""

    def check(self) -> None:
        """Raises ConfigError or RunError where `run` would before any trial: for whoever must train something first."""
        self._sampler()
        self._scheduler()
        self._refuse_other_settings(Ledger(self.out / LEDGER).trials(self.goal.stage))

    def run(self) -> SearchResult:
        """Trains until every trial has ended. Raises ConfigError, RunError or Interrupted."""
        ledger = Ledger(self.out / LEDGER)
        ledger.open()
        try:
            before = ledger.trials(self.goal.stage)
            self._refuse_other_settings(before)
            conductor = Conductor(
                self.goal,
                sampler=self._sampler(),
                scheduler=self._scheduler(),
                ledger=ledger,
                checkpoints=self.out.absolute() / CHECKPOINTS,
                points=self._missing(before),
                provenance=self._provenance(),
                protected=self.protected,
                belongs=self.belongs,
                on_end=self.on_end,
            )
            if not conductor.exhausted:
                with self.workers:
                    self.workers.run(conductor, self.trial)
        finally:
            ledger.close()
        return SearchResult(records=conductor.records(), best=best_of(conductor.records(), self.goal.mode))

    def _sampler(self) -> Sampler:
        if self.space is None:
            return NoSampler()
        return OptunaSampler(self.space, name=self.goal.sampler, seed=self.goal.seed, mode=self.goal.mode)

    def _scheduler(self) -> Scheduler:
        return make_scheduler(self.scheduler, max_epochs=self.max_epochs, mode=self.goal.mode)

    def _provenance(self) -> dict[str, str]:
        return {
            **versions(),
            **({"space": self.space.digest()} if self.space is not None else {}),
            **self.provenance,
        }

    def _missing(self, before: Sequence[TrialRecord]) -> list[Mapping[str, Value]]:
        """The points that have no trial yet; a failed one counts as none."""
        counts = (Status.RUNNING,) if self.again else (Status.RUNNING, Status.FINISHED, Status.STOPPED)
        known = [record for record in before if record.status in counts]
        return [point for point in self.points if not any(record.is_of(point) for record in known)]

    def _refuse_other_settings(self, before: Sequence[TrialRecord]) -> None:
        """A run folder holds trials that can be compared. Raises RunError where this search's could not be."""
        given = [self.space.fixed_values()] if self.space is not None else list(self.points)
        for values in given:
            now = {"data": self.provenance.get("data")} | {name: values.get(name) for name in self.comparable}
            for record in before:
                then = {name: record.params.get(name) for name in now} | {"data": record.provenance.get("data")}
                for name, value in now.items():
                    if value is not None and then[name] is not None and then[name] != value:
                        raise RunError(
                            f"a run folder holds trials that can be compared, but {record.trial} in {self.out} has "
                            f"{name} {then[name]} and this command has {value}; use the same {name} or another --out"
                        )


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and the git commit of the working folder if any."""
    found = {"python": platform.python_version()}
    for package in ("ensemble-tune", "torch", "segmentation-models-pytorch", "albumentations", "ray", "optuna"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return found
