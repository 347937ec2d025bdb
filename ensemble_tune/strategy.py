"""How a stage is searched: who proposes, who is stopped, what it is after, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ensemble_tune.defaults import defaults_of
from ensemble_tune.errors import ConfigError
from ensemble_tune.settings import METRIC, Settings
from ensemble_tune.storage import Location
from ensemble_tune.trial import Trial, Value
from ensemble_tune.tune.budget import Budget
from ensemble_tune.tune.given import load_points
from ensemble_tune.tune.record import Objective, TrialRecord
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a stage is searched."""

    sampler: str | None = None
    """Who proposes: random, tpe, qmc, gp or grid; None is the stage's own choice."""
    scheduler: str | None = None
    """Who is stopped early: asha-promote, asha, median or none; None is the stage's own choice."""
    grace: int | None = None
    """Epochs before a trial may be stopped or paused; None is the stage's own choice."""
    factor: int | None = None
    """One in so many trials goes on from a rung; None is the stage's own choice."""
    objectives: tuple[Objective, ...] = (Objective(METRIC),)
    """Scores to make better; schedulers and leaderboards follow the first."""
    budget: Budget = field(default_factory=Budget)
    points: Path | None = None
    """A TOML file of parameters to start from."""
    warm_start: Location | None = None
    """Another run's folder, to learn from."""
    keep: int = 12
    """How many of the best trials keep their weights."""

    def __post_init__(self) -> None:
        if not self.objectives or self.objectives[0].mode != "max":
            raise ConfigError("the first objective must be a score that is better the higher it is; try miou")
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ConfigError(f"objectives must differ, but got {', '.join(names)}; name each once")
        if self.keep < 1:
            raise ConfigError(f"--keep must be at least 1, but got {self.keep}")

    def search(
        self,
        settings: Settings,
        *,
        trial: Trial,
        stage: str,
        max_epochs: int,
        space: SearchSpace,
        trials: int,
        provenance: Mapping[str, str],
        comparable: tuple[str, ...],
        points: Sequence[Mapping[str, Value]] = (),
        start: Mapping[str, Value] | None = None,
        protected: frozenset[str] = frozenset(),
        belongs: Callable[[TrialRecord], bool] = lambda record: True,
        prepare: Callable[[], None] = lambda: None,
    ) -> Search:
        """A stage's search. Raises ConfigError for wrong points."""
        own = defaults_of(stage)
        given = load_points(self.points, space) if self.points is not None else []
        return Search(
            trial=trial,
            metric=self.objectives[0].metric,
            also=self.objectives[1:],
            out=settings.out,
            max_epochs=max_epochs,
            space=space,
            trials=trials,
            points=[*points, *given],
            start=start or {},
            sampler=self.sampler or own.sampler,
            scheduler=self.scheduler or own.scheduler,
            grace=own.grace(max_epochs) if self.grace is None else self.grace,
            factor=own.factor if self.factor is None else self.factor,
            budget=self.budget,
            warm_start=self.warm_start,
            seed=settings.seed,
            stage=stage,
            keep=self.keep,
            workers=settings.workers,
            provenance=provenance,
            comparable=comparable,
            protected=protected,
            belongs=belongs,
            on_end=settings.on_trial,
            say=settings.say,
            watcher=settings.watcher,
            prepare=prepare,
        )
