"""A search: one stage's trials over one space, resumable from its run folder."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.storage import Location, location
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.budget import Budget
from ensemble_tune.tune.conductor import Conductor
from ensemble_tune.tune.decisions import ALL_ENDED, Goal
from ensemble_tune.tune.known_first import KnownFirst, nearest
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import GIVEN, Mode, Objective, Status, TrialRecord, Worth, best_of
from ensemble_tune.tune.resources import Requirements
from ensemble_tune.tune.sampler import NoSampler, Sampler, make_sampler
from ensemble_tune.tune.scheduler import Scheduler, make_scheduler
from ensemble_tune.tune.search_space import SearchSpace
from ensemble_tune.tune.trial_folder import CHECKPOINTS, unwritten
from ensemble_tune.tune.warm_start import read_warm_start
from ensemble_tune.tune.watcher import Watcher
from ensemble_tune.tune.workers import Workers

_FROM = ("split", "data")
"""Of a trial's provenance, what all trials of a stage must share; the one with the clearer remedy first."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search ended with."""

    records: list[TrialRecord]
    """Every trial of the stage, by number."""
    best: TrialRecord | None
    """The best trial that ended well, or None."""
    reason: str
    """Why the search ended."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One stage's trials, kept in a run folder.

    The sampler proposes parameters from `space`; `points` are given ones, run before. Without a space, the points are
    all. Calling `run` again on the same folder goes on: a point that has a trial there is not run again.
    """

    trial: Trial
    metric: str
    """The score to make better; the scheduler follows it."""
    mode: Mode = "max"
    also: tuple[Objective, ...] = ()
    """Further scores to make better: the sampler then looks for the best compromises."""
    out: Location
    """The run folder; a text will do."""
    max_epochs: int
    """The longest trial's epochs; schedulers need it."""
    space: SearchSpace | None = None
    trials: int = 0
    """How many trials the sampler proposes in all, those of earlier calls included; given ones come on top."""
    points: Sequence[Mapping[str, Value]] = ()
    """Given parameters; a seed may be among them."""
    start: Mapping[str, Value] = field(default_factory=dict)
    """Known good values: the first proposal, after the points, is the point of the space that is nearest to them. It
    counts among `trials`, and is not made where a warm start is given, which knows more."""
    sampler: str = "random"
    """Who proposes: of those that take next to no time, this and asha-promote spent a budget best on the curves of
    LCBench. gp was far better there (`benchmarks/quality.py`), and takes longer for a proposal than a quick trial."""
    scheduler: str | None = None
    """Who is stopped early; None is asha-promote, and where the points are all nobody."""
    grace: int | None = None
    """Epochs before the scheduler may stop or pause a trial; None is the scheduler's own choice."""
    factor: int = 3
    """One in so many trials goes on from a rung."""
    budget: Budget = field(default_factory=Budget)
    warm_start: Location | None = None
    """A run folder whose trials of the same stage teach the sampler."""
    seed: int = 0
    stage: str = "search"
    keep: int = 12
    """How many of the best trials keep a checkpoint."""
    worth: Worth = "best"
    workers: Workers = field(default_factory=Workers)
    """Where trials run; searches that follow each other may share them."""
    requirements: Requirements | None = None
    """Each trial's share by its parameters; None gives all the same, the workers', but for trials that say themselves
    what they take of a GPU (`SizedTrial`)."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Written into every trial's row, for example the digest of the data."""
    again: bool = False
    """Whether a point whose trial has finished is run once more."""
    comparable: tuple[str, ...] = ()
    """Parameters that all trials of the stage must share."""
    protected: frozenset[str] = frozenset()
    """Trials whose checkpoint is never removed."""
    belongs: Callable[[TrialRecord], bool] = lambda record: True
    """Whether a trial of the stage is this search's; no other is counted, resumed if it was interrupted, or removed."""
    on_end: Callable[[TrialRecord], None] = lambda record: None
    """Called with every trial that ends."""
    say: Callable[[str], None] = lambda line: None
    """Called with what a person may want to know: the most it may cost, why it ended."""
    watcher: Watcher = field(default_factory=Watcher)
    """Looks on while it runs."""
    prepare: Callable[[], None] = lambda: None
    """Called before the first trial starts, where there is one to train."""

    def __post_init__(self) -> None:
        for name in ("out", "warm_start"):  # a text will do
            if getattr(self, name) is not None:
                object.__setattr__(self, name, location(getattr(self, name)))

    def check(self) -> None:
        """Raises ConfigError or RunError where `run` would before any trial: for whoever must train something first."""
        replace(self, say=lambda line: None)._sampler(())
        self._scheduler()
        self.budget.check(self._goal().objectives)
        self._refuse_other_settings(Ledger(self.out / LEDGER).trials(self.stage))

    def run(self) -> SearchResult:
        """Trains until every trial has ended or the budget is used up. Raises ConfigError, RunError or Interrupted."""
        ledger = Ledger(self.out / LEDGER)
        ledger.open()
        try:
            checkpoints = self.out.absolute() / CHECKPOINTS
            before = ledger.trials(self.stage)
            before += unwritten(checkpoints, self.stage, {record.trial for record in before})
            self._refuse_other_settings(before)
            conductor = Conductor(
                self._goal(),
                sampler=self._sampler(before),
                scheduler=self._scheduler(),
                ledger=ledger,
                checkpoints=checkpoints,
                trials=self.trials,
                max_epochs=None if self.space is None else self.max_epochs,
                budget=self.budget,
                points=self._missing(before),
                provenance=self._provenance(),
                protected=self.protected,
                belongs=self.belongs,
                on_start=self._tell_the_most,
                on_end=self.on_end,
                watcher=self.watcher,
            )
            if not conductor.done:
                self.watcher.begins(conductor.session, conductor.records(), conductor.before)
                try:
                    self._train(conductor)
                finally:
                    self.watcher.ends(conductor.session)
            elif conductor.reason != ALL_ENDED:  # what an earlier call used, or found, is enough
                conductor.close()
                self.say(f"{self.stage} search ends: {conductor.reason}")
        finally:
            ledger.close()
        records = conductor.records()
        return SearchResult(records=records, best=best_of(records, self.mode), reason=conductor.reason or "")

    def _train(self, conductor: Conductor) -> None:
        """Runs a conductor to its end, and has the reason written down."""
        try:
            with self.workers:
                self.prepare()
                self.workers.run(conductor, self.trial, self.requirements)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            conductor.interrupt(reason.splitlines()[0])
            with suppress(RunError):  # the first error is the one to mend
                conductor.close()
            raise
        conductor.close()
        if self.space is not None:
            self.say(f"{self.stage} search ends: {conductor.reason}")

    def _tell_the_most(self, places: int) -> None:
        """Says what the search may cost, before it starts."""
        if self.space is not None:
            trials = self.trials + len(self.points)
            most = self.budget.at_most(trials=trials, max_epochs=self.max_epochs, slots=places)
            self.say(f"{self.stage} search: {most}")

    def _goal(self) -> Goal:
        return Goal(
            stage=self.stage,
            metric=self.metric,
            mode=self.mode,
            also=self.also,
            keep=self.keep,
            sampler=GIVEN if self.space is None else self.sampler,
            worth=self.worth,
            seed=self.seed,
        )

    def _sampler(self, before: Sequence[TrialRecord]) -> Sampler:
        """before: the stage's trials, those of other searches too."""
        if self.space is None:
            return NoSampler()
        if "seed" in self.space.names:
            raise ConfigError("no parameter of a space is called seed, since each trial has its own; rename it")
        objectives = self._goal().objectives
        sampler = make_sampler(self.sampler, self.space, seed=self.seed, objectives=objectives)
        if self.warm_start is not None:
            taught = read_warm_start(self.warm_start, self.space, stage=self.stage, objective=objectives[0])
            for record, curve in taught.trials:
                sampler.observe(record, curve)
            self.say(f"{self.stage} search {taught.summary} of {self.warm_start}")
        elif self.start and not any(record.sampler != GIVEN and self.belongs(record) for record in before):
            first = max((record.number + 1 for record in before), default=0) + len(self._missing(before))
            return KnownFirst(nearest(self.start, self.space), sampler, number=first)
        return sampler

    def _scheduler(self) -> Scheduler:
        name = self.scheduler or ("none" if self.space is None else "asha-promote")
        return make_scheduler(name, max_epochs=self.max_epochs, mode=self.mode, grace=self.grace, factor=self.factor)

    def _provenance(self) -> dict[str, str]:
        return {
            **versions(),
            **({"space": self.space.digest()} if self.space is not None else {}),
            **self.provenance,
        }

    def _missing(self, before: Sequence[TrialRecord]) -> list[Mapping[str, Value]]:
        """The points that have no trial yet; a failed one counts as none."""
        unfinished = (Status.RUNNING, Status.PAUSED)
        counts = unfinished if self.again else (*unfinished, Status.FINISHED, Status.STOPPED)
        known = [record for record in before if record.status in counts]
        return [point for point in self.points if not any(record.is_of(point) for record in known)]

    def _refuse_other_settings(self, before: Sequence[TrialRecord]) -> None:
        """A run folder holds trials that can be compared. Raises RunError where this search's could not be."""
        given = [self.space.fixed_values()] if self.space is not None else list(self.points)
        for values in given:
            now: dict[str, Value | None] = {name: self.provenance.get(name) for name in _FROM}
            now |= {name: values.get(name) for name in self.comparable}
            for record in before:
                then: dict[str, Value | None] = {name: record.params.get(name) for name in now}
                then |= {name: record.provenance.get(name) for name in _FROM}
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
