"""A search: one stage's trials over one space, resumable from its run folder."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.conductor import Conductor, Goal, best_of
from ensemble_tune.tune.ledger import Ledger
from ensemble_tune.tune.record import TrialRecord
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.sampler import ListSampler, OptunaSampler, Sampler
from ensemble_tune.tune.scheduler import make_scheduler
from ensemble_tune.tune.search_space import SearchSpace

LEDGER = "ledger"
CHECKPOINTS = "checkpoints"


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

    `space` proposes parameters, or `points` alone when it is None. Calling `run` again on the same folder goes on.
    """

    trial: Trial
    goal: Goal
    out: Path
    max_epochs: int
    """The longest trial's epochs; schedulers need it."""
    space: SearchSpace | None = None
    points: Sequence[Mapping[str, Value]] = ()
    """Parameters to try before any proposal of the sampler."""
    sampler: str = "tpe"
    scheduler: str = "none"
    resources: Resources = field(default_factory=Resources)
    address: str | None = None
    """A Ray cluster; None starts Ray on this machine."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Written into every trial's row, for example the digest of the data."""
    protected: frozenset[str] = frozenset()
    """Trials whose checkpoint is never removed."""

    def run(self) -> SearchResult:
        """Trains until the goal's number of trials has ended. Raises ConfigError, RunError or Interrupted."""
        ledger = Ledger(self.out / LEDGER)
        ledger.open()
        try:
            self._refuse_other_settings(ledger)
            conductor = Conductor(
                self.goal,
                sampler=self._sampler(),
                scheduler=make_scheduler(self.scheduler, max_epochs=self.max_epochs, mode=self.goal.mode),
                ledger=ledger,
                checkpoints=self.out.absolute() / CHECKPOINTS,
                points=self.points,
                provenance=self._provenance(),
                protected=self.protected,
            )
            if not conductor.exhausted:
                # Imported here: a finished search needs no Ray.
                from ensemble_tune.tune.ray_runner import run_on_ray, start_ray

                start_ray(self.address)
                run_on_ray(conductor, self.trial, self.resources)
        finally:
            ledger.close()
        return SearchResult(records=conductor.records(), best=best_of(conductor.records(), self.goal.mode))

    def _sampler(self) -> Sampler:
        if self.space is None:
            if self.goal.trials > len(self.points):
                raise ConfigError(f"{self.goal.trials} trials need a search space or as many points")
            return ListSampler(self.points)
        return OptunaSampler(self.space, name=self.sampler, seed=self.goal.seed, mode=self.goal.mode)

    def _provenance(self) -> dict[str, str]:
        return {
            **versions(),
            **({"space": self.space.digest()} if self.space is not None else {}),
            **self.provenance,
        }

    def _refuse_other_settings(self, ledger: Ledger) -> None:
        """A run folder holds trials that can be compared: same data, same fixed parameters. Raises RunError."""
        fixed = {p.name: p.choices[0] for p in self.space.parameters if len(p.choices) == 1} if self.space else {}
        for record in ledger.trials(self.goal.stage)[len(self.points) :]:
            before = {"data": record.provenance.get("data")} | {name: record.params.get(name) for name in fixed}
            now = {"data": self.provenance.get("data")} | fixed
            for name, value in now.items():
                if before[name] is not None and value is not None and before[name] != value:
                    raise RunError(
                        f"a run folder holds trials that can be compared, but {record.trial} in {self.out} has "
                        f"{name} {before[name]} and this command has {value}; use the same {name} or another --out"
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
